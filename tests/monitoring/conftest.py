"""A real service that has had some traffic, and a real Prometheus that has scraped it before and after."""

import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from api.harness import SECRET, Service, csv_of, make_codes, new_campaign, running
from api.world import World
from pymongo import MongoClient

from .rulefiles import rules
from .scraping import Prometheus, prometheus

CODES = 5_000
INVALID_ROWS = 3
RESERVES = 7
RESERVED_EACH = 10


@dataclass(frozen=True, slots=True)
class Scraped:
    """A service after its traffic, and who watched it."""

    service: Service
    prometheus: Prometheus
    campaign: str


@pytest.fixture(scope="session")
def world(
    mongo_uri: str,
    mongo: MongoClient[dict[str, Any]],
    s3_endpoint: str,
    s3: Any,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[World]:
    """A service of this folder's own, so that nobody else's requests are counted."""
    name = f"monitoring-{uuid.uuid4().hex}"
    s3.create_bucket(Bucket=name)
    settings = {
        "CODESVC_MONGO_URI": mongo_uri,
        "CODESVC_MONGO_DATABASE": name,
        "CODESVC_S3_BUCKET": name,
        "CODESVC_S3_ENDPOINT_URL": s3_endpoint,
        "CODESVC_JWT_SECRET": SECRET,
        "CODESVC_STOCK_INTERVAL": "0.5",
    }
    log = tmp_path_factory.mktemp("service") / "service.log"
    with running(Service(log, **settings)) as service:
        yield World(service, mongo[name], s3, name)
    mongo.drop_database(name)


@pytest.fixture(scope="session")
def scraped(
    world: World, program: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Scraped]:
    """The service, after traffic of which every number is known, and after a scrape and the rules that followed it."""
    service, campaign = world.service, new_campaign()
    directory = tmp_path_factory.mktemp("prometheus")
    with prometheus(program("prometheus"), directory, f"127.0.0.1:{service.port}") as server:
        # A counter that was never scraped before it grew has no rate.
        traffic(world, new_campaign())
        reserves = 'http_request_count{path="/v1/{campaignId}/reserve"}'
        server.eventually(lambda: server.value(reserves) == RESERVES)
        traffic(world, campaign)
        server.eventually(lambda: server.value(reserves) == 2 * RESERVES)
        # Rules look at what was scraped, one group after another.
        for rule in rules():
            if rule.record is not None:
                server.eventually(partial(server.series, rule.record))
        yield Scraped(service, server, campaign)


def traffic(world: World, campaign: str) -> None:
    """Upload, reserve, assign, release and count; ask for what is not there, and without a token."""
    service = world.service
    broken = csv_of(f'"{number}" x' for number in range(INVALID_ROWS))
    assert world.upload(campaign, csv_of(make_codes(CODES)) + broken).status == 200
    reserved = [service.reserve(campaign, RESERVED_EACH)["codes"] for _ in range(RESERVES)]
    service.change(campaign, "assign", [code["code"] for code in reserved[0]])
    service.change(campaign, "release", [code["code"] for code in reserved[1]])
    service.count(campaign)
    assert service.upload(f"codes/{campaign}/tm/none.csv").status == 404
    assert service.get(f"/v1/{campaign}/codes/count?type=tm", auth=None).status == 401
    assert service.get("/readyz").status == 200

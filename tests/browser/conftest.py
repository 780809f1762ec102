"""A real Chromium in front of a real service, whose bucket is behind a proxy that can hold an upload up."""

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from api.harness import SECRET, Document, Service, make_codes, new_campaign, running
from api.proxy import Proxy
from api.world import World
from playwright.sync_api import Browser, sync_playwright
from pymongo import MongoClient

from .visit import Visit

_FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--in-process-gpu"),
)


# NOTE: scopes of this package and not of the session: as long as Playwright is started, a loop runs in this thread, and
# no asynchronous test of another folder could.
@pytest.fixture(scope="package")
def chromium(program: Callable[..., Path]) -> Iterator[Browser]:
    """The machine's Chromium; nothing is downloaded."""
    executable = program("chromium", "chromium-browser", "google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=list(_FLAGS))
        yield browser
        browser.close()


@pytest.fixture(scope="package")
def s3_proxy(s3_endpoint: str) -> Iterator[Proxy]:
    """What stands between the service and S3."""
    with Proxy(int(s3_endpoint.rpartition(":")[2])) as proxy:
        yield proxy


@pytest.fixture(scope="package")
def world(
    mongo: MongoClient[Document],
    mongo_uri: str,
    s3: Any,
    s3_proxy: Proxy,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[World]:
    """The service, for development, with parts and batches small enough to stop an upload in its middle."""
    bucket = f"browser-{uuid.uuid4().hex}"
    s3.create_bucket(Bucket=bucket)
    database = f"browser-{uuid.uuid4().hex}"
    settings = {
        "CODESVC_DEV": "1",
        "CODESVC_MONGO_URI": mongo_uri,
        "CODESVC_MONGO_DATABASE": database,
        "CODESVC_S3_BUCKET": bucket,
        "CODESVC_S3_ENDPOINT_URL": f"http://127.0.0.1:{s3_proxy.port}",
        "CODESVC_JWT_SECRET": SECRET,
        "CODESVC_READ_PART_SIZE": "131072",
        "CODESVC_READ_CONCURRENCY": "2",
        "CODESVC_BATCH_SIZE": "5000",
        "CODESVC_SORT_CODES": "20000",
        "CODESVC_MAX_RESERVE": "500",
    }
    log = tmp_path_factory.mktemp("browser") / "service.log"
    with running(Service(log, **settings)) as service:
        yield World(service, mongo[database], s3, bucket)
    mongo.drop_database(database)


@pytest.fixture
def campaign(world: World) -> str:
    """A campaign of this test's own, with 30 codes of one type and 20 of the other."""
    name = new_campaign()
    world.stock(name, make_codes(30))
    world.stock(name, make_codes(20), code_type="external")
    return name


@pytest.fixture
def halfway(s3_proxy: Proxy) -> Iterator[Proxy]:
    """S3 stops in the middle of the next file, until the proxy is told to go on."""
    s3_proxy.stall_after(1_500_000)
    yield s3_proxy
    s3_proxy.resume()


@pytest.fixture
def new_visit(chromium: Browser, world: World) -> Iterator[Callable[..., Visit]]:
    """Opens a browser with nothing in it; at the end, everything that it complained of is a failure."""
    visits: list[Visit] = []

    def make(*, width: int = 1440, scheme: str = "light") -> Visit:
        visits.append(Visit(chromium, world.service, width=width, scheme=scheme))
        return visits[-1]

    try:
        yield make
        for visit in visits:
            visit.check()
    finally:
        for visit in visits:
            visit.close()


@pytest.fixture
def visit(new_visit: Callable[..., Visit]) -> Visit:
    """A wide, light window."""
    return new_visit()

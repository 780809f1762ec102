"""Codes and tokens are secrets: what the service writes and exports tells none of them."""

import json
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient

from .harness import CODE_MARK, Document, Service, csv_of, eventually, make_codes, new_campaign, token
from .otlp import CALLER, Receiver, receiving_http
from .world import World


def every_kind_of_request(world: World) -> str:
    """Use every route, well and badly, with codes in every place a careless caller may put them."""
    service = world.service
    campaign = new_campaign()
    codes = make_codes(30)
    world.stock(campaign, codes)
    world.upload(campaign, csv_of([*codes, f"{CODE_MARK}\x01"]))
    world.upload(campaign, csv_of([f"{CODE_MARK}\x01"]), strict=True)
    world.upload(campaign, f'{codes[0]}\n"{CODE_MARK}{"x" * (5 << 20)}'.encode())
    lent = [item["code"] for item in service.reserve(campaign, 5)["codes"]]
    service.change(campaign, "assign", lent[:2])
    service.change(campaign, "release", lent[2:])
    service.count(campaign)
    code = codes[0]
    service.get(f"/v1/{campaign}/codes/{code}")
    service.get(f"/v1/{campaign}/codes?after={code}&limit=3")
    service.get(f"/v1/{campaign}/codes?after={code}&status={code}")
    for media_type in ("text/csv", "application/x-ndjson", "application/xml"):
        service.get(f"/v1/{campaign}/codes?after={code}", headers={"Accept": media_type})
    service.get(f"/v1/{code}%20/codes/count?type=tm")
    service.get(f"/{code}?secretly={code}")
    service.get(f"/v1/{campaign}/codes/count?type={code}&status={code}&access_token={token()}")
    service.get(f"/v1/{campaign}/reserve?count={code}&type=tm")
    service.get(f"/v1/{campaign}/codes/count?type=tm", auth=f"Bearer {token()}x")
    service.get(f"/v1/{campaign}/codes/count?type=tm", auth=token())
    service.get(f"/v1/{campaign}/codes/count?type=tm", auth=f"Bearer {code}")
    service.post(f"/v1/{campaign}/codes", {"fileKey": code})
    service.post(f"/v1/{campaign}/assign", {"codes": code})
    service.post(f"/v1/{campaign}/assign", {"codes": [code, 5]})
    service.post(f"/v1/{campaign}/assign", {"codes": [f"{code}\ud800"]})
    service.post(f"/v1/{campaign}/assign", body=f'{{"codes": ["{code}"'.encode())
    service.post(f"/v1/{campaign}/assign", body=code.encode(), headers={"Content-Type": code})
    service.get(
        "/livez", headers={"X-Forwarded-For": code, "Referer": f"https://x/?c={code}", "User-Agent": code}
    )
    return campaign


def test_the_log_tells_no_secret(world: World) -> None:
    campaign = every_kind_of_request(world)
    lines = eventually(
        lambda: [line for line in world.service.log_lines() if campaign in json.dumps(line)], limit=5
    )
    assert len(lines) > 10
    world.service.check_log()


def test_problems_repeat_no_secret(service: Service, campaign: str) -> None:
    code = make_codes(1)[0]
    for reply in (
        service.get(f"/v1/{campaign}/reserve?count={code}&type=tm"),
        service.get(f"/v1/{campaign}/reserve?count=1&type={code}"),
        service.get(f"/{code}"),
        service.post(f"/v1/{campaign}/assign", {"codes": [code, 5]}),
        service.post(f"/v1/{campaign}/assign", {"codes": code}),
        service.post(f"/v1/{campaign}/assign", body=f'["{code}"'.encode()),
        service.get(f"/v1/{campaign}/codes/count?type=tm", auth=f"Bearer {code}"),
    ):
        assert reply.status >= 400
        assert CODE_MARK not in reply.body.decode()
        assert CODE_MARK not in str(reply.headers)


def test_access_log(service: Service, campaign: str) -> None:
    correlation = uuid.uuid4().hex
    headers = {"X-Correlation-ID": correlation}
    service.get(f"/v1/{campaign}/codes/count?type=tm", headers=headers)
    (line,) = eventually(lambda: service.log_lines_of(correlation), limit=5)
    values = list(line.values())
    assert "GET" in values
    assert 200 in values
    assert "/v1/{campaignId}/codes/count" in values
    assert any(name.lower().startswith("duration") for name in line)


def test_a_log_line_for_every_request_of_a_failure(service: Service, campaign: str) -> None:
    correlation = uuid.uuid4().hex
    headers = {"X-Correlation-ID": correlation}
    service.get(f"/v1/{campaign}/codes/count?type=none", headers=headers)
    lines = eventually(lambda: service.log_lines_of(correlation), limit=5)
    assert any(400 in line.values() for line in lines)


@pytest.fixture(scope="module")
def collector() -> Iterator[Receiver]:
    with receiving_http() as receiver:
        yield receiver


@pytest.fixture(scope="module")
def traced(
    mongo: MongoClient[Document],
    s3: Any,
    api_bucket: str,
    api_settings: dict[str, str | None],
    logs: Path,
    collector: Receiver,
    new_database: Callable[[str], str],
) -> Iterator[World]:
    database = new_database("traced")
    settings = api_settings | {
        "CODESVC_MONGO_DATABASE": database,
        "CODESVC_BATCH_SIZE": "10",
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint,
        "OTEL_BSP_SCHEDULE_DELAY": "100",
    }
    service = Service(logs / "traced.log", **settings)
    try:
        yield World(service.start(), mongo[database], s3, api_bucket)
    finally:
        service.stop()


@pytest.mark.parametrize("action", ["count", "reserve", "assign", "release"])
def test_spans_of_a_small_request(traced: World, collector: Receiver, campaign: str, action: str) -> None:
    codes = make_codes(5)
    traced.stock(campaign, codes)
    trace, correlation = uuid.uuid4().hex, uuid.uuid4().hex
    headers = {"traceparent": f"00-{trace}-{CALLER}-01", "X-Correlation-ID": correlation}
    service = traced.service
    reply = {
        "count": lambda: service.get(f"/v1/{campaign}/codes/count?type=tm", headers=headers),
        "reserve": lambda: service.get(f"/v1/{campaign}/reserve?count=2&type=tm", headers=headers),
        "assign": lambda: service.post(f"/v1/{campaign}/assign", {"codes": codes}, headers=headers),
        "release": lambda: service.post(f"/v1/{campaign}/release", {"codes": codes}, headers=headers),
    }[action]()
    assert reply.status == 200
    for span in collector.trace(trace).spans:
        values = [attribute.value.string_value for attribute in span.attributes]
        assert correlation in values, f"{span.name} lacks the correlation ID"


def test_spans_tell_no_secret(traced: World, collector: Receiver) -> None:
    every_kind_of_request(traced)
    # Spans are sent in order, so those before have arrived with this one.
    last = uuid.uuid4().hex
    traced.service.get("/livez", headers={"traceparent": f"00-{last}-{CALLER}-01"})
    traced.service.get("/v1/c/codes/count?type=tm", headers={"traceparent": f"00-{last}-{CALLER}-01"})
    collector.trace(last)
    traced.service.check_log()
    for span in collector.spans:
        for attribute in span.attributes:
            assert CODE_MARK not in str(attribute.value), f"{span.name} tells a code in {attribute.key}"
    for body in list(collector.bodies):
        assert CODE_MARK.encode() not in body, "a span tells a code"
        assert b"eyJ" not in body, "a span tells a token"
        assert b"access_token" not in body, "a span tells a query string"
        assert b"secretly" not in body, "a span tells a query string"

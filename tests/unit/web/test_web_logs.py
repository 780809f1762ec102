"""What a request leaves in the log, and what it must not."""

import io
import logging
from collections.abc import Iterator
from typing import Any

import orjson
import pytest
from webroom import Client, Service, send, token

from codesvc.errors import DatabaseUnavailableError, StorageUnavailableError
from codesvc.models import Status
from codesvc.observability.logs import configure_logging

pytest_plugins = ("webroom",)


@pytest.fixture(autouse=True)
def log() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    root.handlers[:] = []
    stream = io.StringIO()
    configure_logging("DEBUG", stream)
    yield stream
    root.handlers[:], root.level = before


def lines(log: io.StringIO, logger: str = "codesvc.access") -> list[dict[str, Any]]:
    return [line for line in map(orjson.loads, log.getvalue().splitlines()) if line["logger"] == logger]


async def test_the_line_of_a_request(client: Client, log: io.StringIO) -> None:
    headers = {
        "X-Correlation-ID": "c-1",
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    }
    reply = await send(client, "GET", "/v1/12345/codes/count?type=tm", headers=headers)
    (line,) = lines(log)
    assert line.pop("timestamp")
    assert 0 <= line.pop("durationMs") < 5000
    assert line == {
        "level": "INFO",
        "logger": "codesvc.access",
        "message": "request",
        "method": "GET",
        "route": "/v1/{campaignId}/codes/count",
        "campaignId": "12345",
        "status": 200,
        "bytes": len(reply.body),
        "correlationId": "c-1",
        "traceId": "0af7651916cd43dd8448eb211c80319c",
        "spanId": "b7ad6b7169203331",
    }


@pytest.mark.parametrize(
    "traceparent",
    [
        *(
            "",
            "x",
            "00-" + "0" * 32 + "-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-" + "0" * 16 + "-01",
        ),
        *(
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
        ),
    ],
)
async def test_a_traceparent_that_is_none(client: Client, log: io.StringIO, traceparent: str) -> None:
    await send(client, "GET", "/livez", headers={"traceparent": traceparent})
    assert "traceId" not in lines(log)[0]


@pytest.mark.parametrize(
    ("method", "path", "status", "route"),
    [
        ("GET", "/SECRET/x?SECRET=1", 404, "unmatched"),
        ("GET", "/v1/SECRET", 404, "unmatched"),
        ("HEAD", "/v1/1/reserve?type=tm&count=1", 405, "/v1/{campaignId}/reserve"),
        ("GET", "/v1/SECRET%20/reserve?type=tm", 400, "/v1/{campaignId}/reserve"),
        ("PROPFIND", "/livez", 405, "/livez"),
    ],
)
async def test_the_line_of_what_went_wrong(
    client: Client, log: io.StringIO, method: str, path: str, status: int, route: str
) -> None:
    reply = await send(client, method, path)
    (line,) = lines(log)
    assert (line["status"], line["route"]) == (reply.status, route) == (status, route)
    assert line["method"] == ("other" if method == "PROPFIND" else method)
    assert "SECRET" not in log.getvalue()


async def test_no_secret_whatever_happens(client: Client, service: Service, log: io.StringIO) -> None:
    text = token()
    service.inventory.codes = {"SECRET-1": Status.AVAILABLE, "SECRET-2": Status.AVAILABLE}
    authorization = {"Authorization": f"Bearer {text}"}

    async def everything() -> None:
        for method, path, body in (
            ("GET", "/v1/1/reserve?type=tm&count=1&more=SECRET", None),
            ("POST", "/v1/1/assign", {"codes": ["SECRET-1"]}),
            ("POST", "/v1/1/release", {"codes": ["SECRET-1", 5]}),
            ("POST", "/v1/1/assign", {"codes": "SECRET-1"}),
            ("POST", "/v1/1/codes", {"fileKey": "SECRET"}),
            ("POST", "/v1/1/codes", {"fileKey": "codes/1/tm/x"}),
        ):
            await send(client, method, path, json=body, headers=authorization)
        await send(client, "POST", "/v1/1/assign", data=b'{"codes": ["SECRET', headers=authorization)
        await send(client, "GET", "/v1/1/reserve", headers={"Authorization": "Bearer SECRET"})
        await send(client, "GET", "/v1/1/reserve", headers={"Authorization": f"Basic {text}"})

    await everything()
    cause = KeyError("dup key: { code: SECRET-1 }")
    for failure in (
        RuntimeError("E11000 SECRET-1"),
        DatabaseUnavailableError("The database does not answer"),
    ):
        failure.__cause__ = cause
        service.inventory.failure = failure
        service.uploads.outcome = failure
        await everything()
    assert "SECRET" not in log.getvalue()
    assert text not in log.getvalue()
    assert text.split(".")[2] not in log.getvalue()


async def test_a_failure_says_where(client: Client, service: Service, log: io.StringIO) -> None:
    service.inventory.failure = RuntimeError("SECRET")
    await send(client, "GET", "/v1/1/codes/count?type=tm", headers={"X-Correlation-ID": "c-1"})
    (line,) = lines(log, "codesvc.web.middleware")
    assert (line["level"], line["correlationId"], line["error"]["type"]) == ("ERROR", "c-1", "RuntimeError")
    assert any("webroom.py" in frame for frame in line["error"]["stack"])


async def test_an_outage_says_why(client: Client, service: Service, log: io.StringIO) -> None:
    service.uploads.outcome = StorageUnavailableError("The store does not answer")
    service.uploads.outcome.__cause__ = OSError("SECRET")
    await send(client, "POST", "/v1/1/codes", json={"fileKey": "codes/1/tm/x"})
    (line,) = lines(log, "codesvc.web.middleware")
    assert (line["level"], line["code"], line["cause"]) == ("WARNING", "storageUnavailable", "OSError")


async def test_refusals_of_callers_are_no_errors(client: Client, log: io.StringIO) -> None:
    await send(client, "POST", "/v1/1/assign", json={})
    await send(client, "GET", "/v1/1/reserve", headers={"Authorization": "Bearer x"})
    assert {line["level"] for line in map(orjson.loads, log.getvalue().splitlines())} == {"INFO"}

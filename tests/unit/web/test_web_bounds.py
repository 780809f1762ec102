"""What a process takes on at once: requests, streams, bytes of bodies; and the places that others keep."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from webroom import Client, MemoryInventory, Service, metric_samples, send

from codesvc.models import CodeType, Counts, UploadOrder
from codesvc.web import admission
from codesvc.web.schemas import Limits
from codesvc.web.server import WebRunner

pytest_plugins = ("webroom",)

COUNT = "/v1/7/codes/count?type=tm"
BODY = 100_000


class Held(MemoryInventory):
    """Counts and assigns only when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.free = asyncio.Event()
        self.waiting = 0

    async def _hold(self) -> None:
        self.waiting += 1
        await self.free.wait()

    async def count(self, *args: Any) -> Counts:
        await self._hold()
        return await super().count(*args)

    async def assign(self, *args: Any) -> Any:
        await self._hold()
        return await super().assign(*args)

    async def until(self, waiting: int) -> None:
        async with asyncio.timeout(10):
            while self.waiting < waiting:  # noqa: ASYNC110 - there is no event to wait for
                await asyncio.sleep(0.005)


@pytest.fixture
def service() -> Service:
    limits = Limits(max_requests=3, max_streams=1, max_lengthy=2, max_bodies=3 * BODY)
    return Service(inventory=Held(), limits=limits)


def held(service: Service) -> Held:
    assert isinstance(service.inventory, Held)
    return service.inventory


def long_body(size: int = BODY) -> bytes:
    return b'{"codes": ["A"]}'.ljust(size)


async def test_one_request_too_many_is_told_so_at_once(client: Client, service: Service) -> None:
    waiting = [asyncio.create_task(send(client, "GET", COUNT)) for _ in range(3)]
    await held(service).until(3)
    for _ in range(5):
        refused = await send(client, "GET", COUNT)
        assert (refused.status, refused.code) == (503, "overloaded")
        assert refused.headers["Retry-After"] == "1"
        assert refused.headers["Cache-Control"] == "no-store"
    # Whether or not it has a token: that is not even looked at.
    assert (await send(client, "GET", COUNT, headers={"Authorization": "Bearer x"})).code == "overloaded"
    for path in ("/livez", "/heartbeat", "/readyz", "/metrics", "/openapi.json"):
        assert (await send(client, "GET", path)).status == 200, path
    held(service).free.set()
    assert [(await one).status for one in waiting] == [200] * 3
    assert (await send(client, "GET", COUNT)).status == 200, "there is room again"


async def test_requests_that_fail_give_their_places_back(client: Client) -> None:
    for _ in range(10):
        assert (await send(client, "GET", "/v1/7/codes/count?type=no")).code == "invalidType"
        assert (await send(client, "GET", COUNT, headers={"Authorization": "Bearer x"})).status == 401
        assert (await send(client, "GET", "/v1/nothing")).code == "notFound"


async def test_uploads_and_streams_take_nobodys_place(client: Client, service: Service) -> None:
    key = "codes/7/tm/a.csv"
    upload = await send(
        client, "POST", "/v1/7/codes", json={"fileKey": key}, headers={"Prefer": "respond-async"}
    )
    address = f"{upload.headers['Location']}/events"
    waiting = [asyncio.create_task(send(client, "GET", COUNT)) for _ in range(3)]
    await held(service).until(3)
    # All places of requests are taken.
    assert (await send(client, "POST", "/v1/7/codes", json={"fileKey": key})).status == 200
    assert (await send(client, "GET", address)).code == "overloaded", "to look for the upload is a request"
    held(service).free.set()
    await asyncio.gather(*waiting)
    assert (await send(client, "GET", address)).status == 200


async def test_one_stream_too_many(client: Client, service: Service) -> None:
    started = await service.uploads.start(_order())
    address = f"/v1/7/uploads/{started.id}/events"
    reading = asyncio.Event()

    async def watch(*_: str) -> AsyncIterator[None]:
        reading.set()
        yield None
        await held(service).free.wait()

    service.uploads.watch = watch  # type: ignore[method-assign, assignment]
    first = asyncio.create_task(send(client, "GET", address))
    await asyncio.wait_for(reading.wait(), 10)
    assert (await send(client, "GET", address)).code == "overloaded"
    held(service).free.set()
    assert (await first).status == 200
    assert (await send(client, "GET", address)).status == 200


def _order() -> UploadOrder:
    return UploadOrder("7", CodeType.TM, "codes/7/tm/a.csv", header=False, strict=False)


async def test_bytes_of_bodies_are_bounded(client: Client, service: Service) -> None:
    assign = "/v1/7/assign"
    waiting = [
        asyncio.create_task(send(client, "POST", assign, data=long_body(), headers=_json())) for _ in range(2)
    ]
    await held(service).until(2)
    refused = await send(client, "POST", assign, data=long_body(BODY + 1), headers=_json())
    assert (refused.status, refused.code) == (503, "overloaded")
    # Small ones do not count.
    small = asyncio.create_task(send(client, "POST", assign, data=long_body(1000), headers=_json()))
    await held(service).until(3)
    held(service).free.set()
    assert [(await one).status for one in [*waiting, small]] == [200] * 3
    for _ in range(10):  # each gives back what it had
        assert (await send(client, "POST", assign, data=long_body(), headers=_json())).status == 200
        assert (await send(client, "POST", assign, data=long_body()[1:], headers=_json())).status == 400


async def test_a_body_of_unknown_length_is_counted_as_it_comes(client: Client, service: Service) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(4):
            yield b" " * BODY

    refused = await send(client, "POST", "/v1/7/assign", data=pieces(), headers=_json())
    assert refused.code == "overloaded"


async def test_a_body_that_comes_too_slowly(
    client: Client, monkeypatch: pytest.MonkeyPatch, service: Service
) -> None:
    monkeypatch.setattr(admission, "GRACE_SECONDS", 0.2)

    async def pieces() -> AsyncIterator[bytes]:
        yield b'{"codes": '
        await asyncio.sleep(5)
        yield b'["A"]}'

    reply = await send(client, "POST", "/v1/7/assign", data=pieces(), headers=_json())
    assert (reply.status, reply.code) == (408, "requestTimeout")
    assert reply.headers["Connection"] == "close"
    held(service).free.set()
    assert (await send(client, "POST", "/v1/7/assign", json={"codes": ["A"]})).status == 200


async def test_metrics_tell_what_was_turned_away(service: Service) -> None:
    runner = WebRunner(service.application(), keepalive_timeout=5)
    await runner.setup()
    samples = metric_samples(service.telemetry.render()[0].decode())
    for kind in ("request", "stream", "upload"):
        assert samples[f'http_requests_in_flight{{kind="{kind}"}}'] == 0
    for reason in ("request", "stream", "upload", "body", "connection"):
        assert samples[f'http_requests_refused_total{{reason="{reason}"}}'] == 0
    assert (samples["http_request_bodies_bytes"], samples["http_connections"]) == (0, 0)
    await runner.cleanup()


def _json() -> dict[str, str]:
    return {"Content-Type": "application/json"}

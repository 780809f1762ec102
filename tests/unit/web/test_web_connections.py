"""The connections of callers: their number, and those whose callers are slow or do nothing."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import pytest
from aiohttp import web
from aiohttp.web_protocol import RequestHandler
from webroom import Service, metric_samples

from codesvc.web.connections import Patience
from codesvc.web.server import WebRunner

pytest_plugins = ("webroom",)

LARGE = 32 << 20

GET = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Host:
    """A running server, and what it says of its connections."""

    def __init__(self, service: Service, runner: WebRunner) -> None:
        self.service = service
        self._runner = runner
        self.address = runner.addresses[0]

    async def connect(self) -> Streams:
        return await asyncio.open_connection(*self.address[:2])

    async def cease(self, seconds: float) -> None:
        await self._runner.cease(seconds)

    def connections(self) -> list[RequestHandler]:
        assert self._runner.server is not None
        return self._runner.server.connections

    def metric(self, name: str) -> float:
        return metric_samples(self.service.telemetry.render()[0].decode())[name]

    def ended(self, reason: str) -> float:
        return self.metric(f'http_connections_ended_total{{reason="{reason}"}}')


@asynccontextmanager
async def hosted(service: Service, patience: Patience) -> AsyncIterator[Host]:
    runner = WebRunner(service.application(), patience=patience, shutdown_timeout=0.2)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield Host(service, runner)
    finally:
        await runner.cleanup()


@pytest.fixture
def large(service: Service, monkeypatch: pytest.MonkeyPatch) -> Service:
    """A service one of whose replies is far more than any socket takes."""
    monkeypatch.setattr("webroom.token", lambda: "x" * LARGE)
    service.dev = True
    return service


async def until(check: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not check():  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0.02)


async def answer(streams: Streams, request: bytes = GET) -> bytes:
    """Send a request and return the first line of the reply, or nothing if the connection was closed."""
    reader, writer = streams
    try:
        writer.write(request)
        async with asyncio.timeout(10):
            line = await reader.readline()
            if line:
                await reader.readuntil(b'{"status":"ok"}')
    except ConnectionError:
        return b""
    return line


async def closed(streams: Streams) -> None:
    """Wait until the server has closed the connection."""
    async with asyncio.timeout(10):
        with suppress(ConnectionError):
            assert await streams[0].read() == b""


async def test_a_head_that_comes_byte_by_byte(service: Service) -> None:
    async with hosted(service, Patience(head=0.5)) as host:
        slow, quick, silent = [await host.connect() for _ in range(3)]
        assert (await answer(slow)).startswith(b"HTTP/1.1 200"), "its first request is well"
        ends = asyncio.create_task(closed(slow))
        sent = 0
        while not ends.done():
            slow[1].write(GET[sent : sent + 1] if sent < 20 else b"a")
            sent += 1
            await asyncio.sleep(0.1)
            # Meanwhile, whoever sends whole ones is served.
            assert (await answer(quick)).startswith(b"HTTP/1.1 200")
            assert sent < 100
        await ends
        assert host.ended("slowHead") == 1
        assert (await answer(silent)).startswith(b"HTTP/1.1 200"), (
            "one that has sent nothing is idle, not slow"
        )
        for _, writer in (slow, quick, silent):
            writer.close()


async def test_a_reply_that_nobody_reads(large: Service) -> None:
    async with hosted(large, Patience(reader=0.5)) as host:
        reader, writer = await host.connect()
        writer.write(b"GET /dev/token HTTP/1.1\r\nHost: x\r\n\r\n")
        await until(lambda: host.ended("slowReader") == 1 and host.metric("http_connections") == 0)
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await reader.readexactly(LARGE)
        writer.close()


async def test_a_slow_reader_who_goes_on_is_let_be(large: Service) -> None:
    async with hosted(large, Patience(reader=1.0, least=1 << 10)) as host:
        reader, writer = await host.connect()
        writer.write(b"GET /dev/token HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        got = 0
        async with asyncio.timeout(60):
            while chunk := await reader.read(1 << 20):
                got += len(chunk)
                await asyncio.sleep(0.012)
        assert got > LARGE
        assert host.ended("slowReader") == 0
        writer.close()


async def test_the_last_bytes_of_a_connection_do_not_wait_for_ever(large: Service) -> None:
    async with hosted(large, Patience(reader=60, closing=0.5)) as host:
        _, writer = await host.connect()
        # Its idle time is up before anybody has read the reply: aiohttp closes, and would wait for a reader.
        writer.write(b"GET /dev/token HTTP/1.1\r\nHost: x\r\n\r\n")
        await until(lambda: host.metric("http_connections") == 1)
        (connection,) = host.connections()
        await until(lambda: connection.writing_paused)
        connection.force_close()
        await until(lambda: host.metric("http_connections") == 0)
        writer.close()


async def test_the_longest_idle_one_makes_room_for_a_new_one(service: Service) -> None:
    async with hosted(service, Patience(connections=16)) as host:
        known = []
        for _ in range(16):
            known.append(await host.connect())
            assert (await answer(known[-1])).startswith(b"HTTP/1.1 200")
        assert (await answer(known[0])).startswith(b"HTTP/1.1 200"), "now the second is idle for the longest"
        probe = await host.connect()
        assert (await answer(probe)).startswith(b"HTTP/1.1 200")
        await closed(known[1])
        assert host.ended("crowded") == 1
        assert (await answer(known[0])).startswith(b"HTTP/1.1 200")
        for _, writer in [*known, probe]:
            writer.close()


async def test_where_every_connection_is_at_work_a_new_one_is_refused(service: Service) -> None:
    free = asyncio.Event()

    asked = 0

    async def ready() -> bool:
        nonlocal asked
        asked += 1
        await free.wait()
        return True

    service.ready = ready
    request = b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n"
    async with hosted(service, Patience(connections=16)) as host:
        busy = [await host.connect() for _ in range(16)]
        waiting = [asyncio.create_task(answer(one, request)) for one in busy]
        await until(lambda: asked == 16)
        reader, writer = await host.connect()
        refusal = await asyncio.wait_for(reader.read(), 10)
        assert refusal.startswith(b"HTTP/1.1 503 ")
        assert b"Retry-After: 1\r\n" in refusal
        free.set()
        assert all(line.startswith(b"HTTP/1.1 200") for line in await asyncio.gather(*waiting))
        assert host.metric('http_requests_refused_total{reason="connection"}') == 1
        writer.close()
        for _, one in busy:
            one.close()


async def test_idle_connections_end(service: Service) -> None:
    runner = WebRunner(service.application(), keepalive_timeout=0.3)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    streams = await Host(service, runner).connect()
    assert (await answer(streams)).startswith(b"HTTP/1.1 200")
    await closed(streams)
    streams[1].close()
    await runner.cleanup()


async def test_who_has_just_connected_is_answered_before_the_end(service: Service) -> None:
    async with hosted(service, Patience()) as host:
        kept, silent = [await host.connect() for _ in range(2)]
        assert (await answer(kept)).startswith(b"HTTP/1.1 200")
        await until(lambda: len(host.connections()) == 2)
        ceasing = asyncio.create_task(host.cease(60))
        await asyncio.sleep(0.1)
        assert not ceasing.done(), "one of them has had no reply yet"
        with pytest.raises(ConnectionRefusedError):
            await host.connect()
        assert (await answer(silent)).startswith(b"HTTP/1.1 200")
        async with asyncio.timeout(10):
            await ceasing
        for _, writer in (kept, silent):
            writer.close()


async def test_who_connects_and_says_nothing_does_not_hold_the_end_up(service: Service) -> None:
    async with hosted(service, Patience()) as host:
        silent = await host.connect()
        await until(lambda: len(host.connections()) == 1)
        async with asyncio.timeout(10):
            await host.cease(0.1)
        silent[1].close()

"""Objects read over a network that cuts, resets and stalls; what arrives is the object, or an error in time."""

import asyncio
import random
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiobotocore.config import AioConfig

import codesvc.sources.pace
import codesvc.sources.s3
from codesvc.errors import StorageUnavailableError
from codesvc.observability.telemetry import Telemetry
from codesvc.settings import load_settings
from codesvc.sources.s3 import S3Source

from .proxy import Proxy

KEY = "codes/spring/tm/x.csv"
CONTENT = random.Random(7).randbytes(400_000)


@pytest.fixture
async def s3_proxy(s3_endpoint: str) -> AsyncIterator[Proxy]:
    """A proxy in front of the S3 endpoint."""
    async with Proxy(int(s3_endpoint.rpartition(":")[2])) as running:
        yield running


@pytest.fixture(autouse=True)
def no_retries_of_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let all the patience be the source's own."""
    once = {"retries": {"mode": "standard", "max_attempts": 1}}
    monkeypatch.setattr(codesvc.sources.s3, "AioConfig", lambda **options: AioConfig(**(options | once)))


@pytest.fixture
def telemetry() -> Telemetry:
    """What the source tells."""
    return Telemetry()


@pytest.fixture
async def source(s3: Any, bucket: str, s3_proxy: Proxy, telemetry: Telemetry) -> AsyncIterator[S3Source]:
    """A source behind the proxy, and an object in its bucket."""
    s3.put_object(Bucket=bucket, Key=KEY, Body=CONTENT)
    settings = load_settings(
        s3_endpoint_url=f"http://127.0.0.1:{s3_proxy.port}",
        s3_bucket=bucket,
        read_part_size=50_000,
        read_concurrency=3,
    )
    async with S3Source(settings, telemetry) as opened:
        yield opened


async def read(source: S3Source) -> bytes:
    async with source.open(KEY) as stream:
        return b"".join([chunk async for chunk in stream.chunks()])


async def test_connections_that_are_cut_in_the_middle_of_a_part(source: S3Source, s3_proxy: Proxy) -> None:
    s3_proxy.cut_replies_after(20_000, 1_000, 50_200, 700, 30_000)
    assert await read(source) == CONTENT
    # Resumed where it broke: of the 102,000 bytes that came before a cut, none had to come again.
    assert s3_proxy.replied < len(CONTENT) + 20_000


async def test_parts_that_are_asked_for_again_are_counted(
    source: S3Source, s3_proxy: Proxy, telemetry: Telemetry
) -> None:
    assert "\nstorage_retries_total 0\n" in telemetry.render()[0].decode()
    s3_proxy.cut_replies_after(20_000, 1_000, 30_000)
    assert await read(source) == CONTENT
    text = telemetry.render()[0].decode()
    assert "\nstorage_retries_total 3\n" in text
    assert 'storage_request_duration_seconds_count{operation="GetObject",outcome="ok"} 11.0' in text


async def test_connections_that_are_reset_again_and_again(source: S3Source, s3_proxy: Proxy) -> None:
    async def disturb() -> None:
        for _ in range(8):
            await asyncio.sleep(0.03)
            s3_proxy.reset()

    received, _ = await asyncio.gather(read(source), disturb())
    assert received == CONTENT


async def test_an_endpoint_that_is_away_for_a_moment(source: S3Source, s3_proxy: Proxy) -> None:
    received = b""

    async def read_on() -> None:
        nonlocal received
        async with source.open(KEY) as stream:
            async for chunk in stream.chunks():
                received += chunk

    reading = asyncio.create_task(read_on())
    while not received:  # noqa: ASYNC110 - bytes, which come by themselves
        await asyncio.sleep(0)
    await s3_proxy.down()
    await asyncio.sleep(0.6)
    await s3_proxy.up()
    await reading
    assert received == CONTENT


async def test_a_stall_that_passes(source: S3Source, s3_proxy: Proxy) -> None:
    async with source.open(KEY) as stream:
        received = b""
        async for chunk in stream.chunks():
            if not received:
                s3_proxy.stall()
                asyncio.get_running_loop().call_later(1.0, s3_proxy.flow)
            received += chunk
    assert received == CONTENT


async def test_a_stall_that_does_not_pass(
    s3: Any, bucket: str, s3_proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(codesvc.sources.s3, "_READ_SECONDS", 0.3)
    monkeypatch.setattr(codesvc.sources.s3, "_FRUITLESS_TRIES", 2)
    s3.put_object(Bucket=bucket, Key=KEY, Body=CONTENT)
    settings = load_settings(
        s3_endpoint_url=f"http://127.0.0.1:{s3_proxy.port}", s3_bucket=bucket, read_part_size=50_000
    )
    async with S3Source(settings, Telemetry()) as source:
        assert await read(source) == CONTENT
        s3_proxy.stall()
        start = time.monotonic()
        with pytest.raises(StorageUnavailableError):
            await read(source)
        assert time.monotonic() - start < 10
        s3_proxy.flow()
        assert await read(source) == CONTENT


async def test_a_store_that_trickles_for_ever_is_given_up(
    source: S3Source, s3_proxy: Proxy, telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(codesvc.sources.pace, "WINDOW_SECONDS", 0.4)
    monkeypatch.setattr(codesvc.sources.pace, "LEAST_BYTES", 40_000)
    received = 0
    # 5 kB a second; 2 kB of a window's 40: with whatever pauses of the machine, no more.
    s3_proxy.trickle(100, 0.02)
    with pytest.raises(StorageUnavailableError, match="does not deliver"):  # noqa: PT012 - the read is what raises
        async with asyncio.timeout(60), source.open(KEY) as stream:
            async for chunk in stream.chunks():
                received += len(chunk)
    assert received > 0, "something came all the time"
    assert s3_proxy.accepted >= 4, "asked for again, before it was given up"
    assert "\nstorage_retries_total 0\n" not in telemetry.render()[0].decode()


async def test_a_store_that_breaks_off_after_a_few_bytes_is_as_slow_as_one_that_trickles(
    source: S3Source, s3_proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(codesvc.sources.pace, "WINDOW_SECONDS", 0.4)
    monkeypatch.setattr(codesvc.sources.pace, "LEAST_BYTES", 40_000)
    # Each reply's head and a few bytes of its part, so that no try is without any.
    s3_proxy.cut_replies_after(*[1_000] * 10_000)
    with pytest.raises(StorageUnavailableError, match="does not deliver"):
        async with asyncio.timeout(60):
            await read(source)


async def test_a_store_that_is_slow_but_not_too_slow_is_read_to_the_end(
    s3: Any, bucket: str, source: S3Source, s3_proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3.put_object(Bucket=bucket, Key=KEY, Body=CONTENT[:100_000])
    monkeypatch.setattr(codesvc.sources.pace, "WINDOW_SECONDS", 0.5)
    monkeypatch.setattr(codesvc.sources.pace, "LEAST_BYTES", 500)
    # 2.5 s for a part: longer than all the windows in which too little may come.
    s3_proxy.trickle(1_000, 0.05)
    assert await read(source) == CONTENT[:100_000]


async def test_a_reader_that_takes_its_time_is_not_the_stores_fault(
    source: S3Source, s3_proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(codesvc.sources.pace, "WINDOW_SECONDS", 0.3)
    received = b""
    async with source.open(KEY) as stream:
        async for chunk in stream.chunks():
            if not received:
                await asyncio.sleep(1.5)
            received += chunk
    assert received == CONTENT


async def test_an_address_that_is_not_found_out_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codesvc.sources.s3, "_REPLY_SECONDS", 0.3)
    asked = []

    async def silent(host: str, *_: object, **__: object) -> None:
        asked.append(host)
        await asyncio.sleep(60)

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", silent)
    settings = load_settings(s3_endpoint_url="http://store.invalid", s3_bucket="b")
    async with S3Source(settings, Telemetry()) as source, asyncio.timeout(30):
        with pytest.raises(StorageUnavailableError):
            await read(source)
        with pytest.raises(StorageUnavailableError):
            await anext(aiter(source.files("codes/")))
    assert "store.invalid" in asked

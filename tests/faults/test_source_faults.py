"""Objects read over a network that cuts, resets and stalls; what arrives is the object, or an error in time."""

import asyncio
import random
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiobotocore.config import AioConfig

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

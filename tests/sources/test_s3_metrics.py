"""Requests to S3 are timed, those included that the client sends again by itself."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from codesvc.errors import SourceNotFoundError, StorageUnavailableError
from codesvc.local.process import free_port
from codesvc.observability.telemetry import Telemetry
from codesvc.settings import load_settings
from codesvc.sources.s3 import S3Source

KEY = "codes/spring/tm/x.csv"

Open = Callable[[str, str], Any]


@pytest.fixture
def telemetry() -> Telemetry:
    """What the sources tell."""
    return Telemetry()


@pytest.fixture
async def opened(telemetry: Telemetry) -> AsyncIterator[Open]:
    """Open sources: ``opened(url, bucket)``."""
    async with AsyncExitStack() as stack:

        async def open_(url: str, bucket: str) -> S3Source:
            settings = load_settings(
                s3_endpoint_url=url, s3_bucket=bucket, read_part_size=1000, read_concurrency=3
            )
            return await stack.enter_async_context(S3Source(settings, telemetry))

        yield open_


async def read(source: S3Source) -> bytes:
    async with source.open(KEY) as stream:
        return b"".join([chunk async for chunk in stream.chunks()])


def told(telemetry: Telemetry) -> tuple[float, float, float]:
    """Requests that went well, those that did not, and those that were sent again."""
    values = {
        (sample.name, sample.labels.get("outcome")): sample.value
        for family in text_string_to_metric_families(telemetry.render()[0].decode())
        for sample in family.samples
        if sample.labels.get("operation", "GetObject") == "GetObject"
    }
    count = "storage_request_duration_seconds_count"
    return values[count, "ok"], values[count, "error"], values["storage_retries_total", None]


async def test_each_range_is_a_request(
    s3: Any, s3_endpoint: str, bucket: str, opened: Open, telemetry: Telemetry
) -> None:
    s3.put_object(Bucket=bucket, Key=KEY, Body=bytes(4500))
    assert told(telemetry) == (0, 0, 0)
    await read(await opened(s3_endpoint, bucket))
    assert told(telemetry) == (5, 0, 0)
    text = telemetry.render()[0].decode()
    total = next(
        line for line in text.splitlines() if line.startswith("storage_request_duration_seconds_sum{")
    )
    assert 0 < float(total.split()[-1]) < 60


async def test_no_such_object_is_an_answer(
    s3_endpoint: str, bucket: str, opened: Open, telemetry: Telemetry
) -> None:
    with pytest.raises(SourceNotFoundError):
        await read(await opened(s3_endpoint, bucket))
    assert told(telemetry) == (1, 0, 0)


async def test_no_such_bucket_is_an_error(s3_endpoint: str, opened: Open, telemetry: Telemetry) -> None:
    with pytest.raises(StorageUnavailableError):
        await read(await opened(s3_endpoint, "no-such-bucket"))
    assert told(telemetry) == (0, 1, 0)


async def test_every_try_of_the_client_is_a_request(opened: Open, telemetry: Telemetry) -> None:
    with pytest.raises(StorageUnavailableError):
        await read(await opened(f"http://127.0.0.1:{free_port()}", "b"))
    _, errors, retries = told(telemetry)
    assert retries >= 2
    assert errors == retries + 1

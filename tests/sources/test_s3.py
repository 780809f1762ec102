"""Objects of a real S3 endpoint, and of servers that have ways of their own."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, aclosing
from typing import Any

import pytest
from aiohttp import web

import codesvc.sources.s3
from codesvc.errors import SourceChangedError, SourceNotFoundError, StorageUnavailableError
from codesvc.local.process import free_port
from codesvc.observability.telemetry import Telemetry
from codesvc.settings import load_settings
from codesvc.sources.s3 import S3Source

from .range_server import Asked, RangeServer, error

PART = 1024
KEY = "codes/spring/tm/a batch+é?.csv"

Open = Callable[..., Any]


def content(size: int) -> bytes:
    return random.Random(size).randbytes(size)


@pytest.fixture
async def opened() -> AsyncIterator[Open]:
    """Open sources; ``opened(url, bucket, part_size, concurrency)``."""
    async with AsyncExitStack() as stack:

        async def open_(
            url: str, bucket: str = "b", *, part_size: int = PART, concurrency: int = 3
        ) -> S3Source:
            settings = load_settings(
                s3_endpoint_url=url, s3_bucket=bucket, read_part_size=part_size, read_concurrency=concurrency
            )
            return await stack.enter_async_context(S3Source(settings, Telemetry()))

        yield open_


async def read(source: S3Source, key: str = KEY) -> bytes:
    async with asyncio.timeout(30), source.open(key) as stream:
        data = b"".join([chunk async for chunk in stream.chunks()])
        assert stream.size == len(data)
        return data


def tasks() -> set[str]:
    """The tasks that sources left behind, by name of their coroutine."""
    return {
        name
        for task in asyncio.all_tasks()
        if "S3" in (name := getattr(task.get_coro(), "__qualname__", "?"))
    }


# A real endpoint.


@pytest.mark.parametrize("size", [0, 1, PART - 1, PART, PART + 1, 3 * PART, 50_000])
async def test_the_bytes_are_the_objects(
    s3: Any, s3_endpoint: str, bucket: str, opened: Open, size: int
) -> None:
    s3.put_object(Bucket=bucket, Key=KEY, Body=content(size))
    for part_size, concurrency in ((PART, 3), (PART + 7, 8), (20_011, 1), (1 << 20, 4)):
        source = await opened(s3_endpoint, bucket, part_size=part_size, concurrency=concurrency)
        assert await read(source) == content(size)


async def test_many_reads_at_once(s3: Any, s3_endpoint: str, bucket: str, opened: Open) -> None:
    for number in range(6):
        s3.put_object(Bucket=bucket, Key=f"k{number}", Body=content(10_000 + number))
    source = await opened(s3_endpoint, bucket)
    found = await asyncio.gather(*(read(source, f"k{number}") for number in range(6)))
    assert found == [content(10_000 + number) for number in range(6)]


async def test_no_such_object(s3_endpoint: str, bucket: str, opened: Open) -> None:
    with pytest.raises(SourceNotFoundError):
        await read(await opened(s3_endpoint, bucket), "codes/none.csv")


async def test_no_such_bucket(s3_endpoint: str, opened: Open) -> None:
    with pytest.raises(StorageUnavailableError):
        await read(await opened(s3_endpoint, "no-such-bucket"))


async def test_nothing_listens(opened: Open) -> None:
    source = await opened(f"http://127.0.0.1:{free_port()}")
    start = time.monotonic()
    with pytest.raises(StorageUnavailableError):
        await read(source)
    assert time.monotonic() - start < 10


async def test_an_object_that_is_replaced_while_it_is_read(
    s3: Any, s3_endpoint: str, bucket: str, opened: Open
) -> None:
    source = await opened(s3_endpoint, bucket, concurrency=2)
    for replacement in (content(50_001), content(10), b""):
        s3.put_object(Bucket=bucket, Key=KEY, Body=content(50_000))
        received = b""
        with pytest.raises(SourceChangedError):  # noqa: PT012 - the read is what raises
            async with source.open(KEY) as stream:
                async for chunk in stream.chunks():
                    received += chunk
                    if len(received) == PART:
                        s3.put_object(Bucket=bucket, Key=KEY, Body=replacement)
        assert content(50_000).startswith(received)


async def test_an_object_that_is_removed_while_it_is_read(
    s3: Any, s3_endpoint: str, bucket: str, opened: Open
) -> None:
    s3.put_object(Bucket=bucket, Key=KEY, Body=content(50_000))
    source = await opened(s3_endpoint, bucket, concurrency=2)
    with pytest.raises(SourceChangedError):  # noqa: PT012 - the read is what raises
        async with source.open(KEY) as stream:
            async for _ in stream.chunks():
                s3.delete_object(Bucket=bucket, Key=KEY)


@pytest.mark.parametrize("start", [0, 1, PART - 1, PART, PART + 7, 3 * PART - 1, 3 * PART])
async def test_an_object_from_a_byte_on(
    s3: Any, s3_endpoint: str, bucket: str, opened: Open, start: int
) -> None:
    s3.put_object(Bucket=bucket, Key=KEY, Body=content(3 * PART))
    source = await opened(s3_endpoint, bucket)
    async with source.open(KEY) as stream:
        etag = stream.etag
    async with source.open(KEY, start=start, etag=etag) as stream:
        assert (stream.size, stream.etag) == (3 * PART, etag)
        assert b"".join([chunk async for chunk in stream.chunks()]) == content(3 * PART)[start:]


@pytest.mark.parametrize("start", [0, 10, 3 * PART, 4 * PART])
@pytest.mark.parametrize("replacement", [content(3 * PART + 1), content(5), b"", None])
async def test_an_object_that_is_no_longer_the_one_that_was_read_before(
    s3: Any, s3_endpoint: str, bucket: str, opened: Open, start: int, replacement: bytes | None
) -> None:
    s3.put_object(Bucket=bucket, Key=KEY, Body=content(3 * PART))
    source = await opened(s3_endpoint, bucket)
    async with source.open(KEY) as stream:
        etag = stream.etag
    if replacement is None:
        s3.delete_object(Bucket=bucket, Key=KEY)
    else:
        s3.put_object(Bucket=bucket, Key=KEY, Body=replacement)
    with pytest.raises(SourceChangedError):
        async with source.open(KEY, start=start, etag=etag):
            pass


async def test_an_object_shorter_than_what_was_read_before(
    s3: Any, s3_endpoint: str, bucket: str, opened: Open
) -> None:
    s3.put_object(Bucket=bucket, Key=KEY, Body=content(PART))
    source = await opened(s3_endpoint, bucket)
    with pytest.raises(SourceChangedError):
        async with source.open(KEY, start=PART + 1):
            pass


async def test_the_first_request_of_a_reading_that_goes_on_is_told_of_an_outage(opened: Open) -> None:
    source = await opened(f"http://127.0.0.1:{free_port()}")
    with pytest.raises(StorageUnavailableError):
        async with source.open(KEY, start=5, etag='"of-before"'):
            pass


async def test_an_object_that_is_replaced_by_itself(
    s3: Any, s3_endpoint: str, bucket: str, opened: Open
) -> None:
    # The same ETag is the same bytes.
    s3.put_object(Bucket=bucket, Key=KEY, Body=content(20_000))
    source = await opened(s3_endpoint, bucket)
    async with source.open(KEY) as stream:
        received = b""
        async for chunk in stream.chunks():
            if not received:
                s3.put_object(Bucket=bucket, Key=KEY, Body=content(20_000))
            received += chunk
    assert received == content(20_000)


# A server of our own.


async def test_every_range_is_asked_for_once_and_under_the_first_etag(opened: Open) -> None:
    async with RangeServer(content(10 * PART + 5)) as server:
        assert await read(await opened(server.url)) == server.data
        assert sorted(asked.first for asked in server.asked) == list(range(0, 11 * PART, PART))
        assert [asked.if_match for asked in server.asked] == [None] + ['"v1"'] * 10


async def test_no_more_parts_are_fetched_than_the_window_holds(opened: Open) -> None:
    async with RangeServer(content(40 * PART)) as server:
        source = await opened(server.url, concurrency=3)
        async with source.open(KEY) as stream:
            chunks = stream.chunks()
            async with aclosing(chunks):
                received = len(await anext(chunks))
                await asyncio.sleep(0.2)
                assert len(server.asked) == 3
                while received < 5 * PART:
                    received += len(await anext(chunks))
                await asyncio.sleep(0.2)
                assert len(server.asked) <= 8


@pytest.mark.parametrize("concurrency", [1, 4])
async def test_parts_that_come_out_of_order(opened: Open, concurrency: int) -> None:
    async def behave(asked: Asked) -> None:
        await asyncio.sleep(0.03 * (asked.number % 3 == 1))

    async with RangeServer(content(12 * PART), behave=behave) as server:
        assert await read(await opened(server.url, concurrency=concurrency)) == server.data


@pytest.mark.parametrize("after", [0, 1, 500, PART - 1])
@pytest.mark.parametrize("broken", [0, 2])
async def test_a_part_that_breaks_off_is_resumed_where_it_broke(
    opened: Open, broken: int, after: int
) -> None:
    async def behave(asked: Asked) -> web.StreamResponse | None:
        return await server.breaking_off(asked, after) if asked.number == broken else None

    async with RangeServer(content(4 * PART), behave=behave) as server:
        assert await read(await opened(server.url)) == server.data
        again = server.asked[broken].first + after
        assert again in [asked.first for asked in server.asked[broken + 1 :]]
        assert len(server.asked) == 5


async def test_a_part_that_breaks_off_after_every_few_bytes(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As long as something comes, it goes on.
    monkeypatch.setattr(codesvc.sources.s3, "_FIRST_PAUSE", 0.001)

    async def behave(asked: Asked) -> web.StreamResponse:
        return await server.breaking_off(asked, 100)

    async with RangeServer(content(2 * PART + 1), behave=behave) as server:
        assert await read(await opened(server.url)) == server.data


async def test_a_part_that_never_comes(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codesvc.sources.s3, "_FIRST_PAUSE", 0.001)

    async def behave(asked: Asked) -> web.StreamResponse | None:
        return await server.breaking_off(asked, 0) if asked.first == 2 * PART else None

    async with RangeServer(content(4 * PART), behave=behave) as server:
        with pytest.raises(StorageUnavailableError):
            await read(await opened(server.url))
        assert sum(asked.first == 2 * PART for asked in server.asked) == 4
    assert tasks() == set()


async def test_a_store_that_falls_silent(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codesvc.sources.s3, "_READ_SECONDS", 0.2)
    monkeypatch.setattr(codesvc.sources.s3, "_FRUITLESS_TRIES", 1)

    async def behave(asked: Asked) -> None:
        if asked.first == 2 * PART:
            await asyncio.sleep(30)

    async with RangeServer(content(4 * PART), behave=behave) as server:
        start = time.monotonic()
        with pytest.raises(StorageUnavailableError):
            await read(await opened(server.url))
        assert time.monotonic() - start < 12
    assert tasks() == set()


async def test_a_store_that_trickles(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codesvc.sources.s3, "_READ_SECONDS", 0.3)

    async def behave(asked: Asked) -> web.StreamResponse:
        whole = server.part(asked)
        response = web.StreamResponse(status=206, headers=whole.headers)
        assert isinstance(whole.body, bytes)
        response.content_length = len(whole.body)
        await response.prepare(asked.request)
        for at in range(0, len(whole.body), 128):
            await asyncio.sleep(0.08)
            await response.write(whole.body[at : at + 128])
        return response

    async with RangeServer(content(2 * PART), behave=behave) as server:
        assert await read(await opened(server.url)) == server.data
        assert len(server.asked) == 2


@pytest.mark.parametrize("status", [500, 502, 503])
@pytest.mark.parametrize("number", [0, 2])
async def test_an_error_that_passes(opened: Open, status: int, number: int) -> None:
    async def behave(asked: Asked) -> web.Response | None:
        return error(status, "SlowDown") if asked.number == number else None

    async with RangeServer(content(4 * PART), behave=behave) as server:
        assert await read(await opened(server.url)) == server.data


@pytest.mark.parametrize(
    ("status", "code", "first", "later"),
    [
        (403, "AccessDenied", StorageUnavailableError, StorageUnavailableError),
        (404, "NoSuchKey", SourceNotFoundError, SourceChangedError),
        (404, "NoSuchBucket", StorageUnavailableError, StorageUnavailableError),
        (400, "ExpiredToken", StorageUnavailableError, StorageUnavailableError),
        (301, "PermanentRedirect", StorageUnavailableError, StorageUnavailableError),
        (412, "PreconditionFailed", SourceChangedError, SourceChangedError),
        (416, "InvalidRange", None, SourceChangedError),
    ],
)
async def test_a_refusal(
    opened: Open, status: int, code: str, first: type[Exception] | None, later: type[Exception]
) -> None:
    async def behave(asked: Asked) -> web.Response | None:
        return error(status, code) if asked.first >= refused * PART else None

    async with RangeServer(content(4 * PART), behave=behave) as server:
        for refused, expected in ((0, first), (2, later)):  # noqa: B007 - the server uses it
            if expected is None:
                assert await read(await opened(server.url)) == b""
                continue
            with pytest.raises(expected) as raised:
                await read(await opened(server.url))
            assert "SECRET" not in str(raised.value)


async def test_another_etag_in_the_middle(opened: Open) -> None:
    async def behave(asked: Asked) -> web.Response | None:
        return server.part(asked, etag='"v2"') if asked.number == 2 else None

    async with RangeServer(content(4 * PART), behave=behave) as server:
        with pytest.raises(SourceChangedError):
            await read(await opened(server.url))


async def test_a_small_object_of_a_store_without_ranges(opened: Open) -> None:
    async def behave(_asked: Asked) -> web.Response:
        return server.whole()

    for size in (0, 1, PART):
        async with RangeServer(content(size), behave=behave) as server:
            assert await read(await opened(server.url)) == server.data


# What is not the range that was asked for must never be taken for it.


async def wrong(server: RangeServer, opened: Open) -> None:
    async with server:
        with pytest.raises(StorageUnavailableError):
            await read(await opened(server.url))
    assert tasks() == set()


async def test_a_large_object_of_a_store_without_ranges(opened: Open) -> None:
    async def behave(_asked: Asked) -> web.Response:
        return server.whole()

    server = RangeServer(content(PART + 1), behave=behave)
    await wrong(server, opened)


async def test_a_store_that_forgets_the_range_of_a_later_part(opened: Open) -> None:
    async def behave(asked: Asked) -> web.Response | None:
        return server.whole() if asked.number == 2 else None

    server = RangeServer(content(4 * PART), behave=behave)
    await wrong(server, opened)


async def test_a_store_that_forgets_the_range_of_a_resumed_part(opened: Open) -> None:
    async def behave(asked: Asked) -> web.StreamResponse:
        return await server.breaking_off(asked, 100) if asked.number == 0 else server.whole()

    server = RangeServer(content(PART), behave=behave)
    await wrong(server, opened)


@pytest.mark.parametrize("shift", [-1, 1])
async def test_a_store_that_answers_with_another_range(opened: Open, shift: int) -> None:
    async def behave(asked: Asked) -> web.Response | None:
        if asked.number != 2:
            return None
        first, last = asked.first + shift, asked.last + shift
        return server.part(
            asked, content_range=f"bytes {first}-{last}/{4 * PART}", body=server.data[first : last + 1]
        )

    server = RangeServer(content(4 * PART), behave=behave)
    await wrong(server, opened)


async def test_a_store_that_sends_more_than_was_asked_for(opened: Open) -> None:
    async def behave(asked: Asked) -> web.Response | None:
        if asked.number != 1:
            return None
        return server.part(asked, body=server.data[asked.first : asked.last + 50])

    server = RangeServer(content(4 * PART), behave=behave)
    await wrong(server, opened)


async def test_a_store_that_does_not_tell_the_size(opened: Open) -> None:
    async def behave(asked: Asked) -> web.Response:
        return server.part(asked, content_range=f"bytes {asked.first}-{asked.last}/*")

    server = RangeServer(content(4 * PART), behave=behave)
    await wrong(server, opened)


async def test_a_store_without_etags(opened: Open) -> None:
    # Nothing would tell that the object was replaced.
    async def behave(asked: Asked) -> web.Response:
        response = server.part(asked)
        del response.headers["ETag"]
        return response

    server = RangeServer(content(4 * PART), behave=behave)
    await wrong(server, opened)


async def test_a_part_that_is_shorter_than_was_asked_for(opened: Open) -> None:
    # A store may send less, and say so; the rest is asked for (RFC 9110, section 15.3.7).
    async def behave(asked: Asked) -> web.Response | None:
        last = asked.first + 99
        if asked.number != 1:
            return None
        return server.part(
            asked,
            content_range=f"bytes {asked.first}-{last}/{4 * PART}",
            body=server.data[asked.first : last + 1],
        )

    async with RangeServer(content(4 * PART), behave=behave) as server:
        assert await read(await opened(server.url)) == server.data


# Reads that are given up.


@pytest.mark.parametrize("chunks", [0, 1, 5])
async def test_a_read_that_is_given_up_leaves_nothing_behind(opened: Open, chunks: int) -> None:
    async def behave(asked: Asked) -> None:
        if asked.first > 8 * PART:
            await asyncio.sleep(30)

    async with RangeServer(content(40 * PART), behave=behave) as server:
        source = await opened(server.url, concurrency=4)
        for _ in range(5):
            async with source.open(KEY) as stream, aclosing(stream.chunks()) as reading:
                for _ in range(chunks):
                    await anext(reading)
            assert tasks() == set()
        assert await asyncio.wait_for(gone(server), 5)


async def test_a_read_that_is_cancelled_leaves_nothing_behind(opened: Open) -> None:
    async def behave(asked: Asked) -> None:
        if asked.number >= 2:
            await asyncio.sleep(30)

    async with RangeServer(content(40 * PART), behave=behave) as server:
        reading = asyncio.create_task(read(await opened(server.url)))
        await asyncio.sleep(0.2)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        assert tasks() == set()
        assert await asyncio.wait_for(gone(server), 5)


async def gone(server: RangeServer) -> bool:
    while server.open_now:  # noqa: ASYNC110 - the server learns it from the socket
        await asyncio.sleep(0.01)
    return True


async def test_a_source_that_was_not_entered_is_not_open() -> None:
    source = S3Source(load_settings(s3_bucket="b"), Telemetry())
    with pytest.raises(RuntimeError):
        async with source.open(KEY):
            pass

"""Compressed files: what they hold, in pieces of bounded size, and how they end where they are damaged."""

import asyncio
import gzip
import random
import threading
import tracemalloc
import zlib
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import pytest

from codesvc.errors import SourceChangedError, SourceDamagedError
from codesvc.sources.file import FileSource
from codesvc.sources.inflate import InflatingSource

MEGABYTE = 1 << 20
NAME = "codes/1/tm/x.csv.gz"


class Stored:
    """One file in pieces of one length, under any name; counts the pieces that were taken of it."""

    def __init__(self, data: bytes, piece: int = 64 * 1024) -> None:
        self._data = data
        self._piece = piece
        self.taken = 0
        self.begun = asyncio.Event()
        self.ended = False

    @property
    def size(self) -> int:
        return len(self._data)

    @asynccontextmanager
    async def open(
        self, _name: str, /, *, start: int = 0, etag: str | None = None
    ) -> AsyncIterator["Stored"]:
        assert start == 0
        assert etag in {None, self.etag}
        yield self

    @property
    def etag(self) -> str:
        return '"stored"'

    @property
    def content_encoding(self) -> str:
        return ""

    async def chunks(self) -> AsyncIterator[bytes]:
        try:
            for start in range(0, len(self._data), self._piece):
                self.taken += 1
                self.begun.set()
                yield self._data[start : start + self._piece]
        finally:
            self.ended = True


async def read(
    data: bytes, *, piece: int = 64 * 1024, name: str = NAME, start: int = 0
) -> tuple[bytes, str | None]:
    """Return what is handed out, and why it ends if it is damaged."""
    found = bytearray()
    done = 0
    source = InflatingSource(Stored(data, piece))
    async with asyncio.timeout(60), source.open(name, start=start, etag='"stored"') as stream:
        assert (stream.size, stream.done, stream.etag) == (len(data), 0, '"stored"')
        try:
            async for some in stream.chunks():
                assert 0 < len(some) <= MEGABYTE
                assert done <= stream.done <= stream.size
                done = stream.done
                found += some
        except SourceDamagedError as error:
            return bytes(found), str(error)
        assert stream.done == stream.size
    return bytes(found), None


def lines(count: int) -> bytes:
    codes = random.Random(count)
    return b"".join(b"%012X,tm\n" % codes.getrandbits(48) for _ in range(count))


CONTENT = lines(300)
WHOLE = gzip.compress(CONTENT, mtime=0)
NAMED = b"\x1f\x8b\x08\x1c" + b"\0" * 6 + b"\x05\0extra" + b"name.csv\0" + b"a remark\0"


@pytest.mark.parametrize("piece", [1, 17, 1 << 20])
@pytest.mark.parametrize(
    ("data", "content"),
    [
        pytest.param(WHOLE, CONTENT, id="one member"),
        pytest.param(gzip.compress(CONTENT, 0), CONTENT, id="stored, not compressed"),
        pytest.param(WHOLE * 3, CONTENT * 3, id="three members"),
        pytest.param(gzip.compress(b"A\nB") + gzip.compress(b"C\nD\n"), b"A\nBC\nD\n", id="a code in two"),
        pytest.param(WHOLE + b"\0" * 1000, CONTENT, id="padded"),
        pytest.param(WHOLE + b"\0" * 7 + gzip.compress(b"Z\n"), CONTENT + b"Z\n", id="padded in between"),
        pytest.param(gzip.compress(b""), b"", id="of nothing"),
        pytest.param(gzip.compress(b"") * 99 + gzip.compress(b"Z\n"), b"Z\n", id="empty members"),
        pytest.param(NAMED + gzip.compress(b"N\n")[10:], b"N\n", id="with a name and a remark"),
    ],
)
async def test_what_it_holds(data: bytes, content: bytes, piece: int) -> None:
    assert await read(data, piece=piece) == (content, None)


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 0x55]) + data[at + 1 :]


@pytest.mark.parametrize("piece", [1, 1 << 20])
@pytest.mark.parametrize(
    ("data", "held", "words"),
    [
        (b"", b"", "is empty"),
        (CONTENT, b"", "is not gzip"),
        (b"\0\0" + WHOLE, b"", "is not gzip"),
        (b"\x1f", b"", "in the middle"),
        (WHOLE[:9], b"", "in the middle"),
        (WHOLE[:-1], CONTENT, "in the middle"),
        (WHOLE[:-8], CONTENT, "in the middle"),
        (WHOLE + WHOLE[:5], CONTENT, "in the middle"),
        (WHOLE + b"\x1f", CONTENT, "in the middle"),
        (WHOLE + b"rubbish", CONTENT, "follows the compressed data"),
        (WHOLE + b"\0\0rubbish", CONTENT, "follows the compressed data"),
        (b"\x1f\x8b\x07" + WHOLE[3:], b"", "is damaged"),
    ],
)
async def test_a_file_that_is_damaged(data: bytes, held: bytes, words: str, piece: int) -> None:
    found, damage = await read(data, piece=piece)
    assert damage is not None
    assert words in damage
    assert found == held


@pytest.mark.parametrize("at", [-8, -1])
async def test_a_checksum_or_a_length_that_is_wrong(at: int) -> None:
    # zlib tells of it together with the last bytes, which are not handed out.
    found, damage = await read(flipped(WHOLE, len(WHOLE) + at), piece=100)
    assert damage == "the compressed data is damaged: its checksum is wrong"
    assert CONTENT.startswith(found)
    assert len(found) > len(CONTENT) - 500


async def test_what_comes_before_the_damage_is_handed_out() -> None:
    content = lines(300_000)
    data = gzip.compress(content, 1)
    found, damage = await read(data[: len(data) // 2])
    assert damage == "the file ends in the middle of its compressed data"
    assert content.startswith(found)
    assert len(found) > len(content) // 3


async def test_one_byte_that_is_wrong_never_passes() -> None:
    for at in range(10, len(WHOLE), 7):
        _, damage = await read(flipped(WHOLE, at), piece=512)
        assert damage is not None, at


@pytest.mark.parametrize("name", ["x.csv", "x.gz", "x.csv.gz.csv", "csv.gz", "x.CSV.GZ"])
async def test_other_names_are_read_as_they_are(name: str) -> None:
    assert await read(WHOLE, name=name) == (WHOLE, None)


@pytest.mark.parametrize("start", [1, 16, 999, 2 * len(CONTENT), 3 * len(CONTENT) - 1, 3 * len(CONTENT)])
async def test_from_the_middle_on(start: int) -> None:
    """The place is one of what the file holds."""
    assert await read(WHOLE * 3, piece=777, start=start) == ((CONTENT * 3)[start:], None)


async def test_from_a_place_that_it_does_not_reach() -> None:
    with pytest.raises(SourceChangedError):
        await read(WHOLE, start=len(CONTENT) + 1)


async def test_a_plain_file_from_the_middle_on(tmp_path: Path) -> None:
    file = tmp_path / "x.csv"
    file.write_bytes(CONTENT)
    async with InflatingSource(FileSource()).open(str(file), start=100) as stream:
        assert stream.done == 100
        assert b"".join([some async for some in stream.chunks()]) == CONTENT[100:]
        assert stream.done == stream.size


async def test_a_file_of_the_file_system(tmp_path: Path) -> None:
    file = tmp_path / "x.csv.gz"
    file.write_bytes(WHOLE)
    async with InflatingSource(FileSource()).open(str(file)) as stream:
        assert b"".join([some async for some in stream.chunks()]) == CONTENT


async def test_a_bomb_takes_no_memory() -> None:
    """What makes a thousand times its length: a few pieces at a time, though it comes as one chunk."""
    packer = zlib.compressobj(9, wbits=31)
    zeros = bytes(MEGABYTE)
    bomb = b"".join(packer.compress(zeros) for _ in range(100)) + packer.flush()
    assert len(bomb) < MEGABYTE // 9
    bomb *= 3
    total = 0
    tracemalloc.start()
    try:
        async with InflatingSource(Stored(bomb, MEGABYTE)).open(NAME) as stream:
            async for some in stream.chunks():
                assert len(some) <= MEGABYTE
                total += len(some)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert total == 300 * MEGABYTE
    assert peak < 10 * MEGABYTE


async def test_it_reads_no_further_ahead_than_a_few_pieces() -> None:
    stored = Stored(gzip.compress(random.Random(1).randbytes(20 * MEGABYTE), 1))
    async with InflatingSource(stored).open(NAME) as stream, aclosing(stream.chunks()) as chunks:
        await anext(chunks)
        await asyncio.sleep(0.2)
        some = stored.taken
        await asyncio.sleep(0.2)
        assert stored.taken == some < 20
    assert stored.ended


async def test_a_file_that_is_only_looked_at_is_not_read() -> None:
    stored = Stored(WHOLE)
    async with InflatingSource(stored).open(NAME) as stream:
        assert stream.size == len(WHOLE)
        await asyncio.sleep(0)
    assert stored.taken == 0


async def test_a_read_that_is_given_up_leaves_nothing_behind() -> None:
    stored = Stored(gzip.compress(random.Random(1).randbytes(20 * MEGABYTE), 1))
    tasks = asyncio.all_tasks()

    async def stuck() -> None:
        async with InflatingSource(stored).open(NAME) as stream:
            async for _ in stream.chunks():
                await asyncio.sleep(30)

    reading = asyncio.create_task(stuck())
    await stored.begun.wait()
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    assert stored.ended
    assert asyncio.all_tasks() <= tasks


async def test_it_is_done_in_a_thread() -> None:
    """The event loop is free while a piece is decompressed: the next one is under way as soon as one is handed out."""
    assert threading.current_thread() is threading.main_thread()
    slow = asyncio.Event()
    packed = gzip.compress(bytes(32 * MEGABYTE), 9)
    moments = 0

    async def tick() -> None:
        nonlocal moments
        while not slow.is_set():
            moments += 1
            await asyncio.sleep(0)

    ticking = asyncio.create_task(tick())
    async with InflatingSource(Stored(packed)).open(NAME) as stream:
        pieces = [len(some) async for some in stream.chunks()]
    slow.set()
    await ticking
    assert sum(pieces) == 32 * MEGABYTE
    # Far more than the few turns that a loop gets which decompresses by itself.
    assert moments > 10 * len(pieces)

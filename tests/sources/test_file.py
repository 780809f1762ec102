"""Local files."""

import asyncio
import os
from pathlib import Path

import pytest

from codesvc.errors import SourceChangedError, SourceNotFoundError, StorageUnavailableError
from codesvc.sources.file import FileSource

MEGABYTE = 1 << 20


async def read(path: Path) -> bytes:
    async with FileSource().open(str(path)) as stream:
        data = b"".join([chunk async for chunk in stream.chunks()])
        assert stream.size == len(data)
        return data


@pytest.mark.parametrize("size", [0, 1, MEGABYTE - 1, MEGABYTE, MEGABYTE + 1, 3 * MEGABYTE + 7])
async def test_the_bytes_are_the_files(tmp_path: Path, size: int) -> None:
    file = tmp_path / "ä b.csv"
    file.write_bytes(os.urandom(size))
    assert await read(file) == file.read_bytes()


async def test_a_link(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"A\n")
    (tmp_path / "link").symlink_to("file")
    assert await read(tmp_path / "link") == b"A\n"


@pytest.mark.parametrize("name", ["none.csv", "directory", "file/below.csv", "none/below.csv", "dangling"])
async def test_no_such_file(tmp_path: Path, name: str) -> None:
    (tmp_path / "directory").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to("nowhere")
    with pytest.raises(SourceNotFoundError):
        await read(tmp_path / name)


async def test_a_file_that_cannot_be_opened(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(StorageUnavailableError):
        await read(tmp_path / "loop")
    with pytest.raises(StorageUnavailableError):
        await read(tmp_path / ("x" * 300))


async def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    # Reading one's own memory at its start is an I/O error.
    with pytest.raises(StorageUnavailableError):
        await read(Path("/proc/self/mem"))


@pytest.mark.parametrize("change", ["longer", "shorter", "other"])
async def test_a_file_that_is_written_to_while_it_is_read(tmp_path: Path, change: str) -> None:
    file = tmp_path / "x.csv"
    file.write_bytes(b"x" * 3 * MEGABYTE)
    os.utime(file, (1, 1))
    received = 0
    with pytest.raises(SourceChangedError):  # noqa: PT012 - the read is what raises
        async with FileSource().open(str(file)) as stream:
            async for chunk in stream.chunks():
                if received == 0:
                    with file.open("r+b") as handle:
                        if change == "shorter":
                            handle.truncate(MEGABYTE)
                        else:
                            handle.seek(0 if change == "other" else 3 * MEGABYTE)
                            handle.write(b"y")
                received += len(chunk)
    assert received >= MEGABYTE


async def test_a_file_that_is_replaced_is_read_as_it_was(tmp_path: Path) -> None:
    # Another file under the same name is not this one.
    file = tmp_path / "x.csv"
    file.write_bytes(b"x" * 2 * MEGABYTE)
    async with FileSource().open(str(file)) as stream:
        (tmp_path / "new").write_bytes(b"new")
        (tmp_path / "new").replace(file)
        assert b"".join([chunk async for chunk in stream.chunks()]) == b"x" * 2 * MEGABYTE


def open_files() -> set[Path]:
    return set(Path("/proc/self/fd").iterdir())


async def test_a_read_that_is_given_up_closes_the_file(tmp_path: Path) -> None:
    file = tmp_path / "x.csv"
    file.write_bytes(b"x" * 5 * MEGABYTE)
    begun = asyncio.Event()

    async def wait_in_the_middle() -> None:
        async with FileSource().open(str(file)) as stream:
            async for _ in stream.chunks():
                begun.set()
                await asyncio.sleep(30)

    before = open_files()
    async with FileSource().open(str(file)) as stream:
        await anext(stream.chunks())
    reading = asyncio.create_task(wait_in_the_middle())
    await begun.wait()
    assert open_files() > before
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    assert open_files() <= before


@pytest.mark.parametrize("start", [0, 1, MEGABYTE, 2 * MEGABYTE])
async def test_a_file_from_a_byte_on(tmp_path: Path, start: int) -> None:
    file = tmp_path / "file"
    file.write_bytes(os.urandom(2 * MEGABYTE))
    async with FileSource().open(str(file)) as stream:
        etag = stream.etag
    async with FileSource().open(str(file), start=start, etag=etag) as stream:
        assert stream.size == 2 * MEGABYTE
        assert b"".join([chunk async for chunk in stream.chunks()]) == file.read_bytes()[start:]


async def test_a_file_that_is_no_longer_the_one_that_was_read_before(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"A\nB\n")
    async with FileSource().open(str(file)) as stream:
        etag = stream.etag
    with pytest.raises(SourceChangedError):
        async with FileSource().open(str(file), start=5):
            pass
    file.write_bytes(b"A\nB\nC\n")
    with pytest.raises(SourceChangedError):
        async with FileSource().open(str(file), start=2, etag=etag):
            pass

"""Uploads from the local file system."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import BinaryIO, Final

from codesvc.errors import SourceChangedError, SourceNotFoundError, StorageUnavailableError
from codesvc.models import SourceFile

_CHUNK_BYTES: Final = 1 << 20


class FileSource:
    """Files by path."""

    @asynccontextmanager
    async def open(
        self, name: str, *, start: int = 0, etag: str | None = None
    ) -> AsyncIterator["FileStream"]:
        """Open a file, to read it from the byte ``start`` on.

        Raises:
            SourceNotFoundError: there is none of that name, or it is a directory.
            SourceChangedError: it is no longer the one that had this ``etag``, or is not so long.
            StorageUnavailableError: it may not be read.

        """
        try:
            file = await asyncio.to_thread(Path(name).open, "rb")
        except IsADirectoryError:
            raise SourceNotFoundError(
                "This is a directory; all of its files are meant by a / at the end."
            ) from None
        except (FileNotFoundError, NotADirectoryError):
            raise SourceNotFoundError("There is no such file.") from None
        except OSError as error:
            raise StorageUnavailableError(f"The file cannot be read: {error.strerror}.") from error
        try:
            stream = FileStream(file, start)
            if etag not in {None, stream.etag} or start > stream.size:
                raise SourceChangedError("The file is no longer the one that was read before.")
            yield stream
        finally:
            await asyncio.to_thread(file.close)

    async def files(self, prefix: str) -> AsyncIterator[SourceFile]:
        """Yield every file whose path begins with ``prefix``; links to directories are not followed.

        Raises:
            StorageUnavailableError: a directory may not be read.

        """
        directories = [prefix.rpartition("/")[0] + "/" if "/" in prefix else ""]
        while directories:
            directory = directories.pop()
            found, below = await asyncio.to_thread(_entries, directory)
            for file in found:
                if file.name.startswith(prefix):
                    yield file
            directories += [f"{name}/" for name in reversed(below) if name.startswith(prefix)]


class FileStream:
    """An open file."""

    def __init__(self, file: BinaryIO, start: int) -> None:
        self._file = file
        self._start = start
        self._opened = _identity(file)

    @property
    def size(self) -> int:
        """Its length in bytes when it was opened."""
        return self._opened[0]

    @property
    def content_encoding(self) -> str:
        """How its bytes are encoded: nothing tells, beyond its name."""
        return ""

    @property
    def etag(self) -> str:
        """What tells this version of the file from others."""
        return "{}-{}".format(*self._opened)

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield its bytes.

        Raises:
            SourceChangedError: it was written to meanwhile.
            StorageUnavailableError: it cannot be read any further.

        """
        try:
            await asyncio.to_thread(self._file.seek, self._start)
            while chunk := await asyncio.to_thread(self._file.read, _CHUNK_BYTES):
                yield chunk
            now = _identity(self._file)
        except OSError as error:
            raise StorageUnavailableError(f"The file cannot be read: {error.strerror}.") from error
        if now != self._opened:
            raise SourceChangedError("The file changed while it was being read.")


def _entries(directory: str) -> tuple[list[SourceFile], list[str]]:
    """Return the files and the directories of a directory, by name; both empty if there is none of that name."""
    files, directories = [], []
    try:
        with os.scandir(directory or ".") as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                name = directory + entry.name
                if entry.is_dir(follow_symlinks=False):
                    directories.append(name)
                elif entry.is_file():
                    files.append(SourceFile(name, entry.stat().st_size))
    except (FileNotFoundError, NotADirectoryError):
        return [], []
    except OSError as error:
        raise StorageUnavailableError(f"A directory cannot be read: {error.strerror}.") from error
    return files, directories


def _identity(file: BinaryIO) -> tuple[int, int]:
    status = os.fstat(file.fileno())
    return status.st_size, status.st_mtime_ns

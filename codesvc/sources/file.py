"""Uploads from the local file system."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import BinaryIO, Final

from codesvc.errors import SourceChangedError, SourceNotFoundError, StorageUnavailableError

_CHUNK_BYTES: Final = 1 << 20


class FileSource:
    """Files by path."""

    @asynccontextmanager
    async def open(self, name: str) -> AsyncIterator["FileStream"]:
        """Open a file.

        Raises:
            SourceNotFoundError: there is none of that name, or it is a directory.
            StorageUnavailableError: it may not be read.

        """
        try:
            file = await asyncio.to_thread(Path(name).open, "rb")
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            raise SourceNotFoundError("There is no such file.") from None
        except OSError as error:
            raise StorageUnavailableError(f"The file cannot be read: {error.strerror}.") from error
        try:
            yield FileStream(file)
        finally:
            await asyncio.to_thread(file.close)


class FileStream:
    """An open file."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._opened = _identity(file)

    @property
    def size(self) -> int:
        """Its length in bytes when it was opened."""
        return self._opened[0]

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield its bytes.

        Raises:
            SourceChangedError: it was written to meanwhile.
            StorageUnavailableError: it cannot be read any further.

        """
        try:
            while chunk := await asyncio.to_thread(self._file.read, _CHUNK_BYTES):
                yield chunk
            now = _identity(self._file)
        except OSError as error:
            raise StorageUnavailableError(f"The file cannot be read: {error.strerror}.") from error
        if now != self._opened:
            raise SourceChangedError("The file changed while it was being read.")


def _identity(file: BinaryIO) -> tuple[int, int]:
    status = os.fstat(file.fileno())
    return status.st_size, status.st_mtime_ns

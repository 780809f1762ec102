"""The page of memory that the supervisor and its workers share.

    0      8                  8 + 8 n
    | lock | load of worker 1 | load of worker 2 | …        each an unsigned 64-bit number

A load is the number of connections that a worker holds; a worker that does not accept has the greatest there is. Each
worker writes its own only. The file behind the page is what log lines are locked with (fcntl(2), F_SETLK: the kernel
lets go of the lock when its holder dies).
"""

import mmap
import os
import struct
import tempfile
from typing import Final, Self

_SLOT: Final = struct.Struct("=Q")
_NOT_ACCEPTING: Final = (1 << 64) - 1

MAX_WORKERS: Final = 256
_SIZE: Final = _SLOT.size * (MAX_WORKERS + 1)


class SharedPage:
    """One process's view of the page; ``fd`` is what a new process inherits."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._memory = mmap.mmap(fd, _SIZE)

    @classmethod
    def create(cls) -> Self:
        """Make a new page, on which nobody accepts. It lies in no file system: a read-only root will do."""
        if hasattr(os, "memfd_create"):
            fd = os.memfd_create("codesvc-workers", os.MFD_CLOEXEC)
        else:
            with tempfile.TemporaryFile() as file:
                fd = os.dup(file.fileno())
        os.ftruncate(fd, _SIZE)
        page = cls(fd)
        for number in range(1, MAX_WORKERS + 1):
            page.withdraw(number)
        return page

    def close(self) -> None:
        """Let go of the page."""
        self._memory.close()
        os.close(self.fd)

    def set_load(self, number: int, connections: int) -> None:
        """Say how many connections a worker holds."""
        _SLOT.pack_into(self._memory, number * _SLOT.size, connections)

    def withdraw(self, number: int) -> None:
        """Say that a worker does not accept."""
        self.set_load(number, _NOT_ACCEPTING)

    def least_load(self, workers: int) -> int:
        """Return the least load of the first so many workers."""
        return int(min(struct.unpack_from(f"={workers}Q", self._memory, _SLOT.size)))

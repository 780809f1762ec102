"""Compressed files, decompressed on the way: gzip (RFC 1952), by the name ``….csv.gz``.

    source ──chunks──▶ zlib, in a thread, the GIL released ──pieces of at most 1 MiB, two ahead──▶ who reads

A file is one member or several in a row, with zeros after them or not, as gzip(1) takes it. What it holds is never in
memory as a whole, nor is what one chunk of it holds: a chunk of nothing but zeros makes a thousand times its length.
While one piece is parsed, the next is decompressed.

A file that the object store calls encoded as gzip (``Content-Encoding``, RFC 9110, section 8.4) is decompressed by any
name, and one of that name once, not twice: tools that pack a file on its way to S3 call it either, or both. Other files
pass through as they are. Positions are those of the decompressed bytes, so that to go on in the middle of a
compressed file is to decompress it from its beginning and to pass over what was read before.
"""

import asyncio
import zlib
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing, asynccontextmanager
from typing import Any, Final, Protocol

from codesvc.errors import SourceChangedError, SourceDamagedError

SUFFIX: Final = ".csv.gz"

_PIECE_BYTES: Final = 1 << 20
_PIECES_AHEAD: Final = 2
# What zlib is given at a time. It hands back what it has no use for as a copy: of a file of a million members, that
# would be the rest of the chunk for each; so the beginning of a member is a small slice.
_SLICE_BYTES: Final = 64 * 1024
_FIRST_SLICE_BYTES: Final = 1024
_GZIP_CODINGS: Final = frozenset({"gzip", "x-gzip"})
_GZIP: Final = 16 + zlib.MAX_WBITS

_NOT_GZIP: Final = "the file is not gzip"
_EMPTY: Final = "the file is empty, and not gzip"
_OTHER_ENCODING: Final = "the file is stored with a content encoding other than gzip"
_CUT_OFF: Final = "the file ends in the middle of its compressed data"
_NO_MEMBER: Final = "something that is not gzip follows the compressed data"
_CHECKSUM: Final = "the compressed data is damaged: its checksum is wrong"
_DAMAGED: Final = "the compressed data is damaged"


class Plain(Protocol):
    """An open file as it is stored."""

    @property
    def size(self) -> int:
        """Its length in bytes."""

    @property
    def etag(self) -> str | None:
        """What tells this version of it from others."""

    @property
    def content_encoding(self) -> str:
        """How its bytes are encoded, as a list of codings with commas (RFC 9110, section 8.4)."""

    def chunks(self) -> AsyncIterator[bytes]:
        """Its bytes, in order."""


class Source(Protocol):
    """Where the files are."""

    def open(
        self, name: str, /, *, start: int = 0, etag: str | None = None
    ) -> AbstractAsyncContextManager[Plain]:
        """Open one, to be read from the byte ``start`` on, if it is still the version that ``etag`` names."""


class InflatingSource:
    """The files of a source; those named ``….csv.gz`` are read as what they hold."""

    def __init__(self, source: Source) -> None:
        self._source = source

    @asynccontextmanager
    async def open(self, name: str, *, start: int = 0, etag: str | None = None) -> AsyncIterator["Opened"]:
        """Open a file, to read what it holds from the byte ``start`` on; raises what the source raises."""
        named = name.endswith(SUFFIX)
        async with AsyncExitStack() as stack:
            plain = await stack.enter_async_context(
                self._source.open(name, start=0 if named else start, etag=etag)
            )
            encodings = _encodings(plain.content_encoding)
            encoded = bool(encodings)
            if encoded and start and not named:
                # Who goes on in the middle of it learns only now that it has no such place.
                await stack.aclose()
                plain = await stack.enter_async_context(self._source.open(name, etag=etag))
            if encodings - _GZIP_CODINGS:
                opened: Opened = _Unreadable(plain, start)
            else:
                opened = Inflated(plain, start) if named or encoded else Opened(plain, start)
            stack.push_async_callback(opened.close)
            yield opened


class Opened:
    """An open file, read as it is."""

    def __init__(self, plain: Plain, start: int) -> None:
        self._plain = plain
        self._done = start

    @property
    def size(self) -> int:
        """Its length in bytes, as it is stored."""
        return self._plain.size

    @property
    def etag(self) -> str | None:
        """What tells this version of it from others."""
        return self._plain.etag

    @property
    def done(self) -> int:
        """The bytes of it, out of ``size``, that what was handed out so far stands for."""
        return self._done

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """Yield its bytes; raises what the source raises."""
        async for chunk in self._plain.chunks():
            self._done += len(chunk)
            yield chunk

    async def close(self) -> None:
        """Let go of what is under way."""


class Inflated(Opened):
    """An open file, read as what it holds."""

    def __init__(self, plain: Plain, start: int) -> None:
        super().__init__(plain, 0)
        self._skip = start
        self._task: asyncio.Task[None] | None = None

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """Yield its bytes, decompressed, in pieces of at most 1 MiB.

        Raises:
            SourceDamagedError: it is not gzip, or damaged, or cut off; all that could be read has been handed out.
            SourceChangedError: it holds less than was read of it before.

        """
        pieces: asyncio.Queue[tuple[bytes, int] | Exception | None] = asyncio.Queue(_PIECES_AHEAD)
        self._task = asyncio.create_task(self._read_ahead(pieces))
        while (piece := await pieces.get()) is not None:
            if isinstance(piece, Exception):
                raise piece
            data, self._done = piece
            yield data
        self._done = self.size

    async def close(self) -> None:
        """Read no further ahead."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _read_ahead(self, pieces: "asyncio.Queue[tuple[bytes, int] | Exception | None]") -> None:
        try:
            await self._inflate(pieces)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is raised to who reads, after what came before
            await pieces.put(error)
        else:
            await pieces.put(None)

    async def _inflate(self, pieces: "asyncio.Queue[tuple[bytes, int] | Exception | None]") -> None:
        inflater = _Inflater()
        taken = 0
        # Any: the source's chunks() is an asynchronous generator, though its Protocol need not say so.
        chunks: Any = self._plain.chunks()
        async with aclosing(chunks):
            async for chunk in chunks:
                taken += len(chunk)
                inflater.give(chunk)
                while not inflater.hungry:
                    data = await asyncio.to_thread(inflater.take)
                    passed_over = min(self._skip, len(data))
                    self._skip -= passed_over
                    if len(data) > passed_over:
                        await pieces.put((data[passed_over:], taken - inflater.left))
        inflater.finish()
        if self._skip:
            raise SourceChangedError("The file holds less than what was read of it before.")


class _Unreadable(Opened):
    """A file in a coding that is not known. As CSV, it would be taken for broken rows, a few of which are not."""

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """Raise SourceDamagedError."""
        raise SourceDamagedError(_OTHER_ENCODING)
        yield b""


def _encodings(content_encoding: str) -> set[str]:
    """Return how a file is encoded by what the object store says."""
    codings = {coding.strip().lower() for coding in content_encoding.split(",")}
    # Some stores keep aws-chunked, which was of the upload's request and not of the object.
    return codings - {"", "identity", "aws-chunked"}


class _Inflater:
    """Decompresses members in a row: give it a chunk, and take pieces until it is hungry."""

    def __init__(self) -> None:
        self._data = b""
        self._at = 0
        # None between members, and before the first.
        self._member: Any = None
        self._members = 0
        self._begun = False  # with this member: the beginning of it is a small slice
        self._full = False  # zlib may hold more of what it was given
        self._damage: str | None = None

    @property
    def left(self) -> int:
        """Bytes of the chunk that are still to be decompressed."""
        return len(self._data) - self._at

    @property
    def hungry(self) -> bool:
        """Whether there is nothing more to take."""
        return self._damage is None and not self._full and not self.left

    def give(self, data: bytes) -> None:
        """Give it the file's next bytes, once it is hungry."""
        self._data, self._at = data, 0

    def take(self) -> bytes:
        """Return what comes next, 1 MiB at most; empty where only zeros or the frame of a member have come.

        Raises SourceDamagedError after the last piece that could be had.
        """
        if self._damage is not None:
            raise SourceDamagedError(self._damage)
        pieces: list[bytes] = []
        room = _PIECE_BYTES
        while room and not self.hungry and self._damage is None:
            if self._member is None and not self._begin():
                continue
            piece = self._step(room)
            pieces.append(piece)
            room -= len(piece)
        return b"".join(pieces)

    def finish(self) -> None:
        """Take the end of the file; raises SourceDamagedError where it must not be."""
        if self._member is not None:
            raise SourceDamagedError(_CUT_OFF)
        if not self._members:
            raise SourceDamagedError(_EMPTY)

    def _begin(self) -> bool:
        """Begin a member, if what follows is not padding: zeros, but not before the first."""
        if self._members:
            some = self._data[self._at : self._at + _SLICE_BYTES]
            self._at += len(some) - len(some.lstrip(b"\0"))
            if not self.left or self._data[self._at] == 0:
                return False
        self._member = zlib.decompressobj(wbits=_GZIP)
        self._begun = False
        return True

    def _step(self, room: int) -> bytes:
        size = _SLICE_BYTES if self._begun else _FIRST_SLICE_BYTES
        given = self._data[self._at : self._at + size]
        self._begun = True
        try:
            piece: bytes = self._member.decompress(given, room)
        except zlib.error as error:
            self._damage = self._reason(str(error))
            return b""
        left = self._member.unused_data if self._member.eof else self._member.unconsumed_tail
        self._at += len(given) - len(left)
        self._full = len(piece) == room and not self._member.eof
        if self._member.eof:
            self._member = None
            self._members += 1
        return piece

    def _reason(self, error: str) -> str:
        # The words of zlib's inflate.c.
        if "incorrect header check" in error:
            return _NO_MEMBER if self._members else _NOT_GZIP
        return _CHECKSUM if "data check" in error or "length check" in error else _DAMAGED

"""The way of an upload: a source's chunks, through the extractor, into batches, to the store.

    source ──chunks──▶ Extractor ──batches──▶ at most K writes in flight ──▶ counts

One batch more than those in flight is kept ready, so memory is bounded whatever the file's size: K + 1 batches and
what the source reads ahead.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Protocol

from codesvc._fastcsv import Batch, Extractor
from codesvc.errors import DrainingError, InvalidRowError, NotCsvError, UploadRejectedError
from codesvc.models import CodeType, InvalidRow, Progress, UploadCounts, UploadReport

# The extractor runs on the event loop's thread: so much at a time keeps every call below a millisecond, and after so
# much without a wait the loop's other tasks get their turn.
_FEED_BYTES: Final = 128 * 1024
_YIELD_BYTES: Final = 1 << 20
_DRAINING: Final = "The process is going away before the upload is done."


class Stream(Protocol):
    """An open file."""

    @property
    def size(self) -> int:
        """Its length in bytes."""

    def chunks(self) -> AsyncIterator[bytes]:
        """Its bytes, in order, in pieces of any length."""


class Source(Protocol):
    """Where files come from."""

    def open(self, name: str, /) -> AbstractAsyncContextManager[Stream]:
        """Open one; raises SourceNotFoundError, StorageUnavailableError, or later SourceChangedError."""


class BatchWriter(Protocol):
    """Writes the batches of one upload, several at once."""

    async def write(self, batch: Batch) -> UploadCounts:
        """Store a batch and tell how many of its codes were new."""


class Store(Protocol):
    """Where codes go."""

    async def writer(self, *, campaign_id: str, code_type: CodeType, saved: datetime) -> BatchWriter:
        """Make ready for one upload."""

    async def batch_limits(self) -> tuple[int, int]:
        """Tell how many codes, and how many bytes, one write may hold."""


class UploadTelemetry(Protocol):
    """What is told of one upload."""

    def read(self, size: int) -> None:
        """Count bytes that were read."""

    def batch(self, codes: int) -> AbstractContextManager[None]:
        """Time the write of a batch."""

    def stored(self, *, inserted: int, updated: int) -> None:
        """Count codes that were stored."""

    def invalid(self, count: int) -> None:
        """Count rows that were not."""


class Telemetry(Protocol):
    """What is told of uploads."""

    def upload(self, *, campaign_id: str, code_type: str) -> AbstractContextManager[UploadTelemetry]:
        """Time an upload."""


@dataclass(frozen=True, slots=True)
class Options:
    """How uploads run: codes in a batch, batches in flight, the longest record in bytes."""

    batch_size: int
    write_concurrency: int
    max_row_bytes: int


class Uploads:
    """Runs uploads, any number at once."""

    def __init__(
        self,
        *,
        source: Source | None,
        store: Store,
        telemetry: Telemetry,
        options: Options,
        clock: Callable[[], datetime],
    ) -> None:
        self._source = source
        self._store = store
        self._telemetry = telemetry
        self._options = options
        self._clock = clock
        self._draining = False
        self._running: set[asyncio.Timeout] = set()

    def drain(self) -> None:
        """Let every upload end after the batches in flight, with DrainingError; start no other."""
        self._draining = True
        while self._running:
            self._running.pop().reschedule(0)

    async def run(
        self,
        *,
        campaign_id: str,
        code_type: CodeType,
        file_key: str,
        header: bool = False,
        strict: bool = False,
        source: Source | None = None,
        progress: Callable[[Progress], None] | None = None,
    ) -> UploadReport:
        """Load a file's codes into a campaign.

        The file is read from ``source`` (by default, the one that ``file_key`` is a key of). ``progress`` is called
        after each chunk.

        Raises:
            SourceNotFoundError, SourceChangedError, StorageUnavailableError: see the source.
            InvalidRowError: ``strict``, and a row was invalid; all valid rows before it are stored.
            NotCsvError: a record was longer than the limit; all valid rows before it are stored.
            DatabaseUnavailableError: a batch could not be written; sending the upload again is safe and exact.
            DrainingError: the process is going away; likewise.

        """
        source = source or self._source
        if source is None:
            raise RuntimeError("there is no source to read from")
        with self._telemetry.upload(campaign_id=campaign_id, code_type=code_type.value) as told:
            async with self._until_drained() as running, source.open(file_key) as stream:
                max_codes, max_bytes = await self._store.batch_limits()
                saved = self._clock()
                extractor = Extractor(
                    campaign_id=campaign_id,
                    code_type=code_type.value,
                    saved_ms=round(saved.timestamp() * 1000),
                    header=header,
                    strict=strict,
                    max_batch_codes=min(self._options.batch_size, max_codes),
                    max_batch_bytes=max_bytes,
                    max_row_bytes=self._options.max_row_bytes,
                    # Neighbours in the index arrive together: MongoDB takes a sorted batch a fifth faster or more.
                    sort=True,
                )
                writer = await self._store.writer(campaign_id=campaign_id, code_type=code_type, saved=saved)
                flight = _Flight(writer, told, self._options.write_concurrency)
                try:
                    await self._pump(stream, extractor, flight, told, progress)
                finally:
                    # Writes under way are always waited for; a drain that began just now is too late to end this.
                    self._running.discard(running)
                    if not running.expired():
                        running.reschedule(None)
                    await flight.land()
                    told.invalid(extractor.invalid_count)
            flight.raise_failure()
            return _report(extractor, flight.counts)

    @asynccontextmanager
    async def _until_drained(self) -> AsyncIterator[asyncio.Timeout]:
        """Run a block that ends with DrainingError, wherever it waits, as soon as drain() was called."""
        if self._draining:
            raise DrainingError(_DRAINING)
        running = asyncio.timeout(None)
        try:
            async with running:
                self._running.add(running)
                try:
                    yield running
                finally:
                    self._running.discard(running)
        except TimeoutError:
            if not running.expired():
                raise
            raise DrainingError(_DRAINING) from None

    async def _pump(
        self,
        stream: Stream,
        extractor: Extractor,
        flight: "_Flight",
        told: UploadTelemetry,
        progress: Callable[[Progress], None] | None,
    ) -> None:
        done = since_yield = 0
        async for chunk in stream.chunks():
            for piece in _pieces(chunk):
                for batch in extractor.feed(piece):
                    await flight.send(batch)
                if extractor.failure is not None:
                    break
            told.read(len(chunk))
            done += len(chunk)
            if progress is not None:
                progress(Progress(done, stream.size, flight.counts))
            if extractor.failure is not None:
                break
            since_yield += len(chunk)
            if since_yield >= _YIELD_BYTES:
                since_yield = 0
                await asyncio.sleep(0)
        for batch in extractor.finish():
            await flight.send(batch)
        if progress is not None:
            await flight.land()
            progress(Progress(done, stream.size, flight.counts))


class _Flight:
    """The writes under way: at most so many, all of them waited for, the first failure kept."""

    def __init__(self, writer: BatchWriter, told: UploadTelemetry, concurrency: int) -> None:
        self._writer = writer
        self._told = told
        self._slots = asyncio.Semaphore(concurrency)
        self._tasks: set[asyncio.Task[None]] = set()
        self._failure: BaseException | None = None
        self.counts = UploadCounts()

    async def send(self, batch: Batch) -> None:
        """Start the write of a batch as soon as there is a slot; raises what an earlier write raised."""
        await self._slots.acquire()
        if self._failure is not None:
            self._slots.release()
            raise self._failure
        task = asyncio.create_task(self._write(batch))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def land(self) -> None:
        """Wait for every write under way. None is cancelled: the server would carry it out all the same."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def raise_failure(self) -> None:
        """Raise what a write raised, if any did."""
        if self._failure is not None:
            raise self._failure

    async def _write(self, batch: Batch) -> None:
        try:
            with self._told.batch(len(batch)):
                counts = await self._writer.write(batch)
        except BaseException as error:
            self._failure = self._failure or error
            if not isinstance(error, Exception):
                raise
        else:
            self.counts += counts
            self._told.stored(inserted=counts.inserted, updated=counts.updated)
        finally:
            self._slots.release()


def _pieces(chunk: bytes) -> Iterator[bytes | memoryview]:
    if len(chunk) <= _FEED_BYTES:
        yield chunk
        return
    view = memoryview(chunk)
    for start in range(0, len(chunk), _FEED_BYTES):
        yield view[start : start + _FEED_BYTES]


def _report(extractor: Extractor, counts: UploadCounts) -> UploadReport:
    if extractor.failure is not None:
        kind, line, reason = extractor.failure
        rejected: type[UploadRejectedError] = InvalidRowError if kind == "invalidRow" else NotCsvError
        raise rejected(InvalidRow(line, reason), counts)
    return UploadReport(
        counts=counts,
        invalid_count=extractor.invalid_count,
        invalid_samples=tuple(InvalidRow(line, reason) for line, reason in extractor.invalid_samples),
    )

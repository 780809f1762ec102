"""The way of an upload: a source's chunks, through the extractor, into batches, to the store.

    source ──chunks──▶ Extractor ──runs of sorted codes, cut into batches──▶ at most K writes in flight ──▶ counts

While one run is written, the next is read and sorted, and no more than that; so memory is bounded whatever the file's
size: two runs of codes, K encoded batches, and what the source reads ahead. The longer a run, the closer together its
codes lie in the indexes; but no write waits for a run to fill: what has been read is cut off as soon as a write could
begin.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Protocol

from codesvc._fastcsv import Batch, Extractor
from codesvc.errors import (
    CodesvcError,
    CorruptFileError,
    DrainingError,
    InvalidRowError,
    NotCsvError,
    SourceDamagedError,
    UploadRejectedError,
)
from codesvc.ingest.outcomes import outcome_told
from codesvc.models import CodeType, InvalidRow, Progress, UploadCounts, UploadReport

_DRAINING: Final = "The process is going away before the upload is done."

MAX_SAMPLES: Final = 100
"""Invalid rows that are told one by one."""

Begin = Callable[[int], Awaitable[datetime]]
KeepInvalid = Callable[[bytes], Awaitable[None]]

_INVALID_BYTES: Final = 1 << 20


class Stream(Protocol):
    """An open file."""

    @property
    def size(self) -> int:
        """Its length in bytes, as it is stored: if it is compressed, not of what it holds."""

    @property
    def done(self) -> int:
        """The bytes of it, out of ``size``, that the pieces handed out so far stand for."""

    @property
    def etag(self) -> str | None:
        """What tells this version of it from others; None where it is empty."""

    def chunks(self) -> AsyncIterator[bytes]:
        """Its bytes, in order, in pieces of any length; of a compressed file, those that it holds."""


class Source(Protocol):
    """Where files come from."""

    def open(
        self, name: str, /, *, start: int = 0, etag: str | None = None
    ) -> AbstractAsyncContextManager[Stream]:
        """Open one, to be read from the byte ``start`` on, if it is still the version that ``etag`` names.

        Raises SourceNotFoundError, StorageUnavailableError, or at any time SourceChangedError; or, once it is read,
        SourceDamagedError.
        """


class BatchWriter(Protocol):
    """Writes the batches of one upload, several at once."""

    @property
    def sorts(self) -> bool:
        """Whether codes shall come sorted, and none twice in a run, rather than in the file's order."""

    async def write(self, batch: Batch) -> UploadCounts:
        """Store a batch and tell how many of its codes were new."""


class Store(Protocol):
    """Where codes go."""

    async def writer(self, *, campaign_id: str, code_type: CodeType, saved: datetime) -> BatchWriter:
        """Make ready for one upload."""

    async def batch_limits(self) -> tuple[int, int]:
        """Tell how many codes, and how many bytes, one write may hold."""


class Told(Protocol):
    """Takes what became of a batch."""

    def tell(self, **attributes: str | int) -> None:
        """Tell it."""


class UploadTelemetry(Protocol):
    """What is told of one upload."""

    def read(self, size: int) -> None:
        """Count bytes that were read."""

    def batch(self, codes: int) -> AbstractContextManager[Told]:
        """Time the write of a batch."""

    def waiting(self, batches: int) -> None:
        """Tell how many batches are ready, and wait to be written."""

    def stored(self, *, inserted: int, updated: int) -> None:
        """Count codes that were stored."""

    def invalid(self, count: int) -> None:
        """Count rows that were not."""

    def ended(self, outcome: str) -> None:
        """Tell how it ended."""


class Telemetry(Protocol):
    """What is told of uploads."""

    def upload(self, *, campaign_id: str, code_type: str) -> AbstractContextManager[UploadTelemetry]:
        """Time an upload."""


@dataclass(frozen=True, slots=True)
class Options:
    """How uploads run: codes in a batch, codes sorted together, batches in flight, the longest record in bytes.

    ``max_writes`` are the batches in flight of all uploads together, but not fewer than one may have.
    """

    batch_size: int
    sort_codes: int
    write_concurrency: int
    max_row_bytes: int
    max_writes: int = 8


class Halt:
    """Ends an upload from outside, wherever it waits, after the batches in flight."""

    def __init__(self) -> None:
        self._reason: CodesvcError | None = None
        self._block: asyncio.Timeout | None = None

    def call(self, reason: CodesvcError) -> None:
        """Let the upload end with ``reason``, unless it was told to end before, or is about to end by itself."""
        if self._reason is None:
            self._reason = reason
            if self._block is not None:
                self._block.reschedule(0)

    def no_more(self) -> None:
        """Let the block go on to its end: it is too late for a halt that is called from now on."""
        block, self._block = self._block, None
        if block is not None and not block.expired():
            block.reschedule(None)

    @asynccontextmanager
    async def block(self) -> AsyncIterator[None]:
        """Run a block that raises the reason of the halt as soon as one is called."""
        if self._reason is not None:
            raise self._reason
        block = asyncio.timeout(None)
        try:
            async with block:
                self._block = block
                try:
                    yield
                finally:
                    self._block = None
        except TimeoutError:
            if self._reason is None or not block.expired():
                raise
            raise self._reason from None


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
        self._running: set[Halt] = set()
        # In the order in which they came, of which each upload has a few: so all of them have their writes in turn.
        self._gate = asyncio.Semaphore(max(options.max_writes, options.write_concurrency))

    def drain(self) -> None:
        """Let every upload end after the batches in flight, with DrainingError; start no other."""
        self._draining = True
        for halt in self._running:
            halt.call(DrainingError(_DRAINING))

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
        begin: Begin | None = None,
        halt: Halt | None = None,
        keep_invalid: KeepInvalid | None = None,
    ) -> UploadReport:
        """Load a file's codes into a campaign.

        The file is read from ``source`` (by default, the one that ``file_key`` is a key of). ``progress`` is called
        after each batch, and at the end. ``begin`` is called with the file's size once that is open, before anything is
        written, and tells the instant at which all new codes are saved; what it raises ends the upload. ``halt`` ends
        it from outside, with an error of its own. ``keep_invalid`` is handed every invalid row, as lines of CSV, some
        10,000 to 30,000 at a time.

        Raises:
            SourceNotFoundError, SourceChangedError, StorageUnavailableError: see the source.
            InvalidRowError: ``strict``, and a row was invalid; all valid rows before it are stored.
            NotCsvError: a record was longer than the limit; all valid rows before it are stored.
            CorruptFileError: a compressed file is damaged; all valid rows that could be read are stored.
            DatabaseUnavailableError: a batch could not be written; sending the upload again is safe and exact.
            DrainingError: the process is going away; likewise.

        """
        source = source or self._source
        if source is None:
            raise RuntimeError("there is no source to read from")
        upload = self._telemetry.upload(campaign_id=campaign_id, code_type=code_type.value)
        with upload as told, outcome_told(told):
            halt = halt or Halt()
            async with self._until_drained(halt), source.open(file_key) as stream:
                saved = self._clock() if begin is None else await begin(stream.size)
                max_codes, max_bytes = await self._store.batch_limits()
                writer = await self._store.writer(campaign_id=campaign_id, code_type=code_type, saved=saved)
                batch_size = min(self._options.batch_size, max_codes)
                # Runs take memory: the more uploads are under way, the shorter are those of the next.
                sort_codes = max(self._options.sort_codes // max(1, len(self._running)), batch_size)
                extractor = Extractor(
                    campaign_id=campaign_id,
                    code_type=code_type.value,
                    saved_ms=round(saved.timestamp() * 1000),
                    header=header,
                    strict=strict,
                    max_batch_codes=batch_size,
                    max_batch_bytes=max_bytes,
                    max_row_bytes=self._options.max_row_bytes,
                    max_samples=MAX_SAMPLES,
                    all_invalid=keep_invalid is not None,
                    sort=sort_codes if writer.sorts else 0,
                )
                meter = _Meter(stream, extractor, told, progress)
                flight = _Flight(writer, told, meter, self._options.write_concurrency, self._gate)
                invalid = _Invalid(extractor, keep_invalid)
                damage: SourceDamagedError | None = None
                try:
                    damage = await self._pump(stream, extractor, flight, meter, invalid, batch_size)
                finally:
                    # Writes under way are always waited for; a drain that began just now is too late to end this.
                    halt.no_more()
                    await flight.land()
                    if not flight.failed:
                        await invalid.hand_on()
                    told.invalid(extractor.invalid_count)
            flight.raise_failure()
            return _report(extractor, flight.counts, damage)

    @asynccontextmanager
    async def _until_drained(self, halt: Halt) -> AsyncIterator[None]:
        """Run a block that ends with DrainingError, wherever it waits, as soon as drain() was called."""
        if self._draining:
            raise DrainingError(_DRAINING)
        self._running.add(halt)
        try:
            async with halt.block():
                yield
        finally:
            self._running.discard(halt)

    async def _pump(
        self,
        stream: Stream,
        extractor: Extractor,
        flight: "_Flight",
        meter: "_Meter",
        invalid: "_Invalid",
        batch_size: int,
    ) -> SourceDamagedError | None:
        damage: SourceDamagedError | None = None
        # Parsing and sorting let go of the interpreter, and a run takes a tenth of a second to sort: in a thread, they
        # hold nobody up.
        try:
            async for chunk in stream.chunks():
                batches = await asyncio.to_thread(extractor.feed, chunk)
                meter.parsed()
                await invalid.take()
                if not batches and flight.hungry and extractor.pending >= batch_size:
                    batches = await asyncio.to_thread(extractor.flush)
                await flight.send(batches)
                if extractor.failure is not None:
                    break
        except SourceDamagedError as error:
            damage = error
        # Where it broke off, it broke off in the middle of a record: half a code must not pass for a whole one.
        batches = await asyncio.to_thread(extractor.finish if damage is None else extractor.flush)
        meter.parsed()
        await flight.send(batches)
        await invalid.take()
        await flight.emptied()
        return damage


class _Flight:
    """The writes under way, at most so many, and the batches that wait for them; the first failure is kept."""

    def __init__(
        self,
        writer: BatchWriter,
        told: UploadTelemetry,
        meter: "_Meter",
        concurrency: int,
        gate: asyncio.Semaphore,
    ) -> None:
        self._writer = writer
        self._told = told
        self._meter = meter
        self._concurrency = concurrency
        self._gate = gate
        self._waiting: deque[Batch] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._moved = asyncio.Event()
        self._failure: BaseException | None = None
        self.counts = UploadCounts()

    @property
    def failed(self) -> bool:
        """Whether a write has failed."""
        return self._failure is not None

    @property
    def hungry(self) -> bool:
        """Whether one more batch would be written at once."""
        return not self._waiting and len(self._tasks) < self._concurrency

    async def send(self, batches: Sequence[Batch]) -> None:
        """Take batches over as soon as none waits from before; raises what an earlier write raised."""
        if batches:
            await self.emptied()
            earlier = set(self._tasks)
            self._waiting.extend(batches)
            self._start()
            # While there is work enough: the memory of the run before, for the next one to be read to.
            if earlier and len(self._waiting) > self._concurrency:
                await asyncio.wait(earlier)

    async def emptied(self) -> None:
        """Wait until no batch waits; raises what a write raised."""
        while self._waiting and self._failure is None:
            self._moved.clear()
            await self._moved.wait()
        self.raise_failure()

    async def land(self) -> None:
        """Start no more writes and wait for those under way. None is cancelled: the server would carry it out."""
        self._waiting.clear()
        self._told.waiting(0)
        while self._tasks:
            await asyncio.wait(self._tasks)
        self._meter.tell(self.counts)

    def raise_failure(self) -> None:
        """Raise what a write raised, if any did."""
        if self._failure is not None:
            raise self._failure

    def _start(self) -> None:
        while self._waiting and len(self._tasks) < self._concurrency and self._failure is None:
            task = asyncio.create_task(self._write(self._waiting.popleft()))
            self._tasks.add(task)
            task.add_done_callback(self._landed)
        self._told.waiting(len(self._waiting))

    def _landed(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._start()
        self._moved.set()

    async def _write(self, batch: Batch) -> None:
        try:
            async with self._gate:
                with self._told.batch(len(batch)) as told:
                    counts = await self._writer.write(batch)
                    told.tell(inserted=counts.inserted, updated=counts.updated + batch.repeats)
        except BaseException as error:
            self._failure = self._failure or error
            if not isinstance(error, Exception):
                raise
        else:
            counts += UploadCounts(updated=batch.repeats)
            self.counts += counts
            self._told.stored(inserted=counts.inserted, updated=counts.updated)
            self._meter.tell(self.counts)


class _Invalid:
    """Hands the invalid rows on, many at a time, so that no more of them than that are in memory."""

    def __init__(self, extractor: Extractor, keep: KeepInvalid | None) -> None:
        self._extractor = extractor
        self._keep = keep
        self._seen = 0
        self._lines = bytearray()

    async def take(self) -> None:
        """Take those of the last piece over, and hand on what has come together if it is much."""
        if self._keep is not None and self._extractor.invalid_count != self._seen:
            self._seen = self._extractor.invalid_count
            self._lines += await asyncio.to_thread(self._extractor.take_invalid)
            if len(self._lines) >= _INVALID_BYTES:
                await self.hand_on()

    async def hand_on(self) -> None:
        """Hand on what has come together."""
        if self._keep is not None and self._lines:
            lines, self._lines = bytes(self._lines), bytearray()
            await self._keep(lines)


class _Meter:
    """Tells how far an upload has come: of the bytes that were parsed, the share whose codes are stored."""

    def __init__(
        self,
        stream: Stream,
        extractor: Extractor,
        told: UploadTelemetry,
        progress: Callable[[Progress], None] | None,
    ) -> None:
        self._stream = stream
        self._extractor = extractor
        self._told = told
        self._progress = progress
        self._parsed = 0
        self._done = 0
        self._invalid_count = 0
        self._samples: tuple[InvalidRow, ...] = ()

    def parsed(self) -> None:
        """Count bytes that the extractor has taken, as they are stored."""
        size, self._parsed = self._stream.done - self._parsed, self._stream.done
        self._told.read(size)
        # Only between two pieces does no other thread write to the extractor.
        if self._extractor.invalid_count != self._invalid_count:
            self._invalid_count = self._extractor.invalid_count
            if len(self._samples) < MAX_SAMPLES:
                self._samples = _samples(self._extractor)

    def tell(self, counts: UploadCounts) -> None:
        """Tell it, now that so many codes are stored."""
        if self._progress is not None:
            codes = self._extractor.codes
            done = self._parsed * counts.total // codes if codes else self._parsed
            self._done = max(self._done, done)
            self._progress(
                Progress(self._done, self._stream.size, counts, self._invalid_count, self._samples)
            )


def _report(extractor: Extractor, counts: UploadCounts, damage: SourceDamagedError | None) -> UploadReport:
    if extractor.failure is not None:
        kind, line, reason = extractor.failure
        rejected: type[UploadRejectedError] = InvalidRowError if kind == "invalidRow" else NotCsvError
        raise rejected(InvalidRow(line, reason), counts)
    if damage is not None:
        raise CorruptFileError(InvalidRow(extractor.line, str(damage)), counts) from damage
    return UploadReport(
        counts=counts,
        invalid_count=extractor.invalid_count,
        invalid_samples=_samples(extractor),
    )


def _samples(extractor: Extractor) -> tuple[InvalidRow, ...]:
    return tuple(InvalidRow(line, reason) for line, reason in extractor.invalid_samples)

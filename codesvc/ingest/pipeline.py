"""The way of an upload: a source's chunks, through the extractor, into batches, to the store.

    source ──chunks──▶ Extractor ──runs of sorted codes, cut into batches──▶ at most K writes in flight ──▶ counts

While one run is written, the next is read and sorted, and no more than that; so memory is bounded whatever the file's
size: two runs of codes, K encoded batches, and what the source reads ahead. The longer a run, the closer together its
codes lie in the indexes; but no write waits for a run to fill: what has been read is cut off as soon as a write could
begin.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Protocol

from codesvc._fastcsv import Extractor
from codesvc.errors import (
    CodesvcError,
    CorruptFileError,
    DrainingError,
    InvalidRowError,
    NotCsvError,
    SourceDamagedError,
    UploadRejectedError,
)
from codesvc.ingest.flight import BatchWriter, Flight, Invalid, KeepInvalid, Meter, Permit, UploadTelemetry
from codesvc.ingest.outcomes import outcome_told
from codesvc.models import (
    MAX_SAMPLES,
    Checkpoint,
    CodeType,
    InvalidRow,
    Progress,
    UploadReport,
)

_DRAINING: Final = "The process is going away before the upload is done."

Begin = Callable[[int, str | None], Awaitable[datetime]]


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


class Store(Protocol):
    """Where codes go."""

    async def writer(self, *, campaign_id: str, code_type: CodeType, saved: datetime) -> BatchWriter:
        """Make ready for one upload."""

    async def batch_limits(self) -> tuple[int, int]:
        """Tell how many codes, and how many bytes, one write may hold."""


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

    def check(self) -> None:
        """Raise the reason of the halt if one was called."""
        if self._reason is not None:
            raise self._reason

    def no_more(self) -> None:
        """Let the block go on to its end: it is too late for a halt that is called from now on."""
        block, self._block = self._block, None
        if block is not None and not block.expired():
            block.reschedule(None)

    @asynccontextmanager
    async def block(self) -> AsyncIterator[None]:
        """Run a block that raises the reason of the halt as soon as one is called."""
        self.check()
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
        checkpoint: Checkpoint | None = None,
        etag: str | None = None,
        permit: Permit | None = None,
    ) -> UploadReport:
        """Load a file's codes into a campaign.

        The file is read from ``source`` (by default, the one that ``file_key`` is a key of). ``progress`` is called
        after each batch, and at the end. ``begin`` is called with the file's size and ETag once that is open, before
        anything is written, and tells the instant at which all new codes are saved; what it raises ends the upload.
        ``halt`` ends it from outside, with an error of its own. ``keep_invalid`` is handed the invalid rows before each
        checkpoint, as lines of CSV, up to 30,000 at a time, with a number that counts on.

        ``checkpoint`` is what an earlier ``progress`` told of the same upload, whose file had this ``etag``: it goes on
        there, and the report is of both together. What the earlier one wrote after the checkpoint is counted as
        updated.

        ``permit`` is asked before each batch is written: it returns when that may be; what it raises ends the upload.

        Raises:
            SourceNotFoundError, SourceChangedError, StorageUnavailableError: see the source.
            InvalidRowError: ``strict``, and a row was invalid; all valid rows before it are stored.
            NotCsvError: a record was longer than the limit; all valid rows before it are stored.
            CorruptFileError: a compressed file is damaged; all valid rows that could be read are stored.
            DatabaseUnavailableError: a batch could not be written; sending the upload again is safe and exact.
            DrainingError: the process is going away; likewise.

        """
        checkpoint = checkpoint or Checkpoint()
        source = source or self._source
        if source is None:
            raise RuntimeError("there is no source to read from")
        upload = self._telemetry.upload(campaign_id=campaign_id, code_type=code_type.value)
        with upload as told, outcome_told(told):
            halt = halt or Halt()
            async with (
                self._until_drained(halt),
                source.open(file_key, start=checkpoint.offset, etag=etag) as stream,
            ):
                saved = self._clock() if begin is None else await begin(stream.size, stream.etag)
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
                    max_samples=MAX_SAMPLES - len(checkpoint.invalid_samples),
                    all_invalid=keep_invalid is not None,
                    sort=sort_codes if writer.sorts else 0,
                    start=checkpoint.place,
                )
                meter = Meter(stream, extractor, told, progress, checkpoint)
                invalid = Invalid(extractor, keep_invalid, checkpoint)
                flight = Flight(
                    writer, told, meter, invalid, self._options.write_concurrency, self._gate, permit
                )
                damage: SourceDamagedError | None = None
                try:
                    damage = await self._pump(stream, extractor, flight, meter, invalid, batch_size)
                    # Not in there: the last batches, each with its documents, would be held until all are written.
                    await flight.emptied()
                finally:
                    # Writes under way are always waited for; a drain that began just now is too late to end this.
                    halt.no_more()
                    await flight.land()
                    if not flight.failed:
                        await flight.settle(at_end=True)
                    meter.tell()
                    told.invalid(extractor.invalid_count)
            flight.raise_failure()
            return _report(extractor, meter.progress, damage)

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
        flight: Flight,
        meter: Meter,
        invalid: Invalid,
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
                if not batches and ((flight.hungry and extractor.pending >= batch_size) or invalid.full):
                    batches = await asyncio.to_thread(extractor.flush)
                await flight.send(batches)
                if extractor.failure is not None:
                    break
                flight.mark(extractor.point)
                if invalid.full:
                    await flight.landed()
                await flight.settle()
        except SourceDamagedError as error:
            damage = error
        # Where it broke off, it broke off in the middle of a record: half a code must not pass for a whole one.
        batches = await asyncio.to_thread(extractor.finish if damage is None else extractor.flush)
        meter.parsed()
        await flight.send(batches)
        await invalid.take()
        return damage


def _report(extractor: Extractor, progress: Progress, damage: SourceDamagedError | None) -> UploadReport:
    counts = progress.counts
    if extractor.failure is not None:
        kind, line, reason = extractor.failure
        rejected: type[UploadRejectedError] = InvalidRowError if kind == "invalidRow" else NotCsvError
        raise rejected(InvalidRow(line, reason), counts)
    if damage is not None:
        raise CorruptFileError(InvalidRow(extractor.line, str(damage)), counts) from damage
    return UploadReport(counts, progress.invalid_count, progress.invalid_samples)

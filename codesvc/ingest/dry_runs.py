"""Dry runs: the way of an upload without its last step, to tell what it would come to.

    source ──chunks──▶ Extractor ──runs of sorted codes, cut into batches──▶ looks, at most K in flight
                                                                                │ codes that are not there
                                                                                ▼
                                                         Distinct: each of them once ──▶ inserted; the others: updated

Rows, lines and errors are the pipeline's own, as it runs with a store that only looks. What a look cannot tell is
whether an unknown code has come before in the same file. So the unknown ones are counted by their hashes
(``Distinct``), 8 bytes for each. A file with more unknown codes than there is room for is gone through several times,
each time for another range of hashes; every code is looked up in one of these passes, or two.

Nothing is written, neither codes nor that something is about to be. Others may write meanwhile: each code counts as it
was when it was looked up.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, nullcontext
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Final, Protocol

from codesvc._fastcsv import NOT_SEEN, Batch, Distinct
from codesvc.errors import DrainingError, UploadRejectedError
from codesvc.ingest.flight import KeepInvalid, Permit, Told, UploadTelemetry
from codesvc.ingest.outcomes import outcome_told
from codesvc.ingest.pipeline import Begin, Halt, Options, Source, Stream, Telemetry, Uploads
from codesvc.models import Checkpoint, CodeType, Progress, UploadCounts, UploadReport

MOST_HASHES: Final = 16_000_000
"""Hashes that are kept in memory, 128 MB of them, by all the dry runs of a process that begin alone."""

_ALL: Final = 1 << 64


class Stock(Protocol):
    """What is there."""

    async def batch_limits(self) -> tuple[int, int]:
        """Tell how many codes, and how many bytes, one write may hold."""

    async def known(self, batch: Batch) -> bytearray:
        """Tell which codes of a batch are there: for each a byte, NOT_SEEN where it is not."""


class DryRuns:
    """Goes through files to tell what their uploads would come to, any number at once.

    Arguments:
        most_hashes: as many are kept by one dry run; by each of n at once, an n-th of that.

    """

    def __init__(
        self,
        *,
        source: Source | None,
        stock: Stock,
        telemetry: Telemetry,
        options: Options,
        clock: Callable[[], datetime],
        most_hashes: int = MOST_HASHES,
    ) -> None:
        self._source = source
        self._stock = stock
        self._telemetry = telemetry
        self._options = options
        self._clock = clock
        self._most_hashes = most_hashes
        # As uploads share their writes: see codesvc/ingest/pipeline.py.
        self._gate = asyncio.Semaphore(max(options.max_writes, options.write_concurrency))
        self._halts: set[Halt] = set()
        self._draining = False

    def drain(self) -> None:
        """Let every dry run end with DrainingError; start no other."""
        self._draining = True
        for halt in self._halts:
            halt.call(_draining())

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
        checkpoint: Checkpoint | None = None,  # noqa: ARG002
        etag: str | None = None,
        permit: Permit | None = None,  # noqa: ARG002 - nothing is written
    ) -> UploadReport:
        """Tell what ``Uploads.run`` would return if it were called now with the same arguments.

        It begins at the file's beginning, wherever the ``checkpoint`` is, and tells of none.

        It raises what that would raise; the counts of an UploadRejectedError are those of the codes that would have
        been stored before it. Of the counts that ``progress`` is told, ``inserted`` may be too high until the last
        time: a code that comes again is not yet known to do so.
        """
        source = source or self._source
        if source is None:
            raise RuntimeError("there is no source to read from")
        if self._draining:
            raise _draining()
        halt = halt or Halt()
        self._halts.add(halt)
        try:
            upload = self._telemetry.upload(campaign_id=campaign_id, code_type=code_type.value)
            with upload as told, outcome_told(told):
                under_way = len(self._halts)
                options = replace(self._options, sort_codes=self._options.sort_codes // under_way)
                capacity = max(2, self._most_hashes // under_way)
                file = _OneVersion(source, etag)
                meter = _Meter(progress)

                async def one_pass(distinct: Distinct, first: bool) -> UploadReport:
                    pipeline = Uploads(
                        source=file,
                        store=_Looker(self._stock, distinct, self._gate),
                        telemetry=_Quiet(told),
                        options=options,
                        clock=self._clock,
                    )
                    return await pipeline.run(
                        campaign_id=campaign_id,
                        code_type=code_type,
                        file_key=file_key,
                        header=header,
                        strict=strict,
                        progress=meter.of(distinct),
                        begin=begin if first else None,
                        halt=halt,
                        keep_invalid=keep_invalid if first else None,
                    )

                return await _passes(one_pass, capacity, meter)
        finally:
            self._halts.discard(halt)


async def _passes(
    one_pass: Callable[[Distinct, bool], Awaitable[UploadReport]], capacity: int, meter: "_Meter"
) -> UploadReport:
    """Go through the file as often as it needs; return what the first pass did, with the right counts."""
    key = os.urandom(16)
    first = inserted = 0
    outcome: UploadReport | UploadRejectedError | None = None
    while first < _ALL:
        distinct = Distinct(key=key, first=first, capacity=capacity)
        found: UploadReport | UploadRejectedError
        try:
            found = await one_pass(distinct, outcome is None)
        except UploadRejectedError as error:
            found = error  # in each pass in the same place
        outcome = outcome or found
        inserted += await asyncio.to_thread(distinct.count)
        first = distinct.last + 1
    assert outcome is not None  # noqa: S101 - there was a first pass
    counts = UploadCounts(inserted, outcome.counts.total - inserted)
    meter.end(counts)
    if isinstance(outcome, UploadRejectedError):
        outcome.counts = counts
        raise outcome
    return replace(outcome, counts=counts)


def _draining() -> DrainingError:
    return DrainingError("The process is going away before the dry run is done.")


class _Looker:
    """Looks up the codes of each batch, instead of writing them."""

    sorts: Final = True

    def __init__(self, stock: Stock, distinct: Distinct, gate: asyncio.Semaphore) -> None:
        self._stock = stock
        self._distinct = distinct
        self._gate = gate
        # Batches come several at once, and are counted one after another.
        self._turn = asyncio.Lock()

    async def batch_limits(self) -> tuple[int, int]:
        """Tell how many codes, and how many bytes, one write may hold."""
        return await self._stock.batch_limits()

    async def writer(self, *, campaign_id: str, code_type: CodeType, saved: datetime) -> "_Looker":  # noqa: ARG002
        """Make ready for nothing."""
        return self

    async def write(self, batch: Batch) -> UploadCounts:
        """Look up those codes of the batch whose turn it is, and count the unknown ones."""
        async with self._turn:
            chosen = await asyncio.to_thread(self._distinct.select, batch)
        mine = batch.pick(chosen, 1) if 0 in chosen else batch
        unknown = 0
        if len(mine):
            async with self._gate:
                known = await self._stock.known(mine)
            new = mine.pick(known, NOT_SEEN)
            unknown = len(new)
            async with self._turn:
                await asyncio.to_thread(self._distinct.add, new)
        return UploadCounts(unknown, len(batch) - unknown)


class _OneVersion:
    """A file that is opened again as the version that it was the first time."""

    def __init__(self, source: Source, etag: str | None) -> None:
        self._source = source
        self._etag = etag

    @asynccontextmanager
    async def open(self, name: str, /, *, start: int = 0, etag: str | None = None) -> AsyncIterator[Stream]:
        """Open it; raises SourceChangedError where it is another by now."""
        async with self._source.open(name, start=start, etag=etag or self._etag) as stream:
            self._etag = stream.etag
            yield stream


class _Meter:
    """Tells how far a dry run has come, however many times it goes through the file.

    What is done is the share of all hashes that earlier passes have counted, and of the share of this one, as much as
    it has read of the file. That share becomes less when there is no more room; what was told to be done stays so.
    """

    def __init__(self, progress: Callable[[Progress], None] | None) -> None:
        self._progress = progress
        self._last: Progress | None = None
        self._done = 0

    def of(self, distinct: Distinct) -> Callable[[Progress], None] | None:
        """Make what the pipeline tells in one pass."""
        return None if self._progress is None else partial(self._note, distinct)

    def end(self, counts: UploadCounts) -> None:
        """Tell the right counts."""
        if self._last is not None:
            self._tell(replace(self._last, counts=counts))

    def _note(self, distinct: Distinct, now: Progress) -> None:
        first, end = distinct.first, distinct.last + 1
        done = (first * now.bytes_total + (end - first) * now.bytes_done) // _ALL
        self._done = max(self._done, done)
        if first and self._last is not None:
            now = self._last  # the first pass has read and counted everything
        self._tell(replace(now, bytes_done=self._done))

    def _tell(self, progress: Progress) -> None:
        self._last = progress = replace(progress, checkpoint=Checkpoint(), beyond=False)
        if self._progress is not None:
            self._progress(progress)


class _Quiet:
    """Tells of a dry run what is true of it as well: that it reads. It stores nothing."""

    def __init__(self, told: UploadTelemetry) -> None:
        self._told = told

    @contextmanager
    def upload(self, *, campaign_id: str, code_type: str) -> Iterator["_Quiet"]:  # noqa: ARG002
        """Go on with what is told of the whole."""
        yield self

    def read(self, size: int) -> None:
        """Count bytes that were read."""
        self._told.read(size)

    def batch(self, codes: int) -> AbstractContextManager[Told]:  # noqa: ARG002
        """Time no write."""
        return nullcontext(self)

    def tell(self, **attributes: str | int) -> None:
        """Tell nothing of a batch."""

    def waiting(self, batches: int) -> None:
        """Tell how many batches are ready to be looked up."""
        self._told.waiting(batches)

    def stored(self, *, inserted: int, updated: int) -> None:  # noqa: ARG002
        """Tell only that it comes on."""
        self._told.stored(inserted=0, updated=0)

    def invalid(self, count: int) -> None:
        """Count no invalid rows."""

    def ended(self, outcome: str) -> None:
        """Leave the end to the whole."""

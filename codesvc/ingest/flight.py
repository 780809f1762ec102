"""What an upload has under way: its writes, the invalid rows that are to be kept, and how far it has come.

    read          ─────────────────────────────────────────────▶  the extractor has handed out runs of codes
    confirmed     ──────────────────────▶   ▪▪ ▪                  every batch of these runs is; of later runs, some are
    checkpoint    ────────────────▶                               the invalid rows before it are kept as well

A run of codes ends between two records, and its codes lie anywhere in it. So a checkpoint moves over whole runs: as
soon as all batches of one, and of all runs before it, are confirmed under the write concern.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Final, Protocol

from codesvc._fastcsv import Batch, Extractor
from codesvc.models import MAX_SAMPLES, Checkpoint, InvalidRow, Progress, UploadCounts

KeepInvalid = Callable[[int, bytes], Awaitable[None]]
# Returns when a batch may be written; raises where none may be any more.
Permit = Callable[[], Awaitable[None]]

# (offset, line, after CR, codes, invalid rows), see Extractor.point; the last two since this process began.
Point = tuple[int, int, bool, int, int]

# What a piece of invalid rows holds at most, or a line more.
_PIECE_BYTES: Final = 1 << 20
# Between two pieces that hold less.
_PIECE_SECONDS: Final = 1.0
# Of invalid rows that no checkpoint has passed: some 400,000 of them, more than two runs of an ordinary file have.
_INVALID_BYTES: Final = 16 << 20


class BatchWriter(Protocol):
    """Writes the batches of one upload, several at once."""

    @property
    def sorts(self) -> bool:
        """Whether codes shall come sorted, and none twice in a run, rather than in the file's order."""

    async def write(self, batch: Batch) -> UploadCounts:
        """Store a batch and tell how many of its codes were new."""


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


class Size(Protocol):
    """The file that is read."""

    @property
    def size(self) -> int:
        """Its length in bytes, as it is stored."""

    @property
    def done(self) -> int:
        """The bytes of it that have been read."""


@dataclass(slots=True)
class _Run:
    """Codes that end at ``point``, where that is known.

    Batches that are not confirmed, whether the writing of any has begun, counts of those that are confirmed.
    """

    left: int = 0
    begun: bool = False
    counts: UploadCounts = field(default_factory=UploadCounts)
    point: Point | None = None


class Flight:
    """The writes under way, at most so many, and the batches that wait for them; the first failure is kept."""

    def __init__(
        self,
        writer: BatchWriter,
        told: UploadTelemetry,
        meter: "Meter",
        invalid: "Invalid",
        concurrency: int,
        gate: asyncio.Semaphore,
        permit: Permit | None = None,
    ) -> None:
        self._writer = writer
        self._told = told
        self._meter = meter
        self._invalid = invalid
        self._concurrency = concurrency
        self._gate = gate
        self._permit = permit
        self._waiting: deque[tuple[Batch, _Run]] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._moved = asyncio.Event()
        self._failure: BaseException | None = None
        # Those that are not confirmed as a whole, in order; the last one may have more to come.
        self._runs: deque[_Run] = deque([_Run()])
        self._confirmed: Point | None = None
        self._confirmed_counts = meter.counts

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
            for batch in batches:
                self._runs[-1].left += 1
                self._waiting.append((batch, self._runs[-1]))
                self.mark(batch.point)
            self._start()
            # While there is work enough: the memory of the run before, for the next one to be read to.
            if earlier and len(self._waiting) > self._concurrency:
                await asyncio.wait(earlier)

    def mark(self, point: Point | None) -> None:
        """Note that the codes sent since the last mark, if any were, are those before ``point``."""
        if point is None:
            return
        last = self._runs[-1]
        if not last.left and len(self._runs) > 1:
            self._runs[-2].point = point  # nothing but rows without a code since then
        elif not last.left:
            self._confirmed = point
            self._advance()
        else:
            last.point = point
            self._runs.append(_Run())

    async def emptied(self) -> None:
        """Wait until no batch waits; raises what a write raised."""
        while self._waiting and self._failure is None:
            self._moved.clear()
            await self._moved.wait()
        self.raise_failure()

    async def landed(self) -> None:
        """Wait until all that was sent is confirmed; raises what a write raised."""
        while self._tasks and self._failure is None:
            await asyncio.wait(self._tasks)
        self.raise_failure()

    async def land(self) -> None:
        """Start no more writes and wait for those under way. None is cancelled: the server would carry it out."""
        self._waiting.clear()
        self._told.waiting(0)
        while self._tasks:
            await asyncio.wait(self._tasks)
        self._tell_beyond()

    async def settle(self, *, at_end: bool = False) -> None:
        """Keep the invalid rows that a checkpoint waits for; ``at_end``, all of them."""
        if at_end:
            if self._confirmed is not None:
                await self._invalid.keep(self._confirmed[4])
                self._advance()
            await self._invalid.keep(self._invalid.seen)
            self._meter.pieces = self._invalid.pieces
            self._tell_beyond()
        elif self._confirmed is not None and await self._invalid.keep_some(self._confirmed[4]):
            self._advance()
            self._meter.tell()

    def raise_failure(self) -> None:
        """Raise what a write raised, if any did."""
        if self._failure is not None:
            raise self._failure

    def _start(self) -> None:
        while self._waiting and len(self._tasks) < self._concurrency and self._failure is None:
            batch, run = self._waiting.popleft()
            run.begun = True
            task = asyncio.create_task(self._write(batch, run))
            self._tasks.add(task)
            task.add_done_callback(self._landed)
        self._told.waiting(len(self._waiting))

    def _landed(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._start()
        self._moved.set()

    async def _write(self, batch: Batch, run: _Run) -> None:
        try:
            async with self._gate:
                if self._permit is not None:
                    await self._permit()
                with self._told.batch(len(batch)) as told:
                    counts = await self._writer.write(batch)
                    told.tell(inserted=counts.inserted, updated=counts.updated + batch.repeats)
            await self._stored(run, counts + UploadCounts(updated=batch.repeats))
        except BaseException as error:
            self._failure = self._failure or error
            if not isinstance(error, Exception):
                raise

    async def _stored(self, run: _Run, counts: UploadCounts) -> None:
        run.left -= 1
        run.counts += counts
        self._told.stored(inserted=counts.inserted, updated=counts.updated)
        self._meter.stored(counts)
        if not run.left:
            self._confirm()
        self._meter.tell()
        if not run.left:
            # Here as well as after each piece of the file: the next one may be long in coming.
            await self.settle()

    def _confirm(self) -> None:
        while (run := self._runs[0]).point is not None and not run.left:
            self._runs.popleft()
            self._confirmed = run.point
            self._confirmed_counts += run.counts
        self._advance()

    def _tell_beyond(self) -> None:
        unconfirmed = any(run.begun for run in self._runs)
        self._meter.beyond = unconfirmed or self._confirmed is not None

    def _advance(self) -> None:
        """Let the checkpoint move over what is confirmed, if the invalid rows before that are kept."""
        if self._confirmed is not None and self._invalid.kept(self._confirmed[4]):
            self._meter.pass_(self._confirmed, self._confirmed_counts, self._invalid.pieces)
            self._confirmed = None


class Invalid:
    """Keeps the invalid rows, many at a time, each piece ending where a checkpoint can be."""

    def __init__(self, extractor: Extractor, keep: KeepInvalid | None, start: Checkpoint) -> None:
        self._extractor = extractor
        self._keep = keep
        self._kept = 0
        self._kept_at = float("-inf")
        self._lines = bytearray()
        self._one_by_one = asyncio.Lock()
        self.seen = 0
        self.pieces = start.pieces

    @property
    def full(self) -> bool:
        """Whether there are so many that a checkpoint should pass them before there are more."""
        return len(self._lines) >= _INVALID_BYTES

    async def take(self) -> None:
        """Take those of the last piece of the file over."""
        if self._keep is not None and self._extractor.invalid_count != self.seen:
            lines = await asyncio.to_thread(self._extractor.take_invalid)
            self._lines += lines
            self.seen = self._extractor.invalid_count

    def kept(self, count: int) -> bool:
        """Tell whether the first ``count`` are kept."""
        return self._keep is None or self._kept >= count

    async def keep_some(self, count: int) -> bool:
        """Keep the first ``count``, if it is time to, or if they are many; tell whether it was done."""
        many = len(self._lines) >= _PIECE_BYTES
        if self.kept(count) or not (many or time.monotonic() - self._kept_at >= _PIECE_SECONDS):
            return False
        await self.keep(count)
        return True

    async def keep(self, count: int) -> None:
        """Keep the first ``count``."""
        async with self._one_by_one:
            if self._keep is None or self.kept(count):
                return
            ready = _take_lines(self._lines, count - self._kept)
            while ready:
                end = ready.find(b"\n", _PIECE_BYTES) + 1 or len(ready)
                await self._keep(self.pieces, ready[:end])
                self.pieces += 1
                ready = ready[end:]
            self._kept = count
            self._kept_at = time.monotonic()


class Meter:
    """Tells how far an upload has come: of the bytes that were parsed, the share whose codes are stored."""

    def __init__(
        self,
        stream: Size,
        extractor: Extractor,
        told: UploadTelemetry,
        progress: Callable[[Progress], None] | None,
        start: Checkpoint,
    ) -> None:
        self._stream = stream
        self._extractor = extractor
        self._told = told
        self._progress = progress
        self._start = start
        self._parsed = self._done = self._begun = stream.done
        self._invalid_count = start.invalid_count
        self._samples = start.invalid_samples
        self.pieces = start.pieces
        self._checkpoint = start
        self.counts = start.counts
        self.beyond = True

    @property
    def progress(self) -> Progress:
        """How far it has come."""
        return Progress(
            self._done,
            self._stream.size,
            self.counts,
            self._invalid_count,
            self._samples,
            self.pieces,
            self._checkpoint,
            self.beyond,
        )

    def parsed(self) -> None:
        """Count bytes that the extractor has taken, as they are stored."""
        size, self._parsed = self._stream.done - self._parsed, self._stream.done
        self._told.read(size)
        # Only between two pieces does no other thread write to the extractor.
        invalid_count = self._start.invalid_count + self._extractor.invalid_count
        if invalid_count != self._invalid_count:
            self._invalid_count = invalid_count
            if len(self._samples) < MAX_SAMPLES:
                found = [InvalidRow(line, reason) for line, reason in self._extractor.invalid_samples]
                self._samples = (*self._start.invalid_samples, *found)

    def stored(self, counts: UploadCounts) -> None:
        """Count codes that are confirmed."""
        self.counts += counts

    def pass_(self, point: Point, counts: UploadCounts, pieces: int) -> None:
        """Let the checkpoint be ``point``; ``counts`` are those of the codes before it."""
        offset, line, after_cr, _, invalid = point
        invalid += self._start.invalid_count
        self.pieces = pieces
        self._checkpoint = Checkpoint(
            offset, line, after_cr, counts, invalid, self._samples[:invalid], pieces
        )

    def tell(self) -> None:
        """Tell it."""
        codes = self._extractor.codes
        stored = self.counts.total - self._start.counts.total
        done = self._begun + (self._parsed - self._begun) * stored // codes if codes else self._parsed
        self._done = max(self._done, done)
        if self._progress is not None:
            self._progress(self.progress)


def _take_lines(lines: bytearray, count: int) -> bytes:
    """Take the first ``count`` lines out of ``lines``."""
    rest = lines.split(b"\n", count)[count]
    taken = bytes(lines[: len(lines) - len(rest)])
    del lines[: len(taken)]
    return taken

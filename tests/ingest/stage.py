"""The pipeline's neighbours, played by the test: a file in pieces, a store that takes its time, and an audience."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

from codesvc._fastcsv import Batch
from codesvc.ingest.pipeline import Options, Uploads
from codesvc.models import CodeType, UploadCounts

INSTANT = datetime(2026, 3, 1, 12, 0, 0, 123_000, tzinfo=UTC)

Hook = Callable[[int], Awaitable[None]]


async def nothing(_number: int) -> None:
    """Do nothing."""


@dataclass
class File:
    """A file that is handed out in pieces; ``before`` is awaited before each."""

    pieces: list[bytes]
    before: Hook = nothing
    start: int = 0
    taken: int = 0
    done: int = 0
    opened: int = 0
    closed: int = 0

    @property
    def size(self) -> int:
        return sum(len(piece) for piece in self.pieces)

    @property
    def etag(self) -> str | None:
        return '"stage"'

    @asynccontextmanager
    async def open(self, _name: str, /, *, start: int = 0, etag: str | None = None) -> AsyncIterator["File"]:
        assert etag in {None, '"stage"'}
        self.start = start
        self.opened += 1
        self.done = start
        try:
            yield self
        finally:
            self.closed += 1

    async def chunks(self) -> AsyncIterator[bytes]:
        at = 0
        for number, piece in enumerate(self.pieces):
            await self.before(number)
            self.taken += 1
            rest = piece[max(0, self.start - at) :]
            at += len(piece)
            if rest:
                self.done = at
                yield rest
        await self.before(len(self.pieces))


@dataclass
class Store:
    """Takes batches; ``during`` is awaited in the middle of each write. Every code is new."""

    during: Hook = nothing
    limits: tuple[int, int] = (100_000, 16_000_000)
    begun: list[list[str]] = field(default_factory=list)
    done: list[list[str]] = field(default_factory=list)
    most_at_once: int = 0
    saved: datetime | None = None
    sorts: bool = True

    async def batch_limits(self) -> tuple[int, int]:
        return self.limits

    async def writer(self, *, campaign_id: str, code_type: CodeType, saved: datetime) -> "Store":
        assert (campaign_id, code_type) == ("spring", CodeType.TM)
        self.saved = saved
        return self

    async def write(self, batch: Batch) -> UploadCounts:
        codes = batch.codes()
        number = len(self.begun)
        self.begun.append(codes)
        self.most_at_once = max(self.most_at_once, len(self.begun) - len(self.done))
        await asyncio.sleep(0)
        await self.during(number)
        self.done.append(codes)
        return UploadCounts(inserted=len(codes))


@dataclass
class Audience:
    """Keeps what it is told of an upload."""

    uploads: list[str] = field(default_factory=list)
    outcomes: list[str] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)
    batch_outcomes: list[str] = field(default_factory=list)
    batch_counts: UploadCounts = field(default_factory=UploadCounts)
    bytes_read: int = 0
    counts: UploadCounts = field(default_factory=UploadCounts)
    invalid_rows: int = 0
    batches_waiting: int = 0
    most_waiting: int = 0
    ends: list[str] = field(default_factory=list)

    @contextmanager
    def upload(self, *, campaign_id: str, code_type: str) -> Iterator["Audience"]:
        self.uploads.append(f"{campaign_id} {code_type}")
        with _outcome(self.outcomes):
            yield self

    @contextmanager
    def batch(self, codes: int) -> Iterator["Audience"]:
        self.batches.append(codes)
        with _outcome(self.batch_outcomes):
            yield self

    def tell(self, **counts: str | int) -> None:
        self.batch_counts += UploadCounts(int(counts["inserted"]), int(counts["updated"]))

    def read(self, size: int) -> None:
        self.bytes_read += size

    def stored(self, *, inserted: int, updated: int) -> None:
        self.counts += UploadCounts(inserted, updated)

    def invalid(self, count: int) -> None:
        self.invalid_rows += count

    def waiting(self, batches: int) -> None:
        self.most_waiting = max(self.most_waiting, batches)
        self.batches_waiting = batches

    def ended(self, outcome: str) -> None:
        self.ends.append(outcome)


@contextmanager
def _outcome(outcomes: list[str]) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        outcomes.append(type(error).__name__)
        raise
    outcomes.append("ok")


def uploads(
    file: File | None,
    store: Store,
    audience: Audience | None = None,
    *,
    batch_size: int = 10,
    sort_codes: int = 10,
    write_concurrency: int = 2,
    max_row_bytes: int = 4096,
    max_writes: int = 8,
) -> Uploads:
    """Put the pipeline between them."""
    return Uploads(
        source=file,
        store=store,
        telemetry=audience or Audience(),
        options=Options(batch_size, sort_codes, write_concurrency, max_row_bytes, max_writes),
        clock=lambda: INSTANT,
    )


def lines(count: int, *, start: int = 0) -> bytes:
    """Return so many lines of one code each."""
    return b"".join(b"CODE-%06d\n" % number for number in range(start, start + count))

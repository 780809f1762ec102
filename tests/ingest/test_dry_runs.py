"""What an upload would come to: in one pass or in several, and however it ends."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest

from codesvc._fastcsv import NOT_SEEN, SEEN, Batch
from codesvc.errors import (
    DatabaseUnavailableError,
    DrainingError,
    InvalidRowError,
    NotCsvError,
    SourceChangedError,
    UploadCancelledError,
)
from codesvc.ingest.dry_runs import DryRuns
from codesvc.ingest.pipeline import Halt, Options
from codesvc.models import CodeType, InvalidRow, Progress, UploadCounts, UploadReport

from .stage import INSTANT, Audience, File


@dataclass
class Stock:
    """Knows some codes; ``during`` is awaited in the middle of each look."""

    codes: set[str] = field(default_factory=set)
    during: Callable[[int], Any] | None = None
    looks: int = 0
    looked_at: list[str] = field(default_factory=list)

    async def batch_limits(self) -> tuple[int, int]:
        return 100_000, 16_000_000

    async def known(self, batch: Batch) -> bytearray:
        codes = batch.codes()
        self.looks += 1
        self.looked_at += codes
        await asyncio.sleep(0)
        if self.during is not None:
            await self.during(self.looks)
        return bytearray(SEEN if code in self.codes else NOT_SEEN for code in codes)


def dry_runs(
    file: Any, stock: Stock, audience: Audience | None = None, *, most_hashes: int = 1_000_000
) -> DryRuns:
    return DryRuns(
        source=file,
        stock=stock,
        telemetry=audience or Audience(),
        options=Options(batch_size=20, sort_codes=60, write_concurrency=3, max_row_bytes=4096),
        clock=lambda: INSTANT,
        most_hashes=most_hashes,
    )


async def run(runs: DryRuns, **options: Any) -> UploadReport:
    async with asyncio.timeout(60):
        return await runs.run(
            campaign_id="spring", code_type=CodeType.TM, file_key="codes/spring/tm/x.csv", **options
        )


def pieces(codes: list[str], size: int = 700) -> list[bytes]:
    data = "".join(f"{code}\n" for code in codes).encode()
    return [data[start : start + size] for start in range(0, len(data), size)]


@pytest.mark.parametrize("most_hashes", [8, 50, 333, 1_000_000])
@pytest.mark.parametrize("known", [0, 100, 400])
async def test_counts_are_exact_in_however_many_passes(most_hashes: int, known: int) -> None:
    chance = random.Random(most_hashes + known)
    everything = [f"C{number:04}" for number in range(400)]
    rows = chance.choices(everything, k=600)
    stock = Stock(set(chance.sample(everything, known)))
    file = File(pieces(rows))
    report = await run(dry_runs(file, stock, most_hashes=most_hashes))
    new = set(rows) - stock.codes
    assert report.counts == UploadCounts(len(new), len(rows) - len(new))
    assert file.opened == file.closed
    assert file.opened <= len(new) / (most_hashes // 2) + 1
    assert (file.opened == 1) is (most_hashes >= len(rows)) or most_hashes > len(new)


async def test_a_code_is_not_looked_up_in_every_pass() -> None:
    """Of many passes, each looks at its own codes; only until the first is full does it look at others' as well."""
    codes = [f"C{number:04}" for number in range(1_000)]
    stock = Stock()
    file = File(pieces(codes))
    report = await run(dry_runs(file, stock, most_hashes=100))
    assert report.counts == UploadCounts(1_000, 0)
    assert file.opened > 10
    assert set(stock.looked_at) == set(codes)
    # A pass may look at twice as many as it keeps, and a few batches more, before it has forgotten the others.
    assert len(stock.looked_at) < 5 * len(codes)


@pytest.mark.parametrize("most_hashes", [40, 1_000_000])
async def test_how_far_it_has_come_never_goes_back(most_hashes: int) -> None:
    codes = [f"C{number:04}" for number in range(900)]
    seen: list[Progress] = []
    file = File(pieces([*codes, *codes[:50]]))
    await run(dry_runs(file, Stock(), most_hashes=most_hashes), progress=seen.append)
    done = [one.bytes_done for one in seen]
    assert done == sorted(done)
    assert done[-1] == file.size
    assert {one.bytes_total for one in seen} == {file.size}
    assert seen[-1].counts == UploadCounts(900, 50)
    if file.opened > 1:
        assert len(set(done)) > 10


async def test_invalid_rows_are_told_once() -> None:
    rows = [f"C{number:03}" for number in range(300)]
    rows[10] = "\x01"
    rows[200] = "\x02"
    kept: list[bytes] = []

    async def keep(number: int, lines: bytes) -> None:
        assert number == len(kept)
        kept.append(lines)

    report = await run(dry_runs(File(pieces(rows)), Stock(), most_hashes=50), keep_invalid=keep)
    assert report.counts == UploadCounts(298, 0)
    reason = "the code holds a control character"
    assert (report.invalid_count, report.invalid_samples) == (
        2,
        (InvalidRow(11, reason), InvalidRow(201, reason)),
    )
    assert b"".join(kept) == f"11,{reason}\r\n201,{reason}\r\n".encode()


@pytest.mark.parametrize("most_hashes", [30, 1_000_000])
async def test_how_it_would_be_rejected(most_hashes: int) -> None:
    codes = [f"C{number:03}" for number in range(200)]
    rows = [*codes, *codes[:100], "\x01", *[f"D{number:03}" for number in range(50)]]
    seen: list[Progress] = []
    runs = dry_runs(File(pieces(rows)), Stock(set(codes[:40])), most_hashes=most_hashes)
    with pytest.raises(InvalidRowError) as caught:
        await run(runs, strict=True, progress=seen.append)
    assert (caught.value.line, caught.value.counts) == (301, UploadCounts(160, 140))
    assert seen[-1].counts == UploadCounts(160, 140)
    rows[300] = '"' + "x" * 5_000
    runs = dry_runs(File(pieces(rows)), Stock(set(codes[:40])), most_hashes=most_hashes)
    with pytest.raises(NotCsvError) as told:
        await run(runs)
    assert (told.value.line, told.value.counts) == (301, UploadCounts(160, 140))


async def test_begin_is_asked_once() -> None:
    sizes: list[int] = []

    async def begin(size: int, _etag: str | None) -> datetime:
        sizes.append(size)
        return datetime(2026, 1, 1, tzinfo=UTC)

    file = File(pieces([f"C{number:03}" for number in range(300)]))
    await run(dry_runs(file, Stock(), most_hashes=50), begin=begin)
    assert file.opened > 2
    assert sizes == [file.size]


async def test_it_stores_nothing_and_is_one_upload_to_those_who_count() -> None:
    audience = Audience()
    file = File(pieces([*(f"C{number:03}" for number in range(300)), "\x01"]))
    await run(dry_runs(file, Stock(), audience, most_hashes=50))
    assert (audience.uploads, audience.outcomes, audience.ends) == (["spring tm"], ["ok"], ["succeeded"])
    assert audience.bytes_read == file.opened * file.size
    assert (audience.counts, audience.batches, audience.invalid_rows) == (UploadCounts(), [], 0)


@pytest.mark.parametrize("most_hashes", [50, 1_000_000])
@pytest.mark.parametrize("when", [1, 5, 40])
async def test_one_that_is_cancelled(most_hashes: int, when: int) -> None:
    halt = Halt()

    async def cancel(look: int) -> None:
        if look == when:
            halt.call(UploadCancelledError("enough"))

    file = File(pieces([f"C{number:04}" for number in range(2_000)]))
    audience = Audience()
    with pytest.raises(UploadCancelledError):
        await run(dry_runs(file, Stock(during=cancel), audience, most_hashes=most_hashes), halt=halt)
    assert file.opened == file.closed
    assert audience.ends == ["cancelled"]


async def test_drain_ends_those_under_way_and_starts_no_other() -> None:
    runs: DryRuns | None = None

    async def drain(_look: int) -> None:
        assert runs is not None
        runs.drain()

    file = File(pieces([f"C{number:04}" for number in range(2_000)]))
    runs = dry_runs(file, Stock(during=drain))
    with pytest.raises(DrainingError):
        await run(runs)
    with pytest.raises(DrainingError):
        await run(runs)
    assert file.opened == file.closed == 1


async def test_a_look_that_fails() -> None:
    async def fail(look: int) -> None:
        if look == 3:
            raise DatabaseUnavailableError("no answer")

    audience = Audience()
    file = File(pieces([f"C{number:04}" for number in range(2_000)]))
    with pytest.raises(DatabaseUnavailableError):
        await run(dry_runs(file, Stock(during=fail), audience))
    assert audience.ends == ["failed"]
    assert file.opened == file.closed == 1


class Replaced(File):
    """A file that another takes the place of each time that it was read."""

    @asynccontextmanager
    async def open(self, name: str, /, *, start: int = 0, etag: str | None = None) -> AsyncIterator[File]:
        if etag not in {None, self.etag}:
            raise SourceChangedError("another")
        async with super().open(name, start=start) as stream:
            yield stream

    @property
    def etag(self) -> str:
        return f'"{self.opened - self.closed or self.opened + 1}"'


async def test_a_file_that_is_replaced_between_two_passes() -> None:
    file = Replaced(pieces([f"C{number:03}" for number in range(300)]))
    with pytest.raises(SourceChangedError):
        await run(dry_runs(file, Stock(), most_hashes=50))
    assert file.opened == file.closed == 1


async def test_several_at_once_share_the_memory() -> None:
    """What one alone would count in one pass takes each of three a few, and all come to the same."""
    codes = [f"C{number:03}" for number in range(300)]
    files = [File(pieces([*codes, *codes[:n]])) for n in range(3)]
    runs = dry_runs(None, Stock(), most_hashes=400)
    reports = await asyncio.gather(*(run(runs, source=file) for file in files))
    assert [report.counts for report in reports] == [UploadCounts(300, n) for n in range(3)]
    assert [file.opened > 1 for file in files] == [False, True, True]

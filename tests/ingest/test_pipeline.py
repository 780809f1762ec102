"""The pipeline between a source and a store: order, bounds, ends, and what is told."""

import asyncio
import gc
from typing import Any

import pytest

from codesvc._fastcsv import Batch
from codesvc.errors import (
    DatabaseUnavailableError,
    DrainingError,
    InvalidRowError,
    NotCsvError,
    SourceChangedError,
    StorageUnavailableError,
)
from codesvc.ingest.pipeline import Uploads
from codesvc.models import CodeType, Progress, UploadCounts, UploadReport

from .stage import INSTANT, Audience, File, Store, lines, uploads


async def run(pipeline: Uploads, **options: Any) -> UploadReport:
    async with asyncio.timeout(10):
        return await pipeline.run(
            campaign_id="spring", code_type=CodeType.TM, file_key="codes/spring/tm/x.csv", **options
        )


async def settled() -> None:
    """Give everything that can go on the time to do so, threads included."""
    for _ in range(20):
        await asyncio.sleep(0.005)


def unblocked(event: asyncio.Event) -> Any:
    async def wait(_number: int) -> None:
        await event.wait()

    return wait


@pytest.mark.parametrize("piece", [1, 7, 4096, 10**9])
async def test_every_code_arrives_once_in_batches_of_the_size_asked_for(piece: int) -> None:
    data = lines(95)
    store = Store()
    report = await run(uploads(File([data[at : at + piece] for at in range(0, len(data), piece)]), store))
    assert report == UploadReport(counts=UploadCounts(inserted=95))
    assert [len(codes) for codes in store.begun] == [10] * 9 + [5]
    assert [code for codes in store.begun for code in codes] == lines(95).decode().split()
    assert store.saved == INSTANT


async def test_a_batch_is_no_larger_than_the_store_takes() -> None:
    store = Store(limits=(7, 16_000_000))
    await run(uploads(File([lines(20)]), store, batch_size=50, sort_codes=100))
    assert [len(codes) for codes in store.begun] == [7, 7, 6]
    store = Store(limits=(100_000, 1_000))
    await run(uploads(File([lines(20)]), store, batch_size=50, sort_codes=100))
    assert max(len(codes) for codes in store.begun) < 8


async def test_runs_are_sorted_and_told_of_their_repeats() -> None:
    store, audience = Store(), Audience()
    data = b"".join(b"CODE-%02d\n" % (number * 37 % 50) for number in range(100))
    report = await run(uploads(File([data]), store, audience, batch_size=10, sort_codes=100))
    assert [code for codes in store.begun for code in codes] == [f"CODE-{number:02}" for number in range(50)]
    assert report.counts == audience.counts == audience.batch_counts == UploadCounts(inserted=50, updated=50)


async def test_uploads_that_begin_beside_others_make_shorter_runs() -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def before(_number: int) -> None:
        begun.set()
        await ended.wait()

    store = Store()
    pipeline = uploads(None, store, batch_size=10, sort_codes=100)
    first = asyncio.create_task(run(pipeline, source=File([lines(1, start=900)], before=before)))
    await begun.wait()
    codes = lines(100).decode().split()
    await run(pipeline, source=File(["".join(f"{code}\n" for code in reversed(codes)).encode()]))
    assert [code for batch in store.begun for code in batch] == codes[50:] + codes[:50]
    ended.set()
    await first


async def test_a_store_that_sorts_nothing_gets_the_files_order() -> None:
    store = Store(sorts=False)
    await run(uploads(File([b"B\nC\nB\nA\n"]), store, batch_size=3, sort_codes=100))
    assert store.begun == [["B", "C", "B"], ["A"]]


async def test_no_write_waits_for_a_run_to_fill() -> None:
    first = asyncio.Event()

    async def before(number: int) -> None:
        if number == 1:
            await asyncio.wait_for(first.wait(), 5)

    async def during(_number: int) -> None:
        first.set()

    store = Store(during=during)
    pieces = [lines(30), lines(30, start=30)]
    report = await run(uploads(File(pieces, before=before), store, batch_size=10, sort_codes=1_000))
    assert report.counts.total == 60


async def test_a_file_without_a_code_is_no_write() -> None:
    for pieces in ([], [b""], [b"\n"], [b"\n", b"\n"]):
        store = Store()
        assert await run(uploads(File(pieces), store)) == UploadReport(counts=UploadCounts())
        assert store.begun == []


@pytest.mark.parametrize("concurrency", [1, 2, 5])
async def test_a_slow_store_holds_the_source_back(concurrency: int) -> None:
    released = asyncio.Event()
    store = Store(during=unblocked(released))
    file = File([lines(10, start=10 * number) for number in range(40)])
    running = asyncio.create_task(run(uploads(file, store, write_concurrency=concurrency)))
    await settled()
    # The writes in flight, one run that waits, and one that is ready: memory is bounded whatever the file's size.
    assert len(store.begun) == concurrency
    assert file.taken == concurrency + 2
    released.set()
    assert (await running).counts.total == 400
    assert store.most_at_once == concurrency


async def test_writes_overlap_with_reading() -> None:
    async def second_is_under_way(number: int) -> None:
        if number == 0:
            await second.wait()
        second.set()

    second = asyncio.Event()
    store = Store(during=second_is_under_way)
    await run(uploads(File([lines(10), lines(10, start=10)]), store))
    assert len(store.done) == 2


async def test_a_failed_batch_lets_the_others_land_and_is_raised_once() -> None:
    landed = asyncio.Event()

    async def during(number: int) -> None:
        if number == 3:
            raise DatabaseUnavailableError("no")
        if number == 2:
            await landed.wait()

    store, audience = Store(during=during), Audience()
    running = asyncio.create_task(run(uploads(File([lines(10)] * 50), store, audience)))
    await settled()
    assert not running.done()
    landed.set()
    with pytest.raises(DatabaseUnavailableError, match=r"^no$"):
        await running
    assert [len(store.begun), len(store.done)] == [4, 3]
    assert sorted(audience.batch_outcomes) == ["DatabaseUnavailableError", "ok", "ok", "ok"]
    assert audience.counts == UploadCounts(inserted=30)


async def test_the_first_of_several_failures_is_raised() -> None:
    async def during(number: int) -> None:
        await asyncio.sleep(0.01 * (3 - number))
        raise DatabaseUnavailableError(f"batch {number}")

    store = Store(during=during)
    with pytest.raises(DatabaseUnavailableError, match="batch 2"):
        await run(uploads(File([lines(30)]), store, write_concurrency=3))
    assert len(store.begun) == 3


async def test_a_failure_of_the_last_batch_is_raised_and_told() -> None:
    async def during(number: int) -> None:
        if number == 2:
            raise DatabaseUnavailableError("no")

    audience = Audience()
    with pytest.raises(DatabaseUnavailableError):
        await run(uploads(File([lines(25)]), Store(during=during), audience))
    assert audience.outcomes == ["DatabaseUnavailableError"]


@pytest.mark.parametrize("error", [SourceChangedError, StorageUnavailableError])
async def test_a_source_that_fails_lets_the_writes_land(error: type[Exception]) -> None:
    async def before(number: int) -> None:
        if number == 3:
            raise error("gone")

    async def during(_number: int) -> None:
        await asyncio.sleep(0.02)

    store, audience, file = Store(during=during), Audience(), File([lines(10)] * 9, before=before)
    with pytest.raises(error, match="gone"):
        await run(uploads(file, store, audience))
    assert 2 <= len(store.begun) == len(store.done) <= 3
    assert (file.opened, file.closed) == (1, 1)
    assert audience.outcomes == [error.__name__]


async def test_a_source_that_cannot_be_opened() -> None:
    class Missing(File):
        def open(self, *_: Any, **__: Any) -> Any:
            raise StorageUnavailableError("no")

    store, audience = Store(), Audience()
    with pytest.raises(StorageUnavailableError):
        await run(uploads(Missing([]), store, audience))
    assert store.begun == []
    assert audience.outcomes == ["StorageUnavailableError"]


async def test_invalid_rows_are_told_and_the_rest_is_stored() -> None:
    rows = [b"GOOD-1", b"BAD\x01", b'"x"y', b"", b"GOOD-2", b"z" * 257, b"GOOD-3"]
    store, audience = Store(), Audience()
    report = await run(uploads(File([b"\n".join(rows)]), store, audience))
    assert store.begun == [["GOOD-1", "GOOD-2", "GOOD-3"]]
    assert report.counts == UploadCounts(inserted=3)
    assert report.invalid_count == audience.invalid_rows == 3
    assert [row.line for row in report.invalid_samples] == [2, 3, 6]
    assert all(row.reason for row in report.invalid_samples)
    assert not any("BAD" in row.reason or "zz" in row.reason for row in report.invalid_samples)


async def test_a_hundred_samples_of_more_invalid_rows() -> None:
    report = await run(uploads(File([b"\x01\n" * 250]), Store()))
    assert report.invalid_count == 250
    assert [row.line for row in report.invalid_samples] == list(range(1, 101))


async def test_a_header_is_passed_over() -> None:
    store = Store()
    report = await run(uploads(File([b'"code\nof",name\nA,1\nB\x01\n']), store), header=True)
    assert store.begun == [["A"]]
    assert report.invalid_samples[0].line == 4


STRICT = {"strict": True}


@pytest.mark.parametrize(
    ("bad", "options", "error"),
    [
        (b"BAD\x02\n", STRICT, InvalidRowError),
        (b"X" * 5_000 + b"\n", {}, NotCsvError),
        (b'"never closed\n', {}, NotCsvError),
    ],
)
async def test_an_upload_that_ends_at_a_row(bad: bytes, options: Any, error: type[Any]) -> None:
    store, audience = Store(), Audience()
    pieces = [lines(37), bad, lines(1_000, start=37)]
    with pytest.raises(error) as raised:
        await run(uploads(File(pieces), store, audience), **options)
    assert raised.value.line == 38
    assert raised.value.counts == UploadCounts(inserted=37) == audience.counts
    assert [code for codes in store.done for code in codes] == lines(37).decode().split()


async def test_a_strict_upload_without_an_invalid_row() -> None:
    assert (await run(uploads(File([lines(25)]), Store()), strict=True)).counts == UploadCounts(inserted=25)


async def test_an_upload_whose_last_row_is_invalid() -> None:
    report = await run(uploads(File([b'A\n"B']), Store()))
    assert (report.counts.total, report.invalid_count) == (1, 1)
    with pytest.raises(InvalidRowError) as raised:
        await run(uploads(File([b'A\n"B']), Store()), strict=True)
    assert (raised.value.line, raised.value.counts) == (2, UploadCounts(inserted=1))


async def test_the_store_failing_counts_for_more_than_a_bad_row() -> None:
    # Counts of what was stored before the row would be wrong.
    async def during(number: int) -> None:
        if number == 1:
            raise DatabaseUnavailableError("no")

    with pytest.raises(DatabaseUnavailableError):
        await run(uploads(File([lines(20) + b"\x01\n"]), Store(during=during)), strict=True)


async def test_progress() -> None:
    steps: list[Progress] = []
    data = lines(95)
    file = File([data[at : at + 100] for at in range(0, len(data), 100)])
    report = await run(uploads(file, Store()), progress=steps.append)
    assert {step.bytes_total for step in steps} == {len(data)}
    done = [step.bytes_done for step in steps]
    assert done == sorted(done)
    stored = [step.counts.total for step in steps]
    assert stored == sorted(stored)
    assert (done[-1], steps[-1].counts) == (len(data), report.counts)
    assert len(steps) == 10 + 1
    # Of the bytes, the share whose codes are stored; a piece that is just being parsed may count on one side only.
    assert all(abs(step.bytes_done - len(data) * step.counts.total / 95) <= 300 for step in steps)


async def test_what_is_told_adds_up() -> None:
    audience = Audience()
    data = lines(95) + b"\x01\n\x02\n"
    report = await run(uploads(File([data[:500], data[500:]]), Store(), audience))
    assert audience.uploads == ["spring tm"]
    assert audience.outcomes == ["ok"]
    assert audience.bytes_read == len(data)
    assert audience.batches == [10] * 9 + [5]
    assert audience.batch_outcomes == ["ok"] * 10
    assert audience.counts == report.counts
    assert audience.invalid_rows == 2


async def test_other_tasks_get_their_turn() -> None:
    # Nothing here ever waits: neither the file, which is in memory, nor the store.
    turns = 0

    async def take_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    class Quick(Store):
        async def write(self, batch: Any) -> UploadCounts:
            return UploadCounts(inserted=len(batch))

    other = asyncio.create_task(take_turns())
    piece = b"\n" * (256 * 1024)
    await run(uploads(File([piece] * 40), Quick(), batch_size=50_000))
    other.cancel()
    assert turns >= 10


async def test_a_batch_is_let_go_once_it_is_written() -> None:
    """With its documents, of which those at a file's end would else have as much as a run of codes."""
    gc.collect()

    def alive() -> int:
        return sum(type(each) is Batch for each in gc.get_objects())

    others = alive()
    written = 0

    class Watching(Store):
        async def write(self, batch: Any) -> UploadCounts:
            nonlocal written
            async with asyncio.timeout(5):
                # The first one is written until the whole file is read; the others follow all at once.
                while not written and alive() - others < 21:  # noqa: ASYNC110 - there is no event to wait for
                    await asyncio.sleep(0.01)
                # The thread that made them may take a moment to forget them.
                while written == 10 and alive() - others > 11:  # noqa: ASYNC110 - as above
                    await asyncio.sleep(0.01)
            written += 1
            return UploadCounts(inserted=len(batch))

    file = File([lines(50), lines(1_000, start=50)])
    await run(uploads(file, Watching(), batch_size=50, sort_codes=2_000, write_concurrency=1))
    assert written == 21


async def test_uploads_at_once_do_not_meet() -> None:
    store = Store()
    pipeline = uploads(None, store)
    files = [File([lines(20 + number, start=100 * number)]) for number in range(5)]
    reports = await asyncio.gather(*(run(pipeline, source=file) for file in files))
    assert [report.counts.total for report in reports] == [20, 21, 22, 23, 24]
    assert len({code for codes in store.done for code in codes}) == 110


async def test_without_a_source_there_is_nothing_to_read() -> None:
    with pytest.raises(RuntimeError):
        await run(uploads(None, Store()))


@pytest.mark.parametrize("waiting", ["source", "store"])
async def test_a_drain_ends_an_upload_wherever_it_waits(waiting: str) -> None:
    silent, landed = asyncio.Event(), asyncio.Event()

    async def before(number: int) -> None:
        if waiting == "source" and number == 3:
            await silent.wait()

    async def during(number: int) -> None:
        if number >= 1:
            await landed.wait()

    store, audience = Store(during=during), Audience()
    file = File([lines(10, start=10 * number) for number in range(50)], before=before)
    pipeline = uploads(file, store, audience)
    running = [asyncio.create_task(run(pipeline)) for _ in range(2)]
    await settled()
    pipeline.drain()
    await settled()
    begun = len(store.begun)
    assert not any(task.done() for task in running)
    landed.set()
    outcomes = await asyncio.gather(*running, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [DrainingError] * 2
    assert len(store.begun) == len(store.done) == begun
    assert audience.counts.total == 10 * begun
    assert audience.outcomes == ["DrainingError"] * 2
    assert file.closed == 2


async def test_no_upload_starts_while_draining() -> None:
    store = Store()
    pipeline = uploads(File([lines(10)]), store)
    pipeline.drain()
    pipeline.drain()
    with pytest.raises(DrainingError):
        await run(pipeline)
    assert store.begun == []


async def test_an_upload_that_is_read_to_its_end_when_the_drain_begins() -> None:
    # Only its last writes are under way: they are waited for, whatever it ends with.
    async def before(number: int) -> None:
        if number == 3:
            pipeline.drain()

    async def during(_number: int) -> None:
        await asyncio.sleep(0.02)

    store = Store(during=during)
    pipeline = uploads(
        File([lines(10, start=10 * at) for at in range(3)], before=before), store, write_concurrency=4
    )
    outcome = (await asyncio.gather(run(pipeline), return_exceptions=True))[0]
    assert isinstance(outcome, DrainingError | UploadReport)
    assert len(store.begun) == len(store.done)
    await asyncio.sleep(0.05)
    assert len(store.begun) == len(store.done)


async def test_an_upload_that_is_cancelled_lets_its_writes_land() -> None:
    async def during(_number: int) -> None:
        await asyncio.sleep(0.02)

    store, audience = Store(during=during), Audience()
    running = asyncio.create_task(run(uploads(File([lines(10)] * 100), store, audience)))
    await asyncio.sleep(0.03)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert 0 < len(store.begun) == len(store.done) < 100
    assert audience.batch_outcomes == ["ok"] * len(store.done)

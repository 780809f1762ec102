"""Uploads whose process ends at a bad moment: another one, on the same store, ends them with exact counts."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from datastore.rig import CAMPAIGN, Documents, Rig, Rigs, stored
from pymongo import MongoClient

import codesvc.ingest.flight
import codesvc.ingest.runner
from codesvc.datastore.uploads import UploadRecords
from codesvc.errors import (
    DatabaseRefusedError,
    DatabaseUnavailableError,
    StorageUnavailableError,
    UploadHandedOverError,
)
from codesvc.ingest.jobs import Jobs
from codesvc.ingest.pipeline import Options, Uploads
from codesvc.ingest.turns import Bounds
from codesvc.models import CodeType, Stamp, Upload, UploadCounts, UploadFailure, UploadOrder

from .stage import INSTANT, File, lines

HOUR = timedelta(hours=1)
ORDER = UploadOrder(CAMPAIGN, CodeType.TM, f"codes/{CAMPAIGN}/tm/x.csv")
BAD = b"\x01bad\n"

Hook = Callable[[Upload], None]


async def for_ever(*_any: object) -> None:
    await asyncio.Event().wait()


class Records(UploadRecords):
    """Those of one process; what a test wants to go wrong, goes wrong.

    ``on_save`` is called before a word on progress, ``on_count`` is awaited before codes are counted.
    """

    on_save: Hook | None = None
    on_count: Callable[[], Awaitable[None]] | None = None

    async def save(self, upload: Upload, stamp: Stamp) -> bool | None:
        if self.on_save is not None:
            self.on_save(upload)
        return await super().save(upload, stamp)

    async def stored(self, campaign_id: str, saved: datetime) -> int:
        if self.on_count is not None:
            await self.on_count()
        return await super().stored(campaign_id, saved)


class Process:
    """The uploads of one process."""

    def __init__(self, rig: Rig, file: File, name: str, lease: timedelta) -> None:
        self.records = Records(rig.mongo, name, kept=HOUR, lease=lease)
        pipeline = Uploads(
            source=file,
            store=rig.store,
            telemetry=rig.telemetry,
            options=Options(batch_size=10, sort_codes=20, write_concurrency=2, max_row_bytes=2_000),
            clock=rig.clock,
        )
        self.jobs = Jobs(
            pipeline=pipeline,
            dry_runs=pipeline,
            source=file,
            records=self.records,
            telemetry=rig.telemetry,
            bounds=Bounds(4, 4),
            # One that looks for those left behind does so ten times in that. Its records say how long others leave its
            # own alone; here it is for how long it goes on itself without an answer, on a machine that may be busy.
            lease=timedelta(seconds=3) if lease else timedelta(seconds=30),
            describe=lambda error: UploadFailure(type(error).__name__, "", str(error)),
            clock=rig.clock,
        )


Start = Callable[..., Process]


@pytest.fixture
async def rig(rigs: Rigs) -> Rig:
    return await rigs(mongo_driver="pymongo")


@pytest.fixture
async def process(rig: Rig) -> AsyncIterator[Start]:
    """Starts processes: one that dies leaves its uploads to whoever looks, and one that lives looks for them."""
    async with AsyncExitStack() as stack:

        def start(file: File, *, lives: bool) -> Process:
            made = Process(rig, file, "lives" if lives else "dies", HOUR if lives else timedelta(0))
            stack.push_async_callback(made.jobs.close)
            if lives:
                made.jobs.look_after_others()
            return made

        yield start


@pytest.fixture
def uploads(mongo: MongoClient[dict[str, Any]], database_name: str) -> Documents:
    """The collection of uploads, seen from outside."""
    return mongo[database_name]["uploads"]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let words follow each other quickly, and invalid rows be kept a few at a time."""
    monkeypatch.setattr(codesvc.ingest.runner, "TICK_SECONDS", 0.02)
    monkeypatch.setattr(codesvc.ingest.flight, "_PIECE_SECONDS", 0.0)


async def until(check: Callable[[], Any]) -> None:
    async with asyncio.timeout(30):
        while not check():  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0.02)


async def ended(jobs: Jobs, upload_id: str) -> Upload:
    """Wait for the end of an upload, whoever runs it."""
    async with asyncio.timeout(30):
        while not (upload := await jobs.get(CAMPAIGN, upload_id)).state.ended:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.02)
    return upload


def stop_at(number: int, reached: asyncio.Event) -> Callable[[int], Awaitable[None]]:
    """Make a file that stands still before a piece of it."""

    async def before(at: int) -> None:
        if at == number:
            reached.set()
            await for_ever()

    return before


@asynccontextmanager
async def dying_at(process: Start, pieces: list[bytes], number: int) -> AsyncIterator[tuple[Process, Upload]]:
    """Run an upload in a process that dies, at the end of the block, before that piece of the file."""
    reached = asyncio.Event()
    dies = process(File(pieces, before=stop_at(number, reached)), lives=False)
    upload = await dies.jobs.start(ORDER)
    async with asyncio.timeout(30):
        await reached.wait()
    yield dies, upload
    await dies.jobs.close()


def end_lease(uploads: Documents) -> None:
    """Let the time pass until others may have the upload."""
    uploads.update_one({}, [{"$set": {"leaseUntil": "$$NOW"}}])


async def next_try(uploads: Documents, number: int) -> None:
    """Let the time pass until an upload that was left is taken up again, so often in all."""
    end_lease(uploads)
    await until(lambda: uploads.find_one({})["generation"] == number)


def left(uploads: Documents) -> bool:
    """Tell whether the latest owner has left the upload: until its first word, the record says so of the one before."""
    record = uploads.find_one({})
    return bool(record.get("handed")) and record["revision"] > 0


def checkpoint(uploads: Documents) -> int:
    """The offset that is written down."""
    return int((uploads.find_one({})["checkpoint"] or {"offset": 0})["offset"])


@pytest.mark.parametrize("error", [DatabaseRefusedError("no"), DatabaseUnavailableError("away")])
async def test_the_last_word_is_not_written(
    process: Start, uploads: Documents, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Who waited for it knows how it ended; the next process finds it under way, and comes to the same."""

    def refuse(upload: Upload) -> None:
        if upload.state.ended:
            raise error

    pieces = [lines(100), lines(60, start=90), BAD]
    dies = process(File(pieces), lives=False)
    dies.records.on_save = refuse
    monkeypatch.setattr(codesvc.ingest.runner, "_LAST_WORD_TRIES", 2)
    report = await dies.jobs.run(ORDER, upload_id="u-1")
    assert (report.counts, report.invalid_count) == (UploadCounts(150, 10), 1)
    await until(lambda: not dies.jobs.active)
    assert uploads.find_one({})["state"] == "running"
    upload = await ended(process(File(pieces), lives=True).jobs, "u-1")
    assert (upload.state, upload.progress.counts) == ("succeeded", UploadCounts(150, 10))
    assert upload.progress.invalid_count == 1


async def test_no_end_is_told_before_it_is_written_down(process: Start, uploads: Documents) -> None:
    """Else one who looks here sees an upload that has ended, and one who looks elsewhere later sees it run."""
    refused = 0

    def refuse(upload: Upload) -> None:
        nonlocal refused
        if upload.state.ended and refused < 4:
            refused += 1
            raise DatabaseUnavailableError("away")

    one = process(File([lines(100), lines(60, start=90)]), lives=True)
    one.records.on_save = refuse
    upload = await one.jobs.start(ORDER)
    looks = 0
    async with asyncio.timeout(30):
        while not upload.state.ended:
            looks += refused > 0
            await asyncio.sleep(0.005)
            upload = await one.jobs.get(CAMPAIGN, upload.id)
    assert uploads.find_one({})["state"] == "succeeded"
    assert (upload.state, upload.progress.counts) == ("succeeded", UploadCounts(150, 10))
    assert refused == 4
    assert looks > 1


async def test_a_process_dies_while_it_counts(
    process: Start, rig: Rig, uploads: Documents, documents: Documents
) -> None:
    pieces = [lines(50, start=40 * number) for number in range(10)]
    async with dying_at(process, pieces, 6) as (_, upload):
        await until(lambda: checkpoint(uploads) > 0)
    # The next one comes to the end of the file, and dies while it counts.
    second = Process(rig, File(pieces), "second", HOUR)
    counting = asyncio.Event()

    async def stand_still() -> None:
        counting.set()
        await for_ever()

    second.records.on_count = stand_still
    second.jobs.look_after_others()
    async with asyncio.timeout(30):
        await counting.wait()
    assert documents.count_documents({}) == 410
    await second.jobs.close()
    assert uploads.find_one({})["state"] == "running"
    end_lease(uploads)
    third = await ended(process(File(pieces), lives=True).jobs, upload.id)
    assert (third.state, third.progress.counts) == ("succeeded", UploadCounts(410, 90))
    assert documents.distinct("date.saved") == [INSTANT]


async def test_invalid_rows_behind_the_checkpoint_come_once(
    process: Start, uploads: Documents, documents: Documents, mongo: MongoClient[dict[str, Any]]
) -> None:
    """The first process keeps more of them than its last word tells of; the next one finds those once more."""
    pieces = [lines(30, start=30 * number) + BAD + BAD for number in range(20)]
    expected = [line for number in range(20) for line in (32 * number + 31, 32 * number + 32)]
    silent, reached = asyncio.Event(), asyncio.Event()

    async def before(at: int) -> None:
        if at == 8:
            await until(lambda: checkpoint(uploads) > 0)
            silent.set()
        if at == 16:
            reached.set()
            await for_ever()

    def be_silent(_upload: Upload) -> None:
        if silent.is_set():
            raise DatabaseUnavailableError("away")

    dies = process(File(pieces, before=before), lives=False)
    dies.records.on_save = be_silent
    upload = await dies.jobs.start(ORDER)
    async with asyncio.timeout(30):
        await reached.wait()
    await dies.jobs.close()
    pieces_kept = mongo[documents.database.name]["invalid_rows"]
    known = uploads.find_one({})["checkpoint"]
    assert pieces_kept.count_documents({}) > known["pieces"] > 0

    lives = process(File(pieces), lives=True)
    end = await ended(lives.jobs, upload.id)
    assert (end.state, end.progress.counts) == ("succeeded", UploadCounts(600, 0))
    assert end.progress.invalid_count == 40
    assert [row.line for row in end.progress.invalid_samples] == expected
    rows = b"".join([piece async for piece in lives.jobs.invalid(upload.id)])
    assert [int(row.split(b",")[0]) for row in rows.splitlines()] == expected
    assert sorted(stored(documents)) == lines(600).decode().split()


async def test_an_outage_is_sat_out_longer_and_longer_and_not_for_ever(
    process: Start, uploads: Documents, mongo: MongoClient[dict[str, Any]]
) -> None:
    """Of an upload that nobody waits for; what it comes to in the end, its record tells."""

    async def away(at: int) -> None:
        if at == 1:
            raise StorageUnavailableError("S3 is away.")

    lives = process(File([lines(5), lines(5)], before=away), lives=True)
    upload = await lives.jobs.start(ORDER)
    for attempt, pause in enumerate([30, 60, 120, 240, 480], 1):
        await until(lambda: left(uploads))
        record = uploads.find_one({})
        now = mongo.admin.command("hello")["localTime"].replace(tzinfo=UTC)
        assert pause - 20 < (record["leaseUntil"] - now).total_seconds() <= pause
        assert (record["state"], record["attempts"]) == ("running", attempt)
        await next_try(uploads, attempt)
    end = await ended(lives.jobs, upload.id)
    assert end.state == "failed"
    assert end.failure is not None
    assert end.failure.code == "StorageUnavailableError"


async def test_an_outage_that_ends_is_forgotten(process: Start, uploads: Documents) -> None:
    """An upload that has come further since may sit out as many again."""
    outages = [3, 6]

    async def away(at: int) -> None:
        if at in outages[:1]:
            raise StorageUnavailableError("S3 is away.")

    pieces = [lines(40, start=40 * number) for number in range(8)]
    lives = process(File(pieces, before=away), lives=True)
    upload = await lives.jobs.start(ORDER)
    for number in (1, 2):
        await until(lambda: left(uploads))
        assert uploads.find_one({})["attempts"] == 1
        outages.pop(0)
        await next_try(uploads, number)
    end = await ended(lives.jobs, upload.id)
    assert (end.state, end.progress.counts) == ("succeeded", UploadCounts(320, 0))


async def test_who_has_lost_an_upload_says_so(process: Start, rig: Rig, uploads: Documents) -> None:
    """To its caller, who is not told counts that another process has yet to find."""
    go_on = asyncio.Event()

    async def before(at: int) -> None:
        if at == 4:
            await go_on.wait()

    pieces = [lines(40, start=40 * number) for number in range(8)]
    slow = process(File(pieces, before=before), lives=False)
    running = asyncio.create_task(slow.jobs.run(ORDER, upload_id="u-1"))
    await until(lambda: uploads.find_one({}) is not None)
    lives = process(File(pieces), lives=True)
    end = await ended(lives.jobs, "u-1")
    go_on.set()
    with pytest.raises(UploadHandedOverError):
        await running
    assert (end.state, end.progress.counts) == ("succeeded", UploadCounts(320, 0))
    assert await lives.jobs.get(CAMPAIGN, "u-1") == end


async def test_a_record_that_cannot_be_read_holds_nobody_up(process: Start, uploads: Documents) -> None:
    pieces = [lines(40, start=40 * number) for number in range(8)]
    async with dying_at(process, pieces, 4) as (_, upload):
        strange = uploads.find_one({})
    # It comes first, since its lease was over long before.
    strange |= {
        "_id": "strange",
        "type": "of another version",
        "leaseUntil": INSTANT,
        "saved": INSTANT + HOUR,
    }
    uploads.insert_one(strange)
    end = await ended(process(File(pieces), lives=True).jobs, upload.id)
    assert (end.state, end.progress.counts) == ("succeeded", UploadCounts(320, 0))

"""The records of uploads: who owns one, whose words are heeded, and what is counted in the end."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from pymongo import MongoClient

import codesvc.datastore.uploads
from codesvc.datastore.uploads import UploadRecords
from codesvc.errors import UploadHandedOverError
from codesvc.models import (
    Checkpoint,
    Claim,
    CodeType,
    InvalidRow,
    Progress,
    Stamp,
    Upload,
    UploadCounts,
    UploadOrder,
    UploadState,
)

from .rig import CAMPAIGN, START, Documents, Rig, document, numbered

NONE = timedelta(0)
HOUR = timedelta(hours=1)
ORDER = UploadOrder(CAMPAIGN, CodeType.TM, f"codes/{CAMPAIGN}/tm/x.csv")
CHECKPOINT = Checkpoint(2_000, 101, True, UploadCounts(90, 8), 2, (InvalidRow(3, "a"), InvalidRow(9, "b")), 1)


def upload(name: str = "u-1", *, state: UploadState = UploadState.RUNNING, **progress: Any) -> Upload:
    """Make one that has come as far as its checkpoint, and a bit further."""
    rows = (*CHECKPOINT.invalid_samples, InvalidRow(120, "c"))
    how_far = Progress(2_500, 9_000, UploadCounts(110, 12), 3, rows, 2, CHECKPOINT)
    return Upload(name, ORDER, state, START, replace(how_far, **progress), started=START)


def stamp(revision: int = 1, *, generation: int = 0, attempts: int = 0, unsure: bool = False) -> Stamp:
    return Stamp(generation, revision, attempts, unsure)


@pytest.fixture
def uploads(mongo: MongoClient[dict[str, Any]], database_name: str) -> Documents:
    """The collection of uploads, seen from outside."""
    return mongo[database_name]["uploads"]


@pytest.fixture
def dying(rig: Rig) -> UploadRecords:
    """Those of a process whose leases are over at once, as if it had died."""
    return UploadRecords(rig.mongo, "dying", kept=HOUR, lease=NONE)


@pytest.fixture
def peer(rig: Rig) -> UploadRecords:
    """Those of a process that lives."""
    return UploadRecords(rig.mongo, "peer", kept=HOUR, lease=HOUR)


async def taken(records: UploadRecords) -> Claim:
    """Take one over, as soon as its lease is over."""
    async with asyncio.timeout(20):
        while (claim := await records.take(patience=NONE)) is None:  # noqa: ASYNC110 - there is no event
            await asyncio.sleep(0.01)
    return claim


async def test_of_many_who_look_at_once_one_gets_it(
    rig: Rig, dying: UploadRecords, uploads: Documents
) -> None:
    names = [f"u-{number}" for number in range(5)]
    for number, name in enumerate(names):
        await dying.begin(upload(name), stamp(), saved=START + timedelta(seconds=number), etag="e")
    await asyncio.sleep(0.01)
    processes = [UploadRecords(rig.mongo, f"p-{number}", kept=HOUR, lease=HOUR) for number in range(12)]
    claims = await asyncio.gather(*(one.take(patience=NONE) for one in processes for _ in range(2)))
    got = [claim for claim in claims if claim is not None]
    assert sorted(claim.upload.id for claim in got) == names
    assert {(claim.generation, claim.attempts, claim.unsure) for claim in got} == {(1, 1, True)}
    assert uploads.count_documents({"generation": 1, "owner": {"$regex": "^p-"}}) == 5


async def test_a_claim_tells_where_to_go_on(dying: UploadRecords, peer: UploadRecords) -> None:
    saved = await dying.begin(upload(), stamp(), saved=START, etag='"e"')
    await dying.save(upload(), stamp(2))
    claim = await taken(peer)
    assert (claim.saved, claim.etag, claim.cancelled, claim.handed_over) == (saved, '"e"', False, False)
    assert claim.upload.order == ORDER
    assert claim.upload.progress.checkpoint == CHECKPOINT


async def test_one_that_is_owned_or_has_ended_is_not_taken(peer: UploadRecords, dying: UploadRecords) -> None:
    await peer.begin(upload("owned"), stamp(), saved=START, etag=None)
    await dying.begin(upload("ended"), stamp(), saved=START + HOUR, etag=None)
    await dying.save(upload("ended", state=UploadState.SUCCEEDED), stamp(2))
    await asyncio.sleep(0.01)
    assert await dying.take(patience=NONE) is None


async def test_one_that_waited_is_not_suspected(dying: UploadRecords, peer: UploadRecords) -> None:
    await dying.queue(upload(state=UploadState.QUEUED), stamp())
    claim = await taken(peer)
    assert (claim.attempts, claim.unsure, claim.saved) == (0, False, None)


async def test_one_that_was_left_comes_after_its_pause(
    rig: Rig, peer: UploadRecords, uploads: Documents
) -> None:
    other = UploadRecords(rig.mongo, "other", kept=HOUR, lease=HOUR)
    await peer.begin(upload(), stamp(), saved=START, etag=None)
    await peer.leave(upload(), stamp(2, attempts=3), pause=HOUR)
    assert await other.take(patience=NONE) is None
    uploads.update_one({}, [{"$set": {"leaseUntil": {"$subtract": ["$leaseUntil", 2 * 3_600_000]}}}])
    claim = await taken(other)
    # What it stored is in its counts, and it was not the end of its process.
    assert (claim.handed_over, claim.attempts, claim.unsure) == (True, 3, False)
    # The next one to go without a word is suspected again.
    assert "handed" in uploads.find_one({})
    await other.save(upload(), stamp(1, generation=1))
    assert "handed" not in uploads.find_one({})


async def test_one_that_was_left_and_is_cancelled_does_not_wait(
    rig: Rig, peer: UploadRecords, uploads: Documents
) -> None:
    await peer.begin(upload(), stamp(), saved=START, etag=None)
    await peer.leave(upload(), stamp(2), pause=HOUR)
    await peer.ask_to_cancel(CAMPAIGN, "u-1")
    assert (await taken(peer)).cancelled


Word = Callable[[UploadRecords], Awaitable[Any]]

LATE: dict[str, tuple[Word, bool]] = {
    "queue": (lambda records: records.queue(upload(state=UploadState.QUEUED), stamp(50)), True),
    "begin": (lambda records: records.begin(upload(), stamp(50), saved=START + HOUR, etag="late"), True),
    "save": (lambda records: records.save(upload(bytes_done=7), stamp(50)), False),
    "the last word": (lambda records: records.save(upload(state=UploadState.FAILED), stamp(50)), False),
    "leave": (lambda records: records.leave(upload(bytes_done=7), stamp(50), pause=NONE), False),
}


@pytest.mark.parametrize("word", LATE)
@pytest.mark.parametrize("same", [False, True], ids=["another-process", "the-same-process"])
async def test_no_word_of_an_earlier_owner_is_heeded(
    rig: Rig, dying: UploadRecords, uploads: Documents, word: str, same: bool
) -> None:
    await dying.begin(upload(), stamp(), saved=START, etag='"e"')
    # It may have been this very process that took it over from itself.
    later = UploadRecords(rig.mongo, "dying" if same else "peer", kept=HOUR, lease=HOUR)
    claim = await taken(later)
    before = uploads.find_one({})
    say, raises = LATE[word]
    if raises:
        with pytest.raises(UploadHandedOverError) as raised:
            await say(dying)
        assert (raised.value.campaign_id, raised.value.upload_id) == (CAMPAIGN, "u-1")
    else:
        assert await say(dying) is None
    assert uploads.find_one({}) == before
    # The owner is heard.
    assert await later.save(claim.upload, stamp(generation=claim.generation)) is False


async def test_invalid_rows_of_an_earlier_owner_give_way(dying: UploadRecords, peer: UploadRecords) -> None:
    async def kept() -> list[bytes]:
        return [piece async for piece in peer.invalid("u-1")]

    await dying.begin(upload(pieces=3), stamp(), saved=START, etag=None)
    for number in range(3):
        await dying.keep_invalid("u-1", 0, number, b"%d,old\r\n" % number)
    claim = await taken(peer)
    await peer.keep_invalid("u-1", claim.generation, 1, b"1,new\r\n")
    await dying.keep_invalid("u-1", 0, 1, b"1,late\r\n")
    assert await kept() == [b"0,old\r\n", b"1,new\r\n", b"2,old\r\n"]
    # What lies behind those that the record tells of is not of this owner.
    await peer.save(upload(pieces=2), stamp(generation=claim.generation))
    assert await kept() == [b"0,old\r\n", b"1,new\r\n"]


async def test_what_an_upload_inserted_is_counted_in_pieces(
    peer: UploadRecords, documents: Documents, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(codesvc.datastore.uploads, "_FIRST_PIECE", 3)
    monkeypatch.setattr(codesvc.datastore.uploads, "_LARGEST_PIECE", 7)
    others = START + timedelta(milliseconds=1)
    codes = numbered(100)
    made = [document(code, saved=START if number % 3 else others) for number, code in enumerate(codes)]
    # Before and behind the campaign, in the order of its index, and of the same instant.
    made += [
        document(code, campaign_id=beside, saved=START)
        for beside in ("spring-2", "spring-25", "spring-26.", "spring-27", "spring-260")
        for code in codes[:10]
    ]
    made.append(document("￿", saved=START, assigned=START))
    documents.insert_many(made)
    assert await peer.stored(CAMPAIGN, START) == 66 + 1
    assert await peer.stored(CAMPAIGN, others) == 34
    assert await peer.stored(CAMPAIGN, others + HOUR) == 0
    assert await peer.stored("nobody", START) == 0

"""A standalone server: no transactions and no retryable writes, the same results."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient

from codesvc.errors import NotEnoughCodesError
from codesvc.local.mongod import find_mongod
from codesvc.local.process import LOOPBACK, ChildProcess, free_port, wait_for_port
from codesvc.models import ChangeCounts, CodeType, Counts, Status, UploadCounts

from .rig import CAMPAIGN, START, TTL, Documents, Rig, Rigs, document, numbered, stored


@pytest.fixture(scope="module")
def standalone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a mongod that is a member of no set."""
    directory = tmp_path_factory.mktemp("standalone")
    port = free_port()
    arguments: list[str | Path] = [
        find_mongod(),
        "--dbpath",
        directory,
        "--bind_ip",
        LOOPBACK,
        "--port",
        str(port),
    ]
    arguments += ["--wiredTigerCacheSizeGB", "0.25", "--nounixsocket"]
    process = ChildProcess(arguments, name="mongod", log=directory / "mongod.log")
    process.start()
    try:
        wait_for_port(process, port, limit=60)
        yield f"mongodb://{LOOPBACK}:{port}/"
    finally:
        process.stop()


@pytest.fixture
def documents(standalone: str) -> Iterator[Documents]:
    """The collection of codes, empty, seen from outside."""
    with MongoClient[dict[str, Any]](standalone, tz_aware=True) as client:
        client["test"].drop_collection("codes")
        yield client["test"]["codes"]


@pytest.fixture
async def rigs(standalone: str, documents: Documents) -> AsyncIterator[Rigs]:
    """Open rigs on it."""
    async with AsyncExitStack() as stack:
        yield Rigs(standalone, "test", stack)


@pytest.mark.parametrize("strategy", ["insert-first", "upsert"])
async def test_uploads(rigs: Rigs, documents: Documents, driver: str, strategy: str) -> None:
    rig = await rigs(mongo_driver=driver, write_strategy=strategy, batch_size=50, write_concurrency=4)
    codes = numbered(500)
    assert await rig.upload(codes[:300]) == UploadCounts(inserted=300)
    assert await rig.upload(codes * 2) == UploadCounts(inserted=200, updated=800)
    first, second = await asyncio.gather(
        rig.upload(numbered(500, start=400)), rig.upload(numbered(500, start=400)[::-1])
    )
    assert first.inserted + second.inserted == 400
    assert first.total == second.total == 500
    assert documents.count_documents({}) == 900


async def test_the_life_of_a_code(rig: Rig, documents: Documents) -> None:
    await rig.upload(numbered(10))
    lent = await rig.reserve(4)
    assert len(set(lent)) == 4
    assert await rig.inventory.assign(CAMPAIGN, lent[:1]) == ChangeCounts(1, 1)
    assert await rig.inventory.release(CAMPAIGN, lent[:2]) == ChangeCounts(2, 1)
    assert await rig.inventory.count(CAMPAIGN, CodeType.TM) == Counts(7, 2, 1)
    assert await rig.inventory.count_status(CAMPAIGN, CodeType.TM, Status.RESERVED) == 2
    rig.clock.now += TTL
    assert len(await rig.reserve(100)) == 9
    assert await rig.reserve(1) == []
    assert stored(documents)[lent[0]]["date"]["assigned"] == START


async def test_callers_drain_the_stock(rig: Rig, documents: Documents) -> None:
    codes = numbered(1_000)
    expired = START - TTL - timedelta(days=1)
    documents.insert_many(
        [document(code) for code in codes[:900]]
        + [document(code, reserved=expired, reserve_id="old") for code in codes[900:]]
    )
    replies: list[list[str]] = []

    async def caller() -> None:
        while taken := await rig.reserve(10):
            replies.append(taken)

    await asyncio.gather(*(caller() for _ in range(16)))
    assert {len(reply) for reply in replies} == {10}
    assert sorted(code for reply in replies for code in reply) == codes


async def test_two_processes_lend_no_code_twice(rigs: Rigs, documents: Documents) -> None:
    codes = numbered(1_000)
    documents.insert_many([document(code) for code in codes])
    services = [await rigs(mongo_driver=name) for name in ("motor", "pymongo")]
    lent: Counter[str] = Counter()

    async def caller(rig: Rig) -> None:
        while taken := await rig.reserve(10):
            lent.update(taken)

    await asyncio.gather(*(caller(rig) for rig in services for _ in range(4)))
    assert lent == Counter(codes)


async def test_as_many_as_at_least_or_none(rigs: Rigs, documents: Documents) -> None:
    services = [await rigs(mongo_driver=name) for name in ("motor", "pymongo")]
    documents.insert_many([document(code) for code in numbered(20)])
    documents.insert_one(document("ENDED", reserved=START - TTL, held=START - TTL / 2, reserve_id="old"))
    before = stored(documents)
    with pytest.raises(NotEnoughCodesError):
        await services[0].inventory.reserve(CAMPAIGN, CodeType.TM, 30, minimum=22, ttl=TTL / 2)
    assert stored(documents) == before

    async def caller(rig: Rig) -> int:
        try:
            return len((await rig.inventory.reserve(CAMPAIGN, CodeType.TM, 21, minimum=21)).codes)
        except NotEnoughCodesError:
            return 0

    for _ in range(5):
        # Each may hold a part of them for a moment, of which the other must not think that it is gone.
        got = await asyncio.gather(*(caller(rig) for rig in services))
        assert sorted(got) == [0, 21]
        assert documents.count_documents({"date.reserved": START, "date.held": {"$exists": False}}) == 21
        documents.update_many({}, {"$unset": {"date.reserved": "", "reserveId": ""}})


async def test_a_reservation_by_its_id(rig: Rig, documents: Documents) -> None:
    documents.insert_many([document(code) for code in numbered(10)])
    reservation = await rig.inventory.reserve(CAMPAIGN, CodeType.TM, 6, ttl=TTL / 2)
    assert await rig.inventory.assign(CAMPAIGN, [reservation.codes[0].code]) == ChangeCounts(1, 1)
    found = await rig.inventory.reservation(CAMPAIGN, reservation.reserve_id)
    assert (len(found.codes), found.expires) == (5, START + TTL / 2)
    assert await rig.inventory.release_reservation(CAMPAIGN, reservation.reserve_id) == ChangeCounts(5, 5)
    assert await rig.inventory.assign_reservation(CAMPAIGN, reservation.reserve_id) == ChangeCounts(0, 0)
    assert await rig.inventory.count(CAMPAIGN, CodeType.TM) == Counts(9, 0, 1)


async def test_a_reservation_larger_than_a_message(rigs: Rigs) -> None:
    # The limit on one reserve may be raised; the ids of 40,000 of the longest codes exceed a document's 16 MiB.
    rig = await rigs(mongo_timeout=28)
    codes = [f"{number:0256d}" for number in range(40_000)]
    await rig.upload(codes, campaign_id="c" * 128)
    assert sorted(await rig.reserve(40_000, campaign_id="c" * 128)) == codes


async def test_a_dry_run(rig: Rig) -> None:
    codes = numbered(300)
    await rig.upload(codes[:100])
    assert await rig.dry_run([*codes, *codes[250:]]) == UploadCounts(200, 150)
    assert await rig.upload([*codes, *codes[250:]]) == UploadCounts(200, 150)


async def test_an_upload_is_taken_back_by_two_processes(rigs: Rigs, documents: Documents) -> None:
    """Each deletes some of the codes, and all are counted, though nothing binds the one to the other."""
    services = [await rigs(mongo_driver=name) for name in ("motor", "pymongo")]
    inserted, before = numbered(6_000), numbered(50, prefix="BEFORE-")
    saved = START - timedelta(hours=1)
    documents.insert_many([document(code, saved=saved) for code in inserted])
    documents.insert_many([document(code) for code in before])
    held = set(await services[0].reserve(40)) - set(before)
    assigned = [code for code in inserted if code not in held][::1_000]
    await services[1].inventory.assign(CAMPAIGN, assigned)
    uploads = documents.database["uploads"]
    record: dict[str, Any] = {
        "_id": "of-a-standalone",
        "campaignId": CAMPAIGN,
        "state": "succeeded",
        "saved": saved,
    }
    uploads.replace_one({"_id": record["_id"]}, record, upsert=True)

    async def take_back(rig: Rig) -> None:
        codes = rig.store.codes_of_upload(CAMPAIGN, record["_id"])
        assert await codes.begin()
        while not await codes.step(START - TTL):
            pass

    await asyncio.gather(*(take_back(rig) for rig in services for _ in range(3)))
    kept = {*held, *assigned}
    assert set(stored(documents)) == {*before, *kept}
    taken = uploads.find_one({"_id": record["_id"]})["takenBack"]
    assert (taken["count"], taken["done"]) == (len(inserted) - len(kept), True)
    # Once more, when some have become available.
    await services[0].inventory.release(CAMPAIGN, sorted(held))
    await take_back(services[1])
    assert set(stored(documents)) == {*before, *assigned}
    assert uploads.find_one({"_id": record["_id"]})["takenBack"]["count"] == len(inserted) - len(assigned)

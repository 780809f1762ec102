"""Counting: of every state, at one instant, and from the index alone."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pymongo import MongoClient

from codesvc.models import CodeType, Counts, Status

from .rig import CAMPAIGN, START, TTL, Documents, Rig, document, numbered


@contextmanager
def profiled(mongo: MongoClient[dict[str, Any]], name: str) -> Iterator[list[dict[str, Any]]]:
    """Collect what the server tells of every command of codesvc on the collection of codes meanwhile."""
    database = mongo[name]
    database.command("profile", 0)
    database.drop_collection("system.profile")
    database.command("profile", 2)
    entries: list[dict[str, Any]] = []
    try:
        yield entries
    finally:
        database.command("profile", 0)
    found = database["system.profile"].find({"ns": f"{name}.codes", "appName": "codesvc"})
    entries.extend(found)
    database.drop_collection("system.profile")


def every_state(documents: Documents) -> None:
    long_ago = START - 3 * TTL
    documents.insert_many(
        [document(code) for code in numbered(7, prefix="available-")]
        + [document(code, reserved=START, reserve_id="r") for code in numbered(5, prefix="reserved-")]
        + [document(code, reserved=long_ago, reserve_id="x") for code in numbered(4, prefix="expired-")]
        + [document(code, assigned=START) for code in numbered(3, prefix="given-")]
        + [
            document(code, assigned=long_ago, reserved=long_ago, reserve_id="y")
            for code in numbered(2, prefix="assigned-")
        ]
        + [document("other", code_type="external"), document("other", campaign_id=CAMPAIGN + "-2")]
    )


async def test_each_status(rig: Rig, documents: Documents) -> None:
    every_state(documents)
    assert await rig.inventory.count(CAMPAIGN, CodeType.TM) == Counts(available=11, reserved=5, assigned=5)
    each = [await rig.inventory.count_status(CAMPAIGN, CodeType.TM, status) for status in Status]
    assert each == [11, 5, 5]
    assert await rig.inventory.count(CAMPAIGN, CodeType.EXTERNAL) == Counts(1, 0, 0)


async def test_nothing(rig: Rig, documents: Documents) -> None:
    assert await rig.inventory.count(CAMPAIGN, CodeType.TM) == Counts(0, 0, 0)
    documents.drop()
    assert await rig.inventory.count(CAMPAIGN, CodeType.TM) == Counts(0, 0, 0)
    assert await rig.inventory.count_status(CAMPAIGN, CodeType.TM, Status.AVAILABLE) == 0


async def test_counts_follow_the_life_of_a_code(rig: Rig) -> None:
    async def counts() -> tuple[int, int, int]:
        now = await rig.inventory.count(CAMPAIGN, CodeType.TM)
        return now.available, now.reserved, now.assigned

    await rig.upload(["A", "B", "C"])
    assert await counts() == (3, 0, 0)
    [code, other] = await rig.reserve(2)
    assert await counts() == (1, 2, 0)
    await rig.inventory.assign(CAMPAIGN, [code])
    assert await counts() == (1, 1, 1)
    await rig.inventory.release(CAMPAIGN, [other])
    assert await counts() == (2, 0, 1)
    await rig.upload(["A", "B", "C"], code_type=CodeType.EXTERNAL)
    assert await counts() == (0, 0, 0)
    assert await rig.inventory.count(CAMPAIGN, CodeType.EXTERNAL) == Counts(2, 0, 1)


async def test_no_document_is_examined(
    rig: Rig, documents: Documents, mongo: MongoClient[dict[str, Any]], database_name: str
) -> None:
    every_state(documents)
    with profiled(mongo, database_name) as commands:
        # By the index, from what was kept, and again after a hold has ended.
        await rig.inventory.count(CAMPAIGN, CodeType.TM)
        for status in Status:
            await rig.inventory.count_status(CAMPAIGN, CodeType.TM, status)
        rig.clock.now += TTL
        assert await rig.inventory.count(CAMPAIGN, CodeType.TM) == Counts(16, 0, 5)
    assert {one["docsExamined"] for one in commands} == {0}
    # Nor more keys than there are codes, but for a seek at the end of each range.
    counts = [one for one in commands if "$match" in one["command"].get("pipeline", [{}])[0]]
    assert {one["planSummary"].split()[0] for one in counts} <= {"IXSCAN", "COUNT_SCAN"}
    assert len(counts) == 5
    assert all(one["keysExamined"] <= 16 + 3 for one in counts)


async def test_reserving_examines_what_it_lends(
    rig: Rig, documents: Documents, mongo: MongoClient[dict[str, Any]], database_name: str
) -> None:
    codes = numbered(2_000)
    documents.insert_many(
        [document(code) for code in codes]
        + [document(code, reserved=START, reserve_id="r") for code in numbered(2_000, start=5_000)]
        + [document(code, assigned=START) for code in numbered(2_000, start=9_000)]
    )
    await rig.reserve(1)
    with profiled(mongo, database_name) as commands:
        assert len(await rig.reserve(20)) == 20
    assert sum(one["docsExamined"] for one in commands) <= 2 * 20 + 2
    assert sum(one["keysExamined"] for one in commands) <= 3 * 20 + 10


async def test_counts_are_of_one_instant(rig: Rig) -> None:
    codes = numbered(600)
    await rig.upload(codes)
    lent: list[str] = []
    totals = set()
    done = asyncio.Event()

    async def reserve() -> None:
        while taken := await rig.reserve(5):
            lent.extend(taken)
            await rig.inventory.assign(CAMPAIGN, taken[:2])
            await rig.inventory.release(CAMPAIGN, taken[4:] if len(lent) % 2 else [])

    async def watch() -> None:
        while not done.is_set():
            now = await rig.inventory.count(CAMPAIGN, CodeType.TM)
            totals.add(now.available + now.reserved + now.assigned)

    watching = asyncio.gather(watch(), watch())
    await asyncio.gather(*(reserve() for _ in range(4)))
    done.set()
    await watching
    assert totals == {600}

"""What the server reads for each operation, by its own profiler: no document that is neither returned nor changed."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from pymongo import MongoClient

from codesvc.models import CodeType

from .rig import CAMPAIGN, START, TTL, Documents, Rig, document, numbered
from .test_count import profiled

Entry = dict[str, Any]
Operation = Callable[[Rig], Awaitable[object]]

FREE = numbered(2_000, prefix="FREE-")
HELD = numbered(2_000, prefix="HELD-")
GIVEN = numbered(2_000, prefix="GIVEN-")
ENDED = numbered(2_000, prefix="ENDED-")


@pytest.fixture
def stock(documents: Documents) -> None:
    """Codes in every state, and neighbours of another type and campaign."""
    documents.insert_many(
        [document(code) for code in FREE]
        + [document(code, reserved=START, reserve_id="r") for code in HELD]
        + [document(code, assigned=START) for code in GIVEN]
        + [document(code, reserved=START - TTL, reserve_id="old") for code in ENDED]
        + [document(code, campaign_id="other") for code in FREE]
        + [document(code, code_type="external") for code in numbered(500, prefix="EXTERNAL-")]
    )


def useful(entry: Entry) -> int:
    """Documents that a command returned, changed or inserted."""
    return int(entry.get("nreturned", 0) + entry.get("nModified", 0) + entry.get("ninserted", 0))


async def read(
    rig: Rig, mongo: MongoClient[dict[str, Any]], database_name: str, operation: Operation
) -> list[Entry]:
    with profiled(mongo, database_name) as entries:
        await operation(rig)
    assert entries
    return entries


async def reserve_from_the_rest(rig: Rig) -> object:
    """More than were never held, so that some of those whose hold has ended are lent, too."""
    return await rig.reserve(3_000)


async def reserve_all(rig: Rig) -> object:
    """More than there are."""
    return await rig.reserve(9_000)


OPERATIONS: dict[str, Operation] = {
    "reserve": lambda rig: rig.reserve(10),
    "reserve-many": lambda rig: rig.reserve(1_500),
    "reserve-from-the-rest": reserve_from_the_rest,
    "assign": lambda rig: rig.inventory.assign(CAMPAIGN, [*FREE[:50], *HELD[:50], "unknown"]),
    "release": lambda rig: rig.inventory.release(CAMPAIGN, [*HELD[:50], "unknown"]),
    "upload": lambda rig: rig.upload(numbered(500, prefix="NEW-")),
    "upload-again": lambda rig: rig.upload(FREE, campaign_id="other"),
}


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.usefixtures("stock")
async def test_what_is_fetched_is_returned_or_changed(
    rig: Rig, mongo: MongoClient[dict[str, Any]], database_name: str, name: str
) -> None:
    entries = await read(rig, mongo, database_name, OPERATIONS[name])
    wasted = [(one["op"], one["docsExamined"], useful(one)) for one in entries if one.get("docsExamined")]
    assert [one for one in wasted if one[1] > one[2]] == []
    # Nor are many more keys looked at than there are codes: a seek at each end of a range, and one for each code.
    assert all(one.get("keysExamined", 0) <= 2 * useful(one) + 60 for one in entries)


@pytest.mark.usefixtures("stock")
async def test_the_last_ones_cost_no_search(
    rig: Rig, mongo: MongoClient[dict[str, Any]], database_name: str
) -> None:
    entries = await read(rig, mongo, database_name, reserve_all)
    # Found and held, given back when it turns out that there are too few, and found and held for good.
    assert sum(one.get("docsExamined", 0) for one in entries) <= 5 * 4_000
    entries = await read(rig, mongo, database_name, OPERATIONS["reserve"])
    assert sum(one.get("docsExamined", 0) for one in entries) == 0
    assert sum(one.get("keysExamined", 0) for one in entries) <= 20


@pytest.mark.usefixtures("stock")
async def test_codes_that_cannot_be_changed_are_looked_at_once(
    rig: Rig, mongo: MongoClient[dict[str, Any]], database_name: str
) -> None:
    """An index on the state of a code by its name would tell, at the price of one more entry for every code."""
    entries = await read(rig, mongo, database_name, lambda rig: rig.inventory.assign(CAMPAIGN, GIVEN[:300]))
    assert [one["docsExamined"] for one in entries] == [300]


@pytest.mark.usefixtures("stock")
async def test_types_are_told_by_one_step_in_the_index(
    rig: Rig, mongo: MongoClient[dict[str, Any]], database_name: str
) -> None:
    async def upload(rig: Rig) -> object:
        return await rig.upload(FREE, campaign_id="other", code_type=CodeType.TM)

    entries = await read(rig, mongo, database_name, upload)
    assert sum(one.get("docsExamined", 0) for one in entries) == 0

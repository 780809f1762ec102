"""What the metrics say of reserves."""

from datetime import timedelta

import pytest

from codesvc.models import CodeType

from .rig import START, TTL, Documents, Rig, Rigs, document, numbered
from .shown import shown


async def test_asked_for_lent_and_short(rig: Rig) -> None:
    await rig.upload(numbered(25))
    await rig.reserve(10)
    await rig.reserve(20)
    await rig.reserve(5)
    await rig.reserve(3, code_type=CodeType.EXTERNAL)
    assert shown(rig, "reserve_requested_codes_total") == {("tm",): 35, ("external",): 3}
    assert shown(rig, "reserve_lent_codes_total") == {("tm",): 25, ("external",): 0}
    assert shown(rig, "reserve_short_total") == {("tm",): 2, ("external",): 1}
    assert shown(rig, "reserve_expired_holds_total") == {(): 0}


async def test_holds_that_had_expired(rig: Rig, documents: Documents) -> None:
    long_ago = START - TTL - timedelta(minutes=1)
    documents.insert_many([document(code, reserved=long_ago, reserve_id="x") for code in numbered(6)])
    documents.insert_many([document(code) for code in numbered(4, start=100)])
    assert len(await rig.reserve(9)) == 9
    assert shown(rig, "reserve_expired_holds_total") == {(): 5}


@pytest.mark.parametrize("left", [False, True], ids=["plenty", "the last ones"])
async def test_codes_that_somebody_else_takes_first(
    rigs: Rigs, driver: str, documents: Documents, left: bool
) -> None:
    rig = await rigs(mongo_driver=driver)
    await rig.upload(numbered(200))
    # One is lent, and all that is read ahead for the next is taken past the process.
    await rig.reserve(1)
    free = {"date.reserved": {"$exists": False}}
    taken = [one["_id"] for one in documents.find(free)]
    if not left:
        await rig.upload(numbered(2_000, prefix="MORE-"))
    documents.update_many(
        {"_id": {"$in": taken}}, {"$set": {"date.assigned": START, "date.reserved": START, "reserveId": "x"}}
    )
    found = await rig.reserve(20)
    assert len(found) == (0 if left else 20)
    assert shown(rig, "reserve_conflicts_total")[()] > 0

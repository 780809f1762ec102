"""What is done with all that a reservation holds: to no code but those that it still holds."""

import asyncio
from datetime import timedelta

from pymongo import MongoClient

from codesvc.models import ChangeCounts, CodeType, Counts

from .rig import CAMPAIGN, START, TTL, Documents, Rig, Rigs, document, numbered, stored
from .test_count import profiled

MOMENT = timedelta(milliseconds=1)


async def reserved(rig: Rig, count: int) -> tuple[str, list[str]]:
    """Reserve; return the reservation's id and the codes."""
    reservation = await rig.inventory.reserve(CAMPAIGN, CodeType.TM, count)
    return reservation.reserve_id, [one.code for one in reservation.codes]


async def test_all_that_a_reservation_holds_is_released(rig: Rig, documents: Documents) -> None:
    documents.insert_many([document(code) for code in numbered(50)])
    before = stored(documents)
    mine, codes = await reserved(rig, 30)
    other, others = await reserved(rig, 10)
    assert await rig.inventory.release_reservation(CAMPAIGN, mine) == ChangeCounts(30, 30)
    after = stored(documents)
    assert {code for code, one in after.items() if one.get("reserveId") == other} == set(others)
    assert {code: after[code] for code in codes} == {code: before[code] for code in codes}
    assert await rig.inventory.release_reservation(CAMPAIGN, mine) == ChangeCounts(0, 0)
    assert await rig.inventory.count(CAMPAIGN, CodeType.TM) == Counts(40, 10, 0)


async def test_all_that_a_reservation_holds_is_assigned(rig: Rig, documents: Documents) -> None:
    documents.insert_many([document(code) for code in numbered(50)])
    mine, codes = await reserved(rig, 30)
    await reserved(rig, 10)
    rig.clock.now += timedelta(hours=1)
    assert await rig.inventory.assign_reservation(CAMPAIGN, mine) == ChangeCounts(30, 30)
    given = stored(documents, **{"date.assigned": rig.clock.now})
    assert set(given) == set(codes)
    assert all(one["reserveId"] == mine and one["date"]["reserved"] == START for one in given.values())
    assert await rig.inventory.assign_reservation(CAMPAIGN, mine) == ChangeCounts(0, 0)
    assert await rig.inventory.release_reservation(CAMPAIGN, mine) == ChangeCounts(0, 0)
    assert await rig.inventory.count(CAMPAIGN, CodeType.TM) == Counts(10, 10, 30)


async def test_what_a_reservation_holds_no_more_is_left_alone(rig: Rig, documents: Documents) -> None:
    documents.insert_many(
        [
            document("held", reserved=START, reserve_id="mine"),
            document("retyped", reserved=START, reserve_id="mine", code_type="external"),
            document("ended", reserved=START - TTL, reserve_id="mine"),
            document("given", reserved=START, reserve_id="mine", assigned=START),
            document("another's", reserved=START, reserve_id="other"),
            document("held", reserved=START, reserve_id="mine", campaign_id="elsewhere"),
        ]
    )
    before = list(documents.find())
    for unknown in ("none", ""):
        assert await rig.inventory.release_reservation(CAMPAIGN, unknown) == ChangeCounts(0, 0)
        assert await rig.inventory.assign_reservation(CAMPAIGN, unknown) == ChangeCounts(0, 0)
    assert await rig.inventory.release_reservation("nowhere", "mine") == ChangeCounts(0, 0)
    assert list(documents.find()) == before
    assert await rig.inventory.assign_reservation(CAMPAIGN, "mine") == ChangeCounts(2, 2)
    after = stored(documents, **{"_id.campaign_id": CAMPAIGN})
    assert {code for code, one in after.items() if one["date"].get("assigned") == START} == {
        *("held", "retyped", "given")
    }
    assert documents.find_one({"_id.campaign_id": "elsewhere"}) == before[-1]


async def test_a_reservation_is_over_to_the_millisecond(rig: Rig, documents: Documents) -> None:
    documents.insert_many([document(code) for code in numbered(2)])
    (first, _), (second, _) = await reserved(rig, 1), await reserved(rig, 1)
    rig.clock.now = START + TTL - MOMENT
    assert await rig.inventory.release_reservation(CAMPAIGN, first) == ChangeCounts(1, 1)
    rig.clock.now = START + TTL
    assert await rig.inventory.release_reservation(CAMPAIGN, second) == ChangeCounts(0, 0)
    assert await rig.inventory.assign_reservation(CAMPAIGN, second) == ChangeCounts(0, 0)


async def test_a_code_that_has_gone_to_another_stays_there(rig: Rig, documents: Documents) -> None:
    documents.insert_many([document(code) for code in numbered(10)])
    mine, codes = await reserved(rig, 10)
    await rig.inventory.release(CAMPAIGN, codes[:4])
    other, others = await reserved(rig, 4)
    assert sorted(others) == sorted(codes[:4])
    assert await rig.inventory.release_reservation(CAMPAIGN, mine) == ChangeCounts(6, 6)
    assert set(stored(documents, reserveId=other)) == set(others)


async def test_of_two_who_end_a_reservation_each_code_goes_one_way(rigs: Rigs, documents: Documents) -> None:
    one, other = await rigs(mongo_driver="motor"), await rigs(mongo_driver="pymongo")
    documents.insert_many([document(code) for code in numbered(3_000)])
    mine, codes = await reserved(one, 3_000)
    assigned, released, by_code = await asyncio.gather(
        one.inventory.assign_reservation(CAMPAIGN, mine),
        other.inventory.release_reservation(CAMPAIGN, mine),
        other.inventory.release(CAMPAIGN, codes[::3]),
    )
    assert assigned.updated + released.updated + by_code.updated == 3_000
    given = stored(documents, **{"date.assigned": {"$exists": True}})
    assert len(given) == assigned.updated
    assert all(document["reserveId"] == mine for document in given.values())


async def test_codes_that_an_upload_gives_another_type_stay_held(rig: Rig, documents: Documents) -> None:
    documents.insert_many([document(code) for code in numbered(2_000)])
    mine, codes = await reserved(rig, 2_000)
    _, released = await asyncio.gather(
        rig.upload(codes[::2], code_type=CodeType.EXTERNAL),
        rig.inventory.release_reservation(CAMPAIGN, mine),
    )
    assert released == ChangeCounts(2_000, 2_000)
    assert await rig.inventory.count(CAMPAIGN, CodeType.TM) == Counts(1_000, 0, 0)
    assert await rig.inventory.count(CAMPAIGN, CodeType.EXTERNAL) == Counts(1_000, 0, 0)
    assert documents.count_documents({"reserveId": {"$exists": True}}) == 0


async def test_a_reservation_is_found_by_its_index(
    rig: Rig, documents: Documents, mongo: MongoClient[dict[str, object]], database_name: str
) -> None:
    documents.insert_many([document(code) for code in numbered(500)])
    mine, _ = await reserved(rig, 30)
    await reserved(rig, 400)
    for examined in (30, 0):
        with profiled(mongo, database_name) as entries:
            await rig.inventory.release_reservation(CAMPAIGN, mine)
        updates = [one for one in entries if one["op"] == "update" and one["ns"].endswith(".codes")]
        assert [one["docsExamined"] for one in updates] == [examined]


async def test_of_a_collection_that_is_not_there_nothing_is_held(rig: Rig, documents: Documents) -> None:
    documents.drop()
    assert await rig.inventory.release_reservation(CAMPAIGN, "none") == ChangeCounts(0, 0)
    assert await rig.inventory.assign_reservation(CAMPAIGN, "none") == ChangeCounts(0, 0)

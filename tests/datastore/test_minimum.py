"""A least number of codes: that many, or none, and nobody is told so while there are enough."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta

import pytest

from codesvc.errors import NotEnoughCodesError
from codesvc.models import CodeType, Counts

from .rig import CAMPAIGN, START, TTL, Documents, Rig, Rigs, document, numbered, stored

SHORT = timedelta(minutes=15)


async def reserve(rig: Rig, count: int, minimum: int, ttl: timedelta | None = None) -> list[str] | None:
    """Reserve; return the codes, or None where there are not enough."""
    try:
        found = await rig.inventory.reserve(CAMPAIGN, CodeType.TM, count, minimum=minimum, ttl=ttl)
    except NotEnoughCodesError:
        return None
    return [one.code for one in found.codes]


async def outcomes(calls: Sequence[tuple[Rig, int, int]]) -> list[int | None]:
    """Reserve at once; return how many codes each got, in the order of the calls."""
    replies = await asyncio.gather(*(reserve(rig, count, minimum) for rig, count, minimum in calls))
    codes = [code for reply in replies if reply is not None for code in reply]
    assert len(set(codes)) == len(codes)
    return [None if reply is None else len(reply) for reply in replies]


async def test_as_many_as_at_least_or_none(rig: Rig, documents: Documents) -> None:
    documents.insert_many([document(code) for code in numbered(7)])
    before = stored(documents)
    assert await reserve(rig, 10, 8) is None
    assert stored(documents) == before
    assert len(await reserve(rig, 10, 7) or ()) == 7
    assert await reserve(rig, 10, 1) is None
    assert await reserve(rig, 10, 0) == []


async def test_a_minimum_where_there_never_was_anything(rig: Rig) -> None:
    assert await reserve(rig, 1, 1) is None


async def test_more_than_the_minimum_where_there_is_more(rig: Rig, documents: Documents) -> None:
    documents.insert_many([document(code) for code in numbered(2_000)])
    assert len(await reserve(rig, 1_500, 10) or ()) == 1_500
    assert len(await reserve(rig, 1_500, 500) or ()) == 500


async def test_ended_holds_are_as_they_were_after_a_refusal(rig: Rig, documents: Documents) -> None:
    documents.insert_many(
        [document("NEVER"), document("LONG", reserved=START - TTL, reserve_id="r"), document("SHORT")]
    )
    documents.update_one(
        {"_id.code": "SHORT"},
        {"$set": {"reserveId": "s", "date.reserved": START - TTL, "date.held": START - SHORT}},
    )
    before = stored(documents)
    for _ in range(2):
        assert await reserve(rig, 4, 4, SHORT) is None
        assert stored(documents) == before
    assert await rig.inventory.count(CAMPAIGN, CodeType.TM) == Counts(3, 0, 0)
    assert len(await reserve(rig, 4, 3, SHORT) or ()) == 3


async def test_who_asks_for_less_gets_what_is_left(rig: Rig, documents: Documents) -> None:
    documents.insert_many([document(code) for code in numbered(8)])
    # The first of all who ask a process asks the server what it is, and would not wait together with the others.
    await rig.mongo.deployment()
    # They wait together and are served in turn: 8 are too few for the first, the second takes 5, and 3 are left.
    assert await outcomes([(rig, 10, 9), (rig, 5, 5), (rig, 4, 4), (rig, 4, 0)]) == [None, 5, None, 3]
    assert await rig.inventory.count(CAMPAIGN, CodeType.TM) == Counts(0, 8, 0)


@pytest.mark.parametrize("expired", [False, True])
async def test_of_two_processes_that_want_all_one_gets_all(
    rigs: Rigs, documents: Documents, *, expired: bool
) -> None:
    processes = [await rigs(mongo_driver=name) for name in ("motor", "pymongo")]
    for round_ in range(10):
        codes = numbered(30, prefix=f"{round_}-")
        reserved = START - TTL if expired else None
        documents.insert_many([document(code, reserved=reserved) for code in codes])
        got = await outcomes([(processes[number % 2], 30, 30) for number in range(6)])
        assert Counter(got) == {30: 1, None: 5}
        held = stored(documents, **{"date.reserved": START})
        assert sorted(code for code in held if code in codes) == codes
        documents.delete_many({})


async def test_many_with_a_minimum_and_some_without(rigs: Rigs, documents: Documents) -> None:
    processes = [await rigs(mongo_driver=name) for name in ("motor", "pymongo")]
    documents.insert_many([document(code) for code in numbered(1_003)])
    got = await outcomes([(processes[number % 2], 10, 10) for number in range(120)])
    # Nobody is told that there are too few while there are ten.
    assert Counter(got) == {10: 100, None: 20}
    assert await rig_count(processes[0]) == Counts(3, 1_000, 0)
    assert await outcomes([(one, 10, minimum) for one in processes for minimum in (4, 3)]) in (
        [None, 3, None, None],
        [None, None, None, 3],
    )


async def rig_count(rig: Rig) -> Counts:
    return await rig.inventory.count(CAMPAIGN, CodeType.TM)

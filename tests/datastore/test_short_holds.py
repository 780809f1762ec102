"""Holds that are shorter than others: over to the millisecond, whoever asks, and told as what they are."""

import asyncio
import contextvars
import time
from datetime import timedelta

import pytest

from codesvc.datastore.candidates import Candidates
from codesvc.datastore.holds import Holds
from codesvc.datastore.orders import Order, Request, Share
from codesvc.errors import NotFoundError
from codesvc.models import ChangeCounts, CodeType, Counts, Reservation, Status

from .rig import CAMPAIGN, START, TTL, Documents, Rig, Rigs, document, numbered, stored

SHORT = timedelta(minutes=15)
MOMENT = timedelta(milliseconds=1)


async def reserve(rig: Rig, count: int, ttl: timedelta | None = None) -> Reservation:
    return await rig.inventory.reserve(CAMPAIGN, CodeType.TM, count, ttl=ttl)


async def test_a_short_hold_is_told_with_its_true_beginning(rig: Rig, documents: Documents) -> None:
    documents.insert_many([document(code) for code in numbered(3)])
    reservation = await reserve(rig, 2, SHORT)
    assert reservation.expires == START + SHORT
    assert {one.reserved for one in reservation.codes} == {START}
    for one in reservation.codes:
        found = await rig.inventory.find(CAMPAIGN, one.code)
        assert (found.status, found.reserved, found.reserve_id) == (
            Status.RESERVED,
            START,
            reservation.reserve_id,
        )
        # Dated back, for every query to be the same, with the true date beside that.
        dates = stored(documents)[one.code]["date"]
        assert dates == {"saved": START, "reserved": START + SHORT - TTL, "held": START}
    again = await rig.inventory.reservation(CAMPAIGN, reservation.reserve_id)
    assert list(again.codes) == sorted(reservation.codes, key=lambda one: one.code)
    assert (again.reserve_id, again.expires) == (reservation.reserve_id, START + SHORT)


@pytest.mark.parametrize("ttl", [None, TTL, 2 * TTL])
async def test_a_hold_like_others_has_no_second_date(
    rig: Rig, documents: Documents, ttl: timedelta | None
) -> None:
    documents.insert_one(document("A"))
    reservation = await reserve(rig, 1, ttl)
    assert reservation.expires == START + TTL
    assert stored(documents)["A"]["date"] == {"saved": START, "reserved": START}


async def test_a_short_hold_is_over_to_the_millisecond(rig: Rig, documents: Documents) -> None:
    documents.insert_many([document(code) for code in numbered(4)])
    held = [(await reserve(rig, 1, SHORT)).reserve_id for _ in range(4)]
    rig.clock.now = START + SHORT - MOMENT
    assert await rig.inventory.count(CAMPAIGN, CodeType.TM) == Counts(0, 4, 0)
    assert await rig.reserve(1) == []
    (code,) = (await rig.inventory.reservation(CAMPAIGN, held[0])).codes
    assert await rig.inventory.release(CAMPAIGN, [code.code]) == ChangeCounts(1, 1)
    assert await rig.inventory.release_reservation(CAMPAIGN, held[1]) == ChangeCounts(1, 1)
    assert await rig.inventory.assign_reservation(CAMPAIGN, held[2]) == ChangeCounts(1, 1)
    (last,) = (await rig.inventory.reservation(CAMPAIGN, held[3])).codes
    rig.clock.now = START + SHORT
    assert await rig.inventory.count(CAMPAIGN, CodeType.TM) == Counts(3, 0, 1)
    with pytest.raises(NotFoundError):
        await rig.inventory.reservation(CAMPAIGN, held[3])
    found = await rig.inventory.find(CAMPAIGN, last.code)
    assert (found.status, found.reserved, found.reserve_id) == (Status.AVAILABLE, None, None)
    assert await rig.inventory.release(CAMPAIGN, [last.code]) == ChangeCounts(1, 0)
    assert await rig.inventory.release_reservation(CAMPAIGN, held[3]) == ChangeCounts(0, 0)
    assert len(await rig.reserve(4)) == 3


async def test_nothing_is_left_of_a_short_hold(rig: Rig, documents: Documents) -> None:
    documents.insert_many([document("A"), document("B")])
    before = stored(documents)
    first = await reserve(rig, 2, SHORT)
    await rig.inventory.release(CAMPAIGN, ["A"])
    await rig.inventory.release_reservation(CAMPAIGN, first.reserve_id)
    assert stored(documents) == before
    await reserve(rig, 2, SHORT)
    rig.clock.now += SHORT
    later = await reserve(rig, 2)
    assert later.expires == START + SHORT + TTL
    for one in stored(documents).values():
        assert one["date"] == {"saved": START, "reserved": START + SHORT}
    assert (await rig.inventory.find(CAMPAIGN, "A")).reserved == START + SHORT


async def test_an_assigned_code_tells_of_a_short_hold_that_it_was_assigned_under(
    rig: Rig, documents: Documents
) -> None:
    documents.insert_many([document("A"), document("B")])
    first = await reserve(rig, 2, SHORT)
    rig.clock.now = START + SHORT - MOMENT
    await rig.inventory.assign(CAMPAIGN, ["A"])
    rig.clock.now = START + SHORT
    await rig.inventory.assign(CAMPAIGN, ["B"])
    during = await rig.inventory.find(CAMPAIGN, "A")
    after = await rig.inventory.find(CAMPAIGN, "B")
    assert (during.reserved, during.reserve_id) == (START, first.reserve_id)
    assert (after.reserved, after.reserve_id) == (None, None)


async def test_callers_who_are_served_together_have_holds_of_their_own_lengths(
    rig: Rig, documents: Documents
) -> None:
    documents.insert_many([document(code) for code in numbered(100)])
    documents.insert_many(
        [document(code, reserved=START - TTL, reserve_id="old") for code in numbered(200, prefix="old-")]
    )
    lengths = [None, *(timedelta(seconds=number) for number in range(1, 30))]
    replies = await asyncio.gather(*(reserve(rig, 10, length) for length in lengths))
    codes = [{one.code for one in reply.codes} for reply in replies]
    assert len(set().union(*codes)) == 300
    for number in range(1, 30):
        rig.clock.now = START + timedelta(seconds=number)
        assert await rig.inventory.count(CAMPAIGN, CodeType.TM) == Counts(10 * number, 300 - 10 * number, 0)
        with pytest.raises(NotFoundError):
            await rig.inventory.reservation(CAMPAIGN, replies[number].reserve_id)
    held = await rig.inventory.reservation(CAMPAIGN, replies[0].reserve_id)
    assert {one.code for one in held.codes} == codes[0]


async def test_who_is_served_with_one_who_came_before_a_hold_ended_is_not_told_that_there_are_none(
    rigs: Rigs, documents: Documents
) -> None:
    rig = await rigs()
    documents.insert_many([document("A"), document("B", reserved=START + MOMENT - TTL, reserve_id="old")])

    async def later() -> Reservation:
        rig.clock.now = START + MOMENT
        return await reserve(rig, 1)

    first, second = await asyncio.gather(reserve(rig, 1), later())
    assert sorted(one.code for one in (*first.codes, *second.codes)) == ["A", "B"]
    for reservation in (first, second):
        (code,) = reservation.codes
        assert stored(documents)[code.code]["date"]["reserved"] == code.reserved
        assert reservation.expires == code.reserved + TTL
        # Nor before the hold on it had ended.
        assert code.code == "A" or code.reserved == START + MOMENT


async def test_what_is_given_back_has_its_short_hold_again(rigs: Rigs, documents: Documents) -> None:
    rig = await rigs()
    documents.insert_many([document("SHORT"), document("OLD", reserved=START - TTL, reserve_id="old")])
    await reserve(rig, 2, SHORT)
    documents.update_one({"_id.code": "OLD"}, {"$unset": {"date.held": ""}})
    rig.clock.now += SHORT
    before = stored(documents)
    candidates = Candidates(rig.mongo.codes, CAMPAIGN, CodeType.TM)
    holds = Holds(rig.mongo, candidates, CAMPAIGN, CodeType.TM)
    for shortened in (timedelta(0), SHORT):
        now = rig.clock.now
        request = Request(CAMPAIGN, CodeType.TM, 2, "new", now, now - TTL, shortened=shortened)
        waiting = asyncio.get_running_loop().create_future()
        order = Order(request, waiting, time.monotonic() + 10, contextvars.copy_context())
        share = Share(order, await candidates.take(2, request.cut_off))
        assert await holds.hold([share]) == 2
        share.held()
        assert {"held" in one["date"] for one in stored(documents).values()} == {bool(shortened)}
        await holds.give_back(order)
        candidates.done(share.candidates)
        assert stored(documents) == before


async def test_what_a_process_of_an_earlier_version_leaves_is_not_told(
    rig: Rig, documents: Documents
) -> None:
    """It knows nothing of the second date, and so takes it away neither with a release nor with the next hold."""
    left = document("A")
    left["date"]["held"] = START - SHORT
    documents.insert_one(left)
    reservation = await reserve(rig, 1)
    assert (await rig.inventory.find(CAMPAIGN, "A")).reserved == START
    (code,) = (await rig.inventory.reservation(CAMPAIGN, reservation.reserve_id)).codes
    assert code.reserved == START

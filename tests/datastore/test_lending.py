"""How codes are lent: together, from what was read ahead, and by a transaction only where they run out."""

import asyncio
import contextvars
import time
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from pymongo.monitoring import CommandSucceededEvent

from codesvc.datastore.campaigns import LENDING_EXPIRY_SECONDS
from codesvc.datastore.candidates import Candidates
from codesvc.datastore.holds import Holds
from codesvc.datastore.lending import _Lender
from codesvc.datastore.orders import Order, Request, Share
from codesvc.errors import DatabaseUnavailableError
from codesvc.models import CodeType, Counts

from .rig import CAMPAIGN, START, TTL, Commands, Documents, Rig, Rigs, document, numbered, stored


async def watched(rigs: Rigs, **overrides: Any) -> tuple[Rig, Commands]:
    commands = Commands()
    return await rigs(listeners=[commands], **overrides), commands


def names(commands: Commands) -> Counter[str]:
    """Count the commands on the codes by their names, and the transactions."""
    found = Counter(next(iter(one)) for one in commands.sent if one.get(next(iter(one))) == "codes")
    found["transaction"] = sum(bool(one.get("startTransaction")) for one in commands.sent)
    return +found


async def test_a_reserve_is_one_update(rigs: Rigs, documents: Documents, driver: str) -> None:
    rig, commands = await watched(rigs, mongo_driver=driver)
    documents.insert_many([document(code) for code in numbered(2_000)])
    await rig.reserve(10)
    commands.sent.clear()
    for _ in range(5):
        assert len(await rig.reserve(10)) == 10
    assert names(commands) == {"update": 5}


async def test_callers_who_wait_are_served_together(rigs: Rigs, documents: Documents) -> None:
    rig, commands = await watched(rigs)
    documents.insert_many([document(code) for code in numbered(5_000)])
    await rig.reserve(10)
    commands.sent.clear()
    replies = await asyncio.gather(*(rig.reserve(10) for _ in range(64)))
    assert len({code for reply in replies for code in reply}) == 640
    assert names(commands)["update"] <= 4
    assert names(commands)["transaction"] == 0


async def test_others_may_take_what_was_read_ahead(rigs: Rigs, documents: Documents) -> None:
    rig, commands = await watched(rigs)
    documents.insert_many([document(code) for code in numbered(300)])
    first = await rig.reserve(10)
    # Every second one of those that are left.
    free = sorted(stored(documents, **{"date.reserved": {"$exists": False}}))
    taken = free[::2]
    documents.update_many({"_id.code": {"$in": taken}}, {"$set": {"date.assigned": START}})
    commands.sent.clear()
    second = await rig.reserve(40)
    assert len(second) == 40
    assert not {*first, *taken} & {*second}
    assert names(commands)["transaction"] == 0
    held = stored(documents, **{"date.reserved": START, "date.assigned": {"$exists": False}})
    assert sorted(held) == sorted(first + second)


async def test_the_last_ones_are_lent_by_a_transaction(rigs: Rigs, documents: Documents) -> None:
    rig, commands = await watched(rigs)
    documents.insert_many([document(code) for code in numbered(25)])
    assert len(await rig.reserve(20)) == 20
    assert names(commands)["transaction"] == 0
    assert len(await rig.reserve(20)) == 5
    assert names(commands)["transaction"] == 1
    assert await rig.reserve(20) == []


async def test_many_codes_bring_the_faster_way_back(
    rigs: Rigs, documents: Documents, campaigns: Documents
) -> None:
    rig, commands = await watched(rigs)
    other = await rigs()
    documents.insert_many([document(code) for code in numbered(40)])
    # The other one may hold codes for a moment, so that it has to be told to stop.
    assert len(await other.reserve(1)) == 1
    assert len(await rig.reserve(50)) == 39
    assert campaigns.find_one({"_id": CAMPAIGN})["scarce"] == ["tm"]
    await rig.upload(numbered(3_000, start=1_000))
    for _ in range(3):
        assert len(await other.reserve(10)) == len(await rig.reserve(10)) == 10
        await asyncio.sleep(1.1)
    assert campaigns.find_one({"_id": CAMPAIGN})["scarce"] == []
    await asyncio.sleep(1.1)
    assert len(await rig.reserve(10)) == 10
    commands.sent.clear()
    assert len(await rig.reserve(10)) == 10
    assert names(commands) == {"update": 1}


async def test_a_process_that_died_while_it_lent(
    rigs: Rigs, documents: Documents, campaigns: Documents
) -> None:
    rig = await rigs(mongo_timeout=1)
    documents.insert_many([document(code) for code in numbered(5)])

    def die(seconds: float) -> None:
        at = {"$subtract": ["$$NOW", round(1000 * seconds)]}
        entry = {"id": "dead", "lends": ["tm"], "at": at}
        campaigns.update_one({"_id": CAMPAIGN}, [{"$set": {"writers": [entry]}}], upsert=True)

    die(0.0)
    # It might give some back, so nobody may be told that there are only five.
    with pytest.raises(DatabaseUnavailableError):
        await rig.reserve(10)
    assert documents.count_documents({"date.reserved": {"$exists": True}}) == 0
    assert len(await rig.reserve(2)) == 2
    die(LENDING_EXPIRY_SECONDS + 1)
    assert len(await rig.reserve(10)) == 3
    # Of another type, it may lend what it likes.
    await rig.upload(["A"], code_type=CodeType.EXTERNAL)
    die(0.0)
    assert await rig.reserve(2, code_type=CodeType.EXTERNAL) == ["A"]


async def test_who_is_short_gives_back_before_others_are_told(rigs: Rigs, documents: Documents) -> None:
    """Three processes, each of which wants more than a third: two get theirs, and one what is left."""
    processes = [await rigs(mongo_driver=name) for name in ("motor", "pymongo", "motor")]
    for round_ in range(8):
        codes = numbered(100, prefix=f"{round_}-")
        documents.insert_many([document(code) for code in codes])
        replies = await asyncio.gather(*(rig.reserve(40) for rig in processes))
        assert sorted(map(len, replies)) == [20, 40, 40]
        assert sorted(code for reply in replies for code in reply) == codes


async def test_one_that_wants_many_keeps_nobody_waiting_for_long(rigs: Rigs, documents: Documents) -> None:
    rig = await rigs()
    documents.insert_many([document(code) for code in numbered(12_000)])
    many = asyncio.create_task(rig.reserve(10_000))
    await asyncio.sleep(0.01)
    assert len(await rig.reserve(1)) == 1
    assert not many.done()
    assert len(await many) == 10_000


async def test_a_caller_who_goes_away_takes_nobody_along(rigs: Rigs, documents: Documents) -> None:
    rig = await rigs()
    documents.insert_many([document(code) for code in numbered(1_000)])
    callers = [asyncio.create_task(rig.reserve(5)) for _ in range(10)]
    await asyncio.sleep(0)
    for caller in callers[::2]:
        caller.cancel()
    replies = await asyncio.gather(*callers, return_exceptions=True)
    assert [len(one) if isinstance(one, list) else 0 for one in replies] == [0, 5] * 5


async def test_what_is_held_for_a_caller_who_has_gone_is_given_back(rigs: Rigs, documents: Documents) -> None:
    rig = await rigs()
    documents.insert_many([document(code) for code in numbered(10_000)])
    caller = asyncio.create_task(rig.reserve(5_000))
    await asyncio.sleep(0.05)
    caller.cancel()
    held = {"date.reserved": {"$exists": True}}
    for _ in range(200):
        await asyncio.sleep(0.02)
        if documents.count_documents(held) == 0:
            break
    assert documents.count_documents(held) == 0
    assert len(await rig.reserve(10_000)) == 10_000


async def test_what_is_given_back_is_as_it_was(rigs: Rigs, documents: Documents) -> None:
    """So that a request of another process that came earlier gets nothing before the end of the hold on it."""
    rig = await rigs()
    documents.insert_many(
        [
            document("NEVER"),
            document("ENDED", reserved=START - TTL, reserve_id="old"),
            document("ENDED-TOO", reserved=START - TTL - timedelta(hours=1), reserve_id="older"),
            document("ENDED-FOREIGN", reserved=START - TTL),
        ]
    )
    before = stored(documents)
    candidates = Candidates(rig.mongo.codes, CAMPAIGN, CodeType.TM)
    holds = Holds(rig.mongo, candidates, CAMPAIGN, CodeType.TM)
    request = Request(CAMPAIGN, CodeType.TM, 5, "new", START, START - TTL)
    waiting = asyncio.get_running_loop().create_future()
    order = Order(request, waiting, time.monotonic() + 10, contextvars.copy_context())
    share = Share(order, await candidates.take(5, request.cut_off))
    assert await holds.hold([share]) == 4
    share.held()
    assert {one["reserveId"] for one in stored(documents).values()} == {"new"}
    await holds.give_back(order)
    assert order.held == []
    assert stored(documents) == before


async def test_ended_holds_are_lent_after_never_held_codes(rigs: Rigs, documents: Documents) -> None:
    rig, commands = await watched(rigs)
    documents.insert_many(
        [document(code, reserved=START - TTL, reserve_id="old") for code in numbered(50)]
        + [document(code) for code in numbered(20, prefix="new-")]
    )
    assert sorted(await rig.reserve(20)) == numbered(20, prefix="new-")
    assert sorted(await rig.reserve(50)) == numbered(50)
    assert names(commands)["transaction"] == 0
    assert await rig.inventory.count(CAMPAIGN, CodeType.TM) == Counts(0, 70, 0)


class _Then(Commands):
    """Does something as soon as the reply to a find has come, before anybody else sees it."""

    def __init__(self) -> None:
        super().__init__()
        self.then: Callable[[], None] | None = None

    def succeeded(self, event: CommandSucceededEvent) -> None:
        if event.command_name == "find" and self.then is not None:
            self.then()


async def test_what_is_done_with_while_others_are_looked_for_is_not_handed_out_again(
    rigs: Rigs, documents: Documents
) -> None:
    """It may be held by then, for an order that has it counted, and was read before that."""
    then = _Then()
    rig = await rigs(listeners=[then], mongo_driver="pymongo")
    documents.insert_many([document(code) for code in numbered(200)])
    candidates = Candidates(rig.mongo.codes, CAMPAIGN, CodeType.TM)
    first = await candidates.take(3, START - TTL)
    then.then = lambda: candidates.done(first)
    others = await candidates.take(200, START - TTL)
    assert len(others) == 197
    assert {one.code for one in first}.isdisjoint(one.code for one in others)


async def test_what_is_held_for_an_order_already_is_not_counted_for_it_again(
    rigs: Rigs, documents: Documents
) -> None:
    """As when candidates were read from a primary that did not know yet that it was none any more."""
    rig = await rigs()
    documents.insert_many([document(code) for code in numbered(4)])
    lender = _Lender(rig.mongo, rig.store._campaigns, rig.store._motion, rig.telemetry, CAMPAIGN, CodeType.TM)
    found = await lender._candidates.take(4, START - TTL)
    request = Request(CAMPAIGN, CodeType.TM, 4, "mine", START, START - TTL)
    waiting = asyncio.get_running_loop().create_future()
    order = Order(request, waiting, time.monotonic() + 10, contextvars.copy_context())
    await lender._hold([Share(order, found[:2])])
    await lender._hold([Share(order, found[1:])])
    assert sorted(one.code for one in order.held) == numbered(4)

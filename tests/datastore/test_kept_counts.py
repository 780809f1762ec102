"""Counts that are kept: used while they hold, dropped when anybody writes, and repaired where they are wrong."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from codesvc.datastore.campaigns import EXPIRY_SECONDS
from codesvc.datastore.counting import Verdict
from codesvc.errors import DatabaseUnavailableError
from codesvc.models import CodeType, Counts

from .rig import CAMPAIGN, EAGER, START, TTL, Commands, Documents, Rig, Rigs, document, numbered

OTHER = "autumn-26"
MOMENT = timedelta(milliseconds=1)


class Watched:
    """A rig that tells how often it has counted by the index."""

    def __init__(self, rig: Rig, commands: Commands) -> None:
        self.rig = rig
        self._commands = commands

    async def count(self, campaign_id: str = CAMPAIGN) -> tuple[tuple[int, int, int], bool]:
        """Return the counts, and whether the index of the whole campaign was counted for them."""
        self._commands.sent.clear()
        found = await self.rig.inventory.count(campaign_id, CodeType.TM)
        whole = [one for one in self._commands.sent if _counts_all(one)]
        return (found.available, found.reserved, found.assigned), bool(whole)


def _counts_all(command: dict[str, Any]) -> bool:
    stage = command["pipeline"][0] if command.get("aggregate") == "codes" else {}
    return set(stage.get("$match", ())) == {"_id.campaign_id", "type", "date.assigned"}


Watch = Callable[..., Any]


@pytest.fixture
def watch(rigs: Rigs) -> Watch:
    async def make(**overrides: Any) -> Watched:
        commands = Commands()
        return Watched(await rigs(listeners=[commands], **overrides), commands)

    return make


async def test_counts_are_kept_until_somebody_writes(watch: Watch, driver: str) -> None:
    one, other = await watch(mongo_driver=driver), await watch()
    await one.rig.upload(numbered(20))
    assert await one.count() == ((20, 0, 0), True)
    for each in (one, other, one):
        assert await each.count() == ((20, 0, 0), False)
    await other.rig.reserve(3)
    # The other process may write on, as far as this one knows.
    assert await one.count() == ((17, 3, 0), True)
    assert await one.count() == ((17, 3, 0), True)
    assert await other.count() == ((17, 3, 0), True)
    assert await one.count() == ((17, 3, 0), False)


async def test_every_kind_of_write_is_seen(watch: Watch) -> None:
    one, other = await watch(), await watch()
    await one.rig.upload(numbered(10))
    held: list[str] = []

    async def reserve() -> None:
        held.extend(await other.rig.reserve(4))

    async def assign() -> None:
        await other.rig.inventory.assign(CAMPAIGN, held[:2])

    async def release() -> None:
        await other.rig.inventory.release(CAMPAIGN, held[2:])

    async def upload() -> None:
        await other.rig.upload(numbered(5, start=100))

    async def move() -> None:
        await other.rig.upload(numbered(3, start=100), code_type=CodeType.EXTERNAL)

    for write, expected in (
        (reserve, (6, 4, 0)),
        (assign, (6, 2, 2)),
        (release, (8, 0, 2)),
        (upload, (13, 0, 2)),
        (move, (10, 0, 2)),
    ):
        await one.count()
        assert (await one.count())[1] is False
        await write()
        assert (await one.count())[0] == expected
        assert (await other.count())[0] == expected


async def test_holds_end_while_nobody_writes(watch: Watch) -> None:
    one = await watch()
    documents = [
        document(code, reserved=START - TTL + timedelta(minutes=minute), reserve_id="r")
        for minute, code in enumerate(numbered(30), start=1)
    ]
    await one.rig.mongo.codes.insert_many([*documents, document("free"), document("given", assigned=START)])
    assert await one.count() == ((1, 30, 1), True)
    for minute in (1, 2, 7, 30):
        one.rig.clock.now = START + timedelta(minutes=minute) - MOMENT
        assert await one.count() == ((minute, 31 - minute, 1), False)
        one.rig.clock.now += MOMENT
        assert await one.count() == ((minute + 1, 30 - minute, 1), False)
    # Another process, whose clock is behind.
    one.rig.clock.now = START + timedelta(minutes=3)
    assert await one.count() == ((4, 27, 1), False)


async def test_foreign_writes_are_seen(watch: Watch, documents: Documents) -> None:
    one = await watch()
    documents.insert_many([document(code) for code in numbered(20)])
    await one.count()
    assert await one.count() == ((20, 0, 0), False)
    documents.insert_one(document("new"))
    assert await one.count() == ((21, 0, 0), True)
    documents.update_one({"_id.code": "new"}, {"$set": {"date.reserved": START}})
    assert await one.count() == ((20, 1, 0), True)
    documents.update_one({"_id.code": "new"}, {"$set": {"date.reserved": START - TTL}})
    assert await one.count() == ((21, 0, 0), True)
    assert await one.count() == ((21, 0, 0), False)
    documents.delete_one({"_id.code": "new"})
    assert await one.count() == ((20, 0, 0), True)
    documents.drop()
    assert await one.count() == ((0, 0, 0), False)


async def test_large_campaigns_are_trusted_while_others_are_written_to(watch: Watch) -> None:
    one = await watch(keeping=replace(EAGER, trust_from=10))
    await one.rig.upload(numbered(20))
    await one.rig.upload(numbered(9), campaign_id=OTHER)
    await one.count()
    await one.count(OTHER)
    await one.rig.reserve(1, campaign_id=OTHER)
    assert await one.count() == ((20, 0, 0), False)
    assert await one.count(OTHER) == ((8, 1, 0), True)
    # Smaller ones are counted in no time, in any case.
    await one.rig.reserve(1)
    assert await one.count(OTHER) == ((8, 1, 0), True)


async def test_trusted_counts_are_checked_and_replaced(watch: Watch, campaigns: Documents) -> None:
    one = await watch(keeping=replace(EAGER, trust_from=1))
    await one.rig.upload(numbered(20))
    await one.rig.upload(["A"], campaign_id=OTHER)
    await one.count()
    # A lie that is older than a minute.
    lie = {"$inc": {"counts.tm.available": 5, "counts.tm.made": -100}}
    assert campaigns.update_one({"_id": CAMPAIGN}, lie).modified_count == 1
    await one.rig.reserve(1, campaign_id=OTHER)
    assert (await one.count())[0] == (25, 0, 0)
    for _ in range(100):
        if (await one.count())[0] == (20, 0, 0):
            break
        await asyncio.sleep(0.02)
    assert (await one.count())[0] == (20, 0, 0)
    text = one.rig.telemetry.render()[0].decode()
    assert 'count_checks_total{outcome="different"} 1' in text


async def test_verification(watch: Watch, campaigns: Documents) -> None:
    one = await watch()
    await one.rig.upload(numbered(20))
    await one.rig.upload(["A", "B"], campaign_id=OTHER, code_type=CodeType.EXTERNAL)
    await one.rig.inventory.assign(CAMPAIGN, await one.rig.reserve(3))
    await one.rig.reserve(4)

    async def verify() -> list[Verdict]:
        return [verdict async for verdict in one.rig.store.verify_counts()]

    assert await verify() == []
    await one.count()
    await one.rig.inventory.count(OTHER, CodeType.EXTERNAL)
    right = Counts(available=13, reserved=4, assigned=3)
    other = Verdict(OTHER, CodeType.EXTERNAL, Counts(2, 0, 0), Counts(2, 0, 0))
    assert await verify() == [other, Verdict(CAMPAIGN, CodeType.TM, right, right)]
    campaigns.update_one({"_id": CAMPAIGN}, {"$inc": {"counts.tm.available": 2, "counts.tm.reserved": -2}})
    wrong = Verdict(CAMPAIGN, CodeType.TM, Counts(15, 2, 3), right)
    assert not wrong.equal
    assert await verify() == [other, wrong]
    assert await verify() == [other, Verdict(CAMPAIGN, CodeType.TM, right, right)]
    assert await one.count() == ((13, 4, 3), False)


async def test_a_process_that_died_while_writing(watch: Watch, campaigns: Documents) -> None:
    one = await watch()
    await one.rig.upload(numbered(20))
    await one.count()
    entry = {"id": "dead", "lends": ["tm"]}
    campaigns.update_one({"_id": CAMPAIGN}, [{"$set": {"writers": [entry | {"at": "$$NOW"}]}}])
    for _ in range(2):
        assert await one.count() == ((20, 0, 0), True)
    gone = {"$subtract": ["$$NOW", 1000 * (EXPIRY_SECONDS + 1)]}
    campaigns.update_one({"_id": CAMPAIGN}, [{"$set": {"writers": [entry | {"at": gone}]}}])
    await one.count()
    assert campaigns.find_one({"_id": CAMPAIGN})["writers"] == []
    await one.count()
    assert await one.count() == ((20, 0, 0), False)


async def test_nobody_writes_who_could_not_say_so(
    watch: Watch, documents: Documents, campaigns: Documents
) -> None:
    one = await watch(mongo_timeout=1)
    await one.rig.upload(numbered(20))
    await one.count()
    campaigns.database.command("collMod", "campaigns", validator={"nothing": {"$exists": True}})
    try:
        with pytest.raises((DatabaseUnavailableError, Exception)):
            await one.rig.inventory.assign(CAMPAIGN, numbered(1))
    finally:
        campaigns.database.command("collMod", "campaigns", validator={})
    assert documents.count_documents({"date.assigned": {"$exists": True}}) == 0
    assert (await one.count())[0] == (20, 0, 0)
    await one.rig.inventory.assign(CAMPAIGN, numbered(1))
    assert (await one.count())[0] == (19, 0, 1)


async def test_callers_who_count_together_see_what_was_written_before_they_asked(watch: Watch) -> None:
    one = await watch()
    await one.rig.upload(numbered(3_000))

    async def ask(expected: int) -> None:
        assert (await one.rig.inventory.count(CAMPAIGN, CodeType.TM)).assigned >= expected

    asking = []
    for number in range(40):
        await one.rig.inventory.assign(CAMPAIGN, [numbered(1, start=number)[0]])
        asking += [asyncio.create_task(ask(number + 1)) for _ in range(3)]
        await asyncio.sleep(0)
    await asyncio.gather(*asking)
    assert (await one.count())[0] == (2_960, 0, 40)


async def test_a_caller_who_goes_away_takes_nobody_along(watch: Watch) -> None:
    one = await watch()
    await one.rig.upload(numbered(100))
    first, *others = [asyncio.create_task(one.rig.inventory.count(CAMPAIGN, CodeType.TM)) for _ in range(4)]
    await asyncio.sleep(0.001)
    first.cancel()
    assert await asyncio.gather(*others) == [Counts(100, 0, 0)] * 3
    with pytest.raises(asyncio.CancelledError):
        await first

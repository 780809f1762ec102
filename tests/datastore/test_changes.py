"""Assign and release: what they change, what they leave alone, and what they count."""

import asyncio
import random
from datetime import timedelta

import pytest

from codesvc.models import ChangeCounts, CodeType, Counts

from .rig import CAMPAIGN, START, TTL, Documents, Rig, document, numbered, stored

MOMENT = timedelta(milliseconds=1)
LATER = timedelta(hours=1)


@pytest.fixture
def every_state(documents: Documents) -> dict[str, dict[str, object]]:
    """One code in each state, by name."""
    long_ago = START - TTL
    made = [
        document("available"),
        document("reserved", reserved=START, reserve_id="r-1"),
        document("expired", reserved=long_ago, reserve_id="r-2"),
        document("assigned", assigned=long_ago, reserved=long_ago, reserve_id="r-3"),
        document("given", assigned=long_ago),
    ]
    documents.insert_many(made)
    return {one["_id"]["code"]: one for one in made}


async def test_assign_takes_available_and_reserved_codes(
    rig: Rig, documents: Documents, every_state: dict[str, dict[str, object]]
) -> None:
    assert await rig.inventory.assign(CAMPAIGN, list(every_state)) == ChangeCounts(total=5, updated=3)
    after = stored(documents)
    for code in ("available", "reserved", "expired"):
        before = every_state[code]
        date = before["date"]
        assert isinstance(date, dict)
        assert after[code] == before | {"date": date | {"assigned": START}}
    for code in ("assigned", "given"):
        assert after[code] == every_state[code]


async def test_assign_again_changes_nothing(rig: Rig, documents: Documents) -> None:
    await rig.upload(["A", "B"])
    assert await rig.inventory.assign(CAMPAIGN, ["A", "B"]) == ChangeCounts(2, 2)
    rig.clock.now += LATER
    assert await rig.inventory.assign(CAMPAIGN, ["A", "B"]) == ChangeCounts(2, 0)
    assert {one["date"]["assigned"] for one in stored(documents).values()} == {START}


async def test_release_takes_live_holds_only(
    rig: Rig, documents: Documents, every_state: dict[str, dict[str, object]]
) -> None:
    assert await rig.inventory.release(CAMPAIGN, list(every_state)) == ChangeCounts(total=5, updated=1)
    after = stored(documents)
    assert after.pop("reserved") == document("reserved")
    assert after == {code: one for code, one in every_state.items() if code != "reserved"}
    assert await rig.inventory.release(CAMPAIGN, list(every_state)) == ChangeCounts(5, 0)


async def test_release_at_the_end_of_a_hold(rig: Rig) -> None:
    await rig.upload(["A", "B"])
    await rig.reserve(2)
    rig.clock.now = START + TTL - MOMENT
    assert await rig.inventory.release(CAMPAIGN, ["A"]) == ChangeCounts(1, 1)
    rig.clock.now = START + TTL
    assert await rig.inventory.release(CAMPAIGN, ["B"]) == ChangeCounts(1, 0)
    assert await rig.inventory.count(CAMPAIGN, CodeType.TM) == Counts(2, 0, 0)


async def test_a_released_code_can_be_lent_again(rig: Rig, documents: Documents) -> None:
    await rig.upload(["A"])
    await rig.reserve(1)
    await rig.inventory.release(CAMPAIGN, ["A"])
    assert "reserveId" not in stored(documents)["A"]
    assert await rig.reserve(1) == ["A"]


async def test_an_assigned_code_is_never_available_again(rig: Rig) -> None:
    await rig.upload(["A"])
    await rig.reserve(1)
    await rig.inventory.assign(CAMPAIGN, ["A"])
    assert await rig.inventory.release(CAMPAIGN, ["A"]) == ChangeCounts(1, 0)
    rig.clock.now += 100 * TTL
    assert await rig.reserve(1) == []
    assert await rig.inventory.count(CAMPAIGN, CodeType.TM) == Counts(0, 0, 1)


async def test_in_is_the_length_of_the_list_as_sent(rig: Rig) -> None:
    await rig.upload(["A", "B"])
    codes = ["A", "A", "unknown", "B", "A", "", "a", " A"]
    assert await rig.inventory.assign(CAMPAIGN, codes) == ChangeCounts(total=8, updated=2)
    await rig.upload(["C"])
    await rig.reserve(1)
    assert await rig.inventory.release(CAMPAIGN, ["C", "C", "A", "?"]) == ChangeCounts(total=4, updated=1)


async def test_both_types_and_no_other_campaign(rig: Rig, documents: Documents) -> None:
    documents.insert_many(
        [
            document("tm"),
            document("external", code_type="external"),
            document("tm", campaign_id="other"),
            document("tm", campaign_id=CAMPAIGN + "0"),
        ]
    )
    assert await rig.inventory.assign(CAMPAIGN, ["tm", "external"]) == ChangeCounts(2, 2)
    assert documents.count_documents({"date.assigned": START}) == 2


async def test_what_cannot_be_a_code_is_unknown(rig: Rig) -> None:
    await rig.upload(["A", "😀" * 64])
    codes = ["A", "x" * 257, "y" * 20_000_000, "😀" * 64, "😀" * 256, "$where", "\0", "\n"]
    assert await rig.inventory.assign(CAMPAIGN, codes) == ChangeCounts(total=8, updated=2)
    assert await rig.inventory.release(CAMPAIGN, codes) == ChangeCounts(total=8, updated=0)


async def test_a_hundred_thousand_codes_in_one_call(rig: Rig, documents: Documents) -> None:
    codes = numbered(3_000)
    documents.insert_many([document(code) for code in codes])
    sent = [f"{number:0256d}" for number in range(97_000)] + codes
    random.Random(4).shuffle(sent)
    assert await rig.inventory.assign(CAMPAIGN, sent) == ChangeCounts(total=100_000, updated=3_000)
    assert documents.count_documents({"date.assigned": START}) == 3_000


async def test_of_many_who_assign_a_code_one_does(rig: Rig) -> None:
    codes = numbered(50)
    await rig.upload(codes)
    counts = await asyncio.gather(*(rig.inventory.assign(CAMPAIGN, codes) for _ in range(16)))
    assert sum(one.updated for one in counts) == 50


async def test_assign_and_release_of_the_same_hold(rig: Rig, documents: Documents) -> None:
    codes = numbered(300)
    await rig.upload(codes)
    assert len(await rig.reserve(300)) == 300
    assigned, released = await asyncio.gather(
        rig.inventory.assign(CAMPAIGN, codes), rig.inventory.release(CAMPAIGN, codes[::-1])
    )
    assert assigned.updated == 300
    after = stored(documents)
    assert sum("reserveId" not in one for one in after.values()) == released.updated
    assert all("assigned" in one["date"] for one in after.values())


async def test_a_release_that_comes_late_ends_the_hold_of_another(rig: Rig, documents: Documents) -> None:
    await rig.upload(["A"])
    await rig.reserve(1)
    rig.clock.now += TTL
    # Nobody else holds it: there is nothing to release.
    assert await rig.inventory.release(CAMPAIGN, ["A"]) == ChangeCounts(1, 0)
    other = await rig.inventory.reserve(CAMPAIGN, CodeType.TM, 1)
    assert [one.code for one in other.codes] == ["A"]
    assert await rig.inventory.release(CAMPAIGN, ["A"]) == ChangeCounts(1, 1)
    assert stored(documents, reserveId=other.reserve_id) == {}
    assert await rig.reserve(1) == ["A"]


async def test_an_assign_that_comes_late_takes_the_code_of_another(rig: Rig, documents: Documents) -> None:
    await rig.upload(["A"])
    await rig.reserve(1)
    rig.clock.now += TTL
    other = await rig.inventory.reserve(CAMPAIGN, CodeType.TM, 1)
    assert await rig.inventory.assign(CAMPAIGN, ["A"]) == ChangeCounts(1, 1)
    assert await rig.inventory.assign(CAMPAIGN, ["A"]) == ChangeCounts(1, 0)
    assert await rig.inventory.release(CAMPAIGN, ["A"]) == ChangeCounts(1, 0)
    # Whose it was last is still told.
    assert stored(documents)["A"]["reserveId"] == other.reserve_id

"""Reserve: as many codes as were asked for while there are so many, and no code twice."""

import asyncio
import random
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codesvc.datastore.candidates import random_between
from codesvc.models import CodeType, Counts

from .rig import CAMPAIGN, START, TTL, Documents, Rig, Rigs, document, numbered, stored

AVAILABLE = {"date.assigned": None, "date.reserved": {"$not": {"$gt": START - TTL}}}
MOMENT = timedelta(milliseconds=1)


async def drain(
    documents: Documents, callers: int, reserve: Callable[[], Awaitable[list[str]]]
) -> list[list[str]]:
    """Let callers reserve at once, each until it gets nothing; return every reply that had a code."""
    replies = []

    async def caller() -> None:
        while codes := await reserve():
            replies.append(codes)
        # Nobody goes away with nothing while there is something.
        assert documents.count_documents(AVAILABLE) == 0

    await asyncio.gather(*(caller() for _ in range(callers)))
    return replies


def each_once(replies: list[list[str]], codes: list[str]) -> None:
    lent = Counter(code for reply in replies for code in reply)
    assert [code for code, times in lent.items() if times > 1] == []
    assert sorted(lent) == sorted(codes)


async def test_what_a_reservation_says_is_what_is_stored(rig: Rig, documents: Documents) -> None:
    saved = START - timedelta(days=3, milliseconds=1)
    documents.insert_many([document(code, saved=saved) for code in numbered(5)])
    reservation = await rig.inventory.reserve(CAMPAIGN, CodeType.TM, 3)
    assert str(uuid.UUID(reservation.reserve_id, version=4)) == reservation.reserve_id
    assert len(reservation.codes) == 3
    held = stored(documents, reserveId=reservation.reserve_id)
    assert set(held) == {one.code for one in reservation.codes}
    for one in reservation.codes:
        assert (one.type, one.reserve_id, one.saved, one.reserved) == (
            CodeType.TM,
            reservation.reserve_id,
            saved,
            START,
        )
        expected = document(one.code, saved=saved, reserved=START, reserve_id=reservation.reserve_id)
        assert held[one.code] == expected
    assert await rig.inventory.count(CAMPAIGN, CodeType.TM) == Counts(available=2, reserved=3, assigned=0)


async def test_each_reservation_has_an_id_of_its_own(rig: Rig, documents: Documents) -> None:
    documents.insert_many([document(code) for code in numbered(4)])
    first, second, third = [await rig.inventory.reserve(CAMPAIGN, CodeType.TM, 2) for _ in range(3)]
    assert len({first.reserve_id, second.reserve_id, third.reserve_id}) == 3
    assert third.codes == ()


async def test_all_that_are_left_if_they_are_fewer(rig: Rig, documents: Documents) -> None:
    codes = numbered(7)
    documents.insert_many([document(code) for code in codes])
    assert sorted(await rig.reserve(10)) == codes
    assert await rig.reserve(10) == []


async def test_nothing_where_there_never_was_anything(rig: Rig, documents: Documents) -> None:
    documents.drop()
    assert await rig.reserve(1) == []


async def test_stock_that_came_after_it_was_found_empty(rig: Rig) -> None:
    assert await rig.reserve(5) == []
    codes = numbered(5)
    await rig.upload(codes)
    assert sorted(await rig.reserve(5)) == codes


async def test_ten_thousand_at_once(rig: Rig, documents: Documents) -> None:
    codes = numbered(10_500)
    documents.insert_many([document(code) for code in codes])
    first = await rig.reserve(10_000)
    assert len(first) == 10_000
    each_once([first, await rig.reserve(10_000)], codes)


async def test_32_callers_drain_10_000_codes_in_tens(rig: Rig, documents: Documents) -> None:
    codes = numbered(10_000)
    documents.insert_many([document(code) for code in codes])
    replies = await drain(documents, 32, lambda: rig.reserve(10))
    assert {len(reply) for reply in replies} == {10}
    each_once(replies, codes)


@pytest.mark.parametrize("expired", [False, True])
async def test_two_processes_drain_together_and_one_gets_the_rest(
    rigs: Rigs, documents: Documents, *, expired: bool
) -> None:
    codes = numbered(1_000)
    reserved = START - TTL if expired else None
    documents.insert_many([document(code, reserved=reserved) for code in codes])
    one, other = await rigs(mongo_driver="motor"), await rigs(mongo_driver="pymongo")
    first, second = await asyncio.gather(
        drain(documents, 8, lambda: one.reserve(7)), drain(documents, 8, lambda: other.reserve(7))
    )
    assert Counter(len(reply) for reply in first + second) == {7: 142, 6: 1}
    each_once(first + second, codes)


async def test_expired_holds_are_lent_once(rig: Rig, documents: Documents) -> None:
    expired, live, free = numbered(300), numbered(50, start=1_000), numbered(100, start=2_000)
    documents.insert_many(
        [document(code, reserved=START - TTL - timedelta(days=400), reserve_id="old") for code in expired]
        + [document(code, reserved=START - TTL + MOMENT, reserve_id="live") for code in live]
        + [document(code) for code in free]
    )
    assert await rig.inventory.count(CAMPAIGN, CodeType.TM) == Counts(400, 50, 0)
    replies = await drain(documents, 16, lambda: rig.reserve(10))
    assert {len(reply) for reply in replies} == {10}
    each_once(replies, expired + free)
    assert sorted(stored(documents, reserveId="live")) == live


async def test_a_hold_lives_until_its_time_is_up_and_not_a_moment_longer(rig: Rig) -> None:
    await rig.upload(["A"])
    assert await rig.reserve(1) == ["A"]
    rig.clock.now = START + TTL - MOMENT
    assert await rig.reserve(1) == []
    assert await rig.inventory.count(CAMPAIGN, CodeType.TM) == Counts(0, 1, 0)
    rig.clock.now = START + TTL
    assert await rig.inventory.count(CAMPAIGN, CodeType.TM) == Counts(1, 0, 0)
    assert await rig.reserve(1) == ["A"]
    assert await rig.reserve(1) == []
    rig.clock.now = START + 2 * TTL - MOMENT
    assert await rig.reserve(1) == []


async def test_a_hold_by_a_clock_that_is_ahead_is_live(rig: Rig, documents: Documents) -> None:
    documents.insert_one(document("A", reserved=START + timedelta(minutes=5), reserve_id="ahead"))
    assert await rig.reserve(1) == []


async def test_an_assigned_code_is_never_lent(rig: Rig, documents: Documents) -> None:
    documents.insert_many(
        [
            document("A", assigned=START),
            document("B", assigned=START - 9 * TTL, reserved=START - 9 * TTL, reserve_id="old"),
            document("C"),
        ]
    )
    assert await rig.reserve(3) == ["C"]


async def test_types_and_campaigns_are_kept_apart(rig: Rig, documents: Documents) -> None:
    # Campaigns that begin alike, in an index of which the campaign is the first field.
    campaigns = ["1", "12", "1.", "1-", "1~", "A", "a", "1" * 128]
    documents.insert_many(
        [
            document(f"{code_type}-{number}", campaign_id=campaign_id, code_type=code_type)
            for campaign_id in campaigns
            for code_type in ("tm", "external")
            for number in range(2)
        ]
    )
    for campaign_id in campaigns:
        for code_type in CodeType:
            codes = await rig.reserve(100, campaign_id=campaign_id, code_type=code_type)
            assert sorted(codes) == [f"{code_type}-0", f"{code_type}-1"]
    assert documents.count_documents({"date.reserved": START}) == 4 * len(campaigns)


async def test_codes_of_any_text(rig: Rig, documents: Documents) -> None:
    # U+FFFF sorts after U+10000 in UTF-16, before it in UTF-8.
    codes = [
        "'",
        '"',
        "\\",
        " ",
        "~",
        "é",
        "e\u0301",
        "\ud7ff",
        "\ue000",
        "\uffff",
        "\U00010000",
        "\U0010ffff",
        "😀",
    ]
    codes += [
        "A",
        "AA",
        "A ",
        "A\uffff",
        "A\U0010ffff",
        "x" * 256,
        "\U0010ffff" * 64,
        "$",
        "$ne",
        ".",
        "null",
    ]
    documents.insert_many([document(code) for code in codes])
    replies = await drain(documents, 4, lambda: rig.reserve(3))
    each_once(replies, codes)


async def test_reserving_while_an_upload_runs(rig: Rig, documents: Documents) -> None:
    codes = numbered(3_000)
    lent: list[list[str]] = []

    async def take() -> None:
        while documents.count_documents({}) < len(codes):
            lent.append(await rig.reserve(5))

    await asyncio.gather(rig.upload(codes, batch_size=50, write_concurrency=4), take(), take())
    lent += await drain(documents, 4, lambda: rig.reserve(100))
    each_once(lent, codes)


async def test_reserving_while_others_assign(rig: Rig, documents: Documents) -> None:
    codes = numbered(400)
    documents.insert_many([document(code) for code in codes])
    shuffled = random.Random(3).sample(codes, 200)

    async def assign() -> None:
        for start in range(0, len(shuffled), 20):
            await rig.inventory.assign(CAMPAIGN, shuffled[start : start + 20])

    replies, _ = await asyncio.gather(drain(documents, 8, lambda: rig.reserve(9)), assign())
    lent = [code for reply in replies for code in reply]
    assert len(lent) == len(set(lent))
    after = stored(documents)
    # Whoever was lent a code finds it held, or assigned after that; nobody was lent what was assigned already.
    assert set(lent) == {code for code, one in after.items() if "reserveId" in one}
    assert {code for code, one in after.items() if "assigned" in one["date"]} == set(shuffled)
    assert set(lent) | set(shuffled) == set(codes)


PRINTABLE = st.characters(min_codepoint=0x20, codec="utf-8")
TEXT = st.text(PRINTABLE, max_size=12)


@given(TEXT, TEXT)
def test_a_random_point_is_text_that_mongodb_takes(one: str, other: str) -> None:
    first, last = sorted((one, other))
    point = random_between(first, last)
    point.encode("utf-8")
    assert "\0" not in point


@given(TEXT, st.text(PRINTABLE, min_size=1, max_size=8))
def test_a_random_point_shares_what_all_codes_share(prefix: str, rest: str) -> None:
    assert random_between(prefix + "!", prefix + rest).startswith(prefix)


def test_random_points_spread_over_the_range() -> None:
    points = {random_between("CODE-0000", "CODE-9999")[len("CODE-")] for _ in range(500)}
    assert points == set("0123456789")

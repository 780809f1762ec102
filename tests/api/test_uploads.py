"""Uploads: what they reply, what they leave behind, and what they never touch."""

import random
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest

from .harness import (
    CODE_MARK,
    Document,
    Reply,
    assert_counts,
    assert_problem,
    csv_of,
    in_parallel,
    make_codes,
    new_campaign,
)
from .world import World


@pytest.fixture(params=["world", "tiny"])
def either(request: pytest.FixtureRequest) -> World:
    """The service as it comes, and one that reads parts of 100 bytes and writes batches of 3 codes."""
    found: World = request.getfixturevalue(request.param)
    return found


def test_first_upload(either: World, campaign: str) -> None:
    codes = make_codes(100)
    reply = either.upload(campaign, csv_of(codes))
    assert_counts(reply, 100, 100, 0)
    assert either.service.count(campaign) == {"available": 100, "reserved": 0, "assigned": 0}
    assert either.stored(campaign) == set(codes)


def test_the_same_file_again(either: World, campaign: str) -> None:
    codes = make_codes(50)
    key = either.put(campaign, csv_of(codes))
    assert_counts(either.service.upload(key), 50, 50, 0)
    before = either.documents(campaign)
    assert_counts(either.service.upload(key), 50, 0, 50)
    assert_counts(either.service.upload(key), 50, 0, 50)
    assert either.documents(campaign) == before


def test_a_mix_of_old_and_new(either: World, campaign: str) -> None:
    codes = make_codes(60)
    either.stock(campaign, codes[:40])
    mixed = codes[20:]
    random.Random(7).shuffle(mixed)
    assert_counts(either.upload(campaign, csv_of(mixed)), 40, 20, 20)
    assert either.stored(campaign) == set(codes)


def test_duplicates_inside_a_file(either: World, campaign: str) -> None:
    codes = make_codes(10)
    content = codes * 5
    random.Random(5).shuffle(content)
    assert_counts(either.upload(campaign, csv_of(content)), 50, 10, 40)
    assert_counts(either.upload(campaign, csv_of([codes[0]] * 30)), 30, 0, 30)
    assert either.stored(campaign) == set(codes)


def test_a_code_side_by_side_with_itself(either: World, campaign: str) -> None:
    assert_counts(either.upload(campaign, csv_of([f"{CODE_MARK}same"] * 20)), 20, 1, 19)


def test_the_same_code_in_two_campaigns(world: World) -> None:
    first, second = new_campaign(), new_campaign()
    codes = make_codes(3)
    world.stock(first, codes)
    world.stock(second, codes)
    assert world.service.change(first, "assign", codes) == {"in": 3, "updated": 3}
    assert world.service.count(second) == {"available": 3, "reserved": 0, "assigned": 0}


def test_campaigns_that_are_prefixes_of_each_other(world: World) -> None:
    short = new_campaign()
    for campaign in (short, f"{short}1", f"{short}.", f"{short}~"):
        world.stock(campaign, make_codes(2))
    assert world.service.count(short) == {"available": 2, "reserved": 0, "assigned": 0}


def test_type_becomes_the_files(either: World, campaign: str) -> None:
    codes = make_codes(8)
    either.stock(campaign, codes)
    before = either.documents(campaign)
    assert_counts(either.upload(campaign, csv_of(codes[:5]), code_type="external"), 5, 0, 5)
    after = either.documents(campaign)
    for code in codes:
        kind = "external" if code in codes[:5] else "tm"
        assert after[code] == before[code] | {"type": kind}
    assert either.service.count(campaign, "tm")["available"] == 3
    assert either.service.count(campaign, "external")["available"] == 5
    assert either.service.reserve(campaign, 5, "tm")["count"] == 3
    lent = either.service.reserve(campaign, 5, "external")
    assert {item["code"] for item in lent["codes"]} == set(codes[:5])
    assert {item["type"] for item in lent["codes"]} == {"external"}


def test_an_update_never_touches_the_life_cycle(world: World, campaign: str) -> None:
    codes = make_codes(9)
    world.stock(campaign, codes)
    reserved = [item["code"] for item in world.service.reserve(campaign, 3)["codes"]]
    assigned = [code for code in codes if code not in reserved][:3]
    assert world.service.change(campaign, "assign", [*assigned, reserved[0]]) == {"in": 4, "updated": 4}
    before = world.documents(campaign)
    assert_counts(world.upload(campaign, csv_of(codes)), 9, 0, 9)
    assert world.documents(campaign) == before
    assert_counts(world.upload(campaign, csv_of(codes), code_type="external"), 9, 0, 9)
    assert world.documents(campaign) == {
        code: document | {"type": "external"} for code, document in before.items()
    }
    assert world.service.count(campaign, "external") == {"available": 3, "reserved": 2, "assigned": 4}
    assert world.service.count(campaign, "tm") == {"available": 0, "reserved": 0, "assigned": 0}


def test_reserved_codes_keep_their_hold_when_their_type_changes(world: World, campaign: str) -> None:
    codes = make_codes(4)
    world.stock(campaign, codes)
    held = [item["code"] for item in world.service.reserve(campaign, 2)["codes"]]
    assert_counts(world.upload(campaign, csv_of(codes), code_type="external"), 4, 0, 4)
    lent = {item["code"] for item in world.service.reserve(campaign, 10, "external")["codes"]}
    assert lent == set(codes) - set(held)


@pytest.mark.parametrize("code_type", ["tm", "external"])
def test_both_types(world: World, campaign: str, code_type: str) -> None:
    codes = make_codes(2)
    world.stock(campaign, codes, code_type=code_type)
    assert {document["type"] for document in world.documents(campaign).values()} == {code_type}


def test_dates_saved_have_milliseconds_of_now(world: World, campaign: str) -> None:
    before = datetime.now(UTC) - timedelta(milliseconds=5)
    world.stock(campaign, make_codes(3))
    after = datetime.now(UTC) + timedelta(milliseconds=5)
    for document in world.documents(campaign).values():
        assert before <= document["date"]["saved"] <= after


def test_more_codes_than_one_batch_holds(world: World, campaign: str) -> None:
    """CODESVC_BATCH_SIZE is 50,000 by default; one duplicate lies in another batch than its first."""
    codes = make_codes(70_000)
    content = [*codes, codes[0], codes[40_000], codes[-1]]
    assert_counts(world.upload(campaign, csv_of(content)), 70_003, 70_000, 3)
    assert world.service.count(campaign)["available"] == 70_000
    assert_counts(world.upload(campaign, csv_of(codes[::2])), 35_000, 0, 35_000)


def test_long_codes_end_a_batch_before_the_servers_limits(world: World, campaign: str) -> None:
    """50,000 codes of 256 bytes and their envelope are more than 16 MB."""
    codes = [code.ljust(256, "x") for code in make_codes(60_000)]
    assert_counts(world.upload(campaign, csv_of(codes)), 60_000, 60_000, 0)
    assert_counts(world.upload(campaign, csv_of(codes)), 60_000, 0, 60_000)
    assert world.service.count(campaign)["available"] == 60_000


def test_longest_campaign_and_longest_codes(world: World) -> None:
    campaign = new_campaign().ljust(128, "~")
    codes = [code.ljust(256, "x") for code in make_codes(1000)]
    world.stock(campaign, codes)
    assert world.stored(campaign) == set(codes)


@pytest.mark.parametrize("overlap", [0, 50, 100])
def test_two_uploads_of_overlapping_files_at_once(world: World, campaign: str, overlap: int) -> None:
    codes = make_codes(20_000)
    half = 10_000
    first = codes[:half]
    second = codes[half - half * overlap // 100 : 2 * half - half * overlap // 100]
    random.Random(overlap).shuffle(second)
    keys = [world.put(campaign, csv_of(each)) for each in (first, second)]
    replies: list[Reply] = in_parallel([partial(world.service.upload, key) for key in keys])
    counts: list[Document] = [reply.json()["count"] for reply in replies]
    distinct = len(set(first) | set(second))
    for count in counts:
        assert count["in"] == half
        assert count["inserted"] + count["updated"] == half
    assert sum(count["inserted"] for count in counts) == distinct
    assert world.stored(campaign) == set(first) | set(second)


def test_many_uploads_of_the_same_small_file_at_once(tiny: World, campaign: str) -> None:
    """Batches of 3 codes, so that the uploads meet in every batch."""
    codes = make_codes(60)
    replies = in_parallel(
        [lambda: tiny.upload(campaign, csv_of([*codes, *codes[:10]])) for _ in range(8)], workers=8
    )
    counts = [reply.json()["count"] for reply in replies]
    assert sum(count["inserted"] for count in counts) == 60
    assert all(count["in"] == 70 == count["inserted"] + count["updated"] for count in counts)
    assert tiny.stored(campaign) == set(codes)


def test_uploads_and_reservations_at_once(world: World, campaign: str) -> None:
    """A code that is lent while an upload updates it stays lent."""
    codes = make_codes(5000)
    world.stock(campaign, codes)
    key = world.put(campaign, csv_of(codes))
    uploads = [lambda: world.service.upload(key) for _ in range(3)]
    reserves = [lambda: world.service.reserve(campaign, 10) for _ in range(60)]
    results = in_parallel([*uploads, *reserves], workers=12)
    for reply in results[:3]:
        assert_counts(reply, 5000, 0, 5000)
    lent = [item["code"] for found in results[3:] for item in found["codes"]]
    assert len(lent) == len(set(lent)) == 600
    assert world.service.count(campaign) == {"available": 4400, "reserved": 600, "assigned": 0}


def test_documents_of_the_contracts_shape_are_taken_over(world: World, campaign: str) -> None:
    """What another program wrote by the contract is updated, not inserted twice."""
    codes = make_codes(3)
    saved = datetime(2020, 1, 2, 3, 4, 5, 678000, UTC)
    world.insert(
        {"_id": {"campaign_id": campaign, "code": code}, "type": "tm", "date": {"saved": saved}}
        for code in codes
    )
    assert_counts(world.upload(campaign, csv_of(codes)), 3, 0, 3)
    assert {document["date"]["saved"] for document in world.documents(campaign).values()} == {saved}


def test_a_file_of_nothing(either: World, campaign: str) -> None:
    assert_counts(either.upload(campaign, b""), 0, 0, 0)
    assert_counts(either.upload(campaign, b"\n\n"), 0, 0, 0)


def test_a_file_that_is_not_text_at_all(world: World, campaign: str) -> None:
    content = random.Random(3).randbytes(20_000)
    reply = world.upload(campaign, content)
    if reply.status == 200:
        count = reply.json()["count"]
        assert count["in"] == count["inserted"] + count["updated"]
        assert len(world.stored(campaign)) == count["inserted"]
    else:
        assert_problem(reply, 422, "notCsv")

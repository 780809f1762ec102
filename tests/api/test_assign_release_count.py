"""Assign, release and count."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from .harness import Service, assert_problem, in_parallel, make_codes, new_campaign
from .world import World

COUNTS = {"available", "reserved", "assigned"}


def test_assign_available_codes(world: World, campaign: str) -> None:
    codes = make_codes(5)
    world.stock(campaign, codes)
    saved = {code: document["date"]["saved"] for code, document in world.documents(campaign).items()}
    before = datetime.now(UTC) - timedelta(milliseconds=2)
    assert world.service.change(campaign, "assign", codes[:3]) == {"in": 3, "updated": 3}
    after = datetime.now(UTC) + timedelta(milliseconds=2)
    documents = world.documents(campaign)
    for code in codes[:3]:
        assigned = documents[code]["date"]["assigned"]
        assert before <= assigned <= after
        assert documents[code] == {
            "_id": {"campaign_id": campaign, "code": code},
            "type": "tm",
            "date": {"saved": saved[code], "assigned": assigned},
        }
    for code in codes[3:]:
        assert set(documents[code]["date"]) == {"saved"}
    assert world.service.count(campaign) == {"available": 2, "reserved": 0, "assigned": 3}


def test_assign_reserved_codes(world: World, campaign: str) -> None:
    world.stock(campaign, make_codes(5))
    lent = [item["code"] for item in world.service.reserve(campaign, 3)["codes"]]
    assert world.service.change(campaign, "assign", lent) == {"in": 3, "updated": 3}
    assert world.service.count(campaign) == {"available": 2, "reserved": 0, "assigned": 3}
    assert all("assigned" in world.documents(campaign)[code]["date"] for code in lent)


def test_an_assigned_code_keeps_its_first_date_and_is_not_counted_again(world: World, campaign: str) -> None:
    codes = make_codes(3)
    world.stock(campaign, codes)
    assert world.service.change(campaign, "assign", codes[:2]) == {"in": 2, "updated": 2}
    before = world.documents(campaign)
    assert world.service.change(campaign, "assign", codes[:2]) == {"in": 2, "updated": 0}
    assert world.documents(campaign) == before
    assert world.service.change(campaign, "assign", codes) == {"in": 3, "updated": 1}
    after = world.documents(campaign)
    assert [after[code] for code in codes[:2]] == [before[code] for code in codes[:2]]


def test_assign_and_unknown_codes(world: World, campaign: str) -> None:
    codes = make_codes(2)
    world.stock(campaign, codes)
    assert world.service.change(campaign, "assign", [*codes, *make_codes(3)]) == {"in": 5, "updated": 2}
    assert world.stored(campaign) == set(codes), "no code may be made by assigning it"
    assert world.service.change(new_campaign(), "assign", codes) == {"in": 2, "updated": 0}


def test_assign_takes_both_types(world: World, campaign: str) -> None:
    tm, external = make_codes(2), make_codes(2)
    world.stock(campaign, tm)
    world.stock(campaign, external, code_type="external")
    assert world.service.change(campaign, "assign", tm + external) == {"in": 4, "updated": 4}
    assert world.service.count(campaign, "external")["assigned"] == 2


@pytest.mark.parametrize("action", ["assign", "release"])
def test_in_is_the_length_of_the_list_as_it_was_sent(world: World, campaign: str, action: str) -> None:
    codes = make_codes(2)
    world.stock(campaign, codes)
    world.service.reserve(campaign, 2)
    sent = [codes[0], codes[1], codes[0], codes[0], "unknown", "unknown"]
    assert world.service.change(campaign, action, sent) == {"in": 6, "updated": 2}


def test_release_reserved_codes(world: World, campaign: str) -> None:
    codes = make_codes(4)
    world.stock(campaign, codes)
    before = world.documents(campaign)
    lent = [item["code"] for item in world.service.reserve(campaign, 3)["codes"]]
    assert world.service.change(campaign, "release", lent[:2]) == {"in": 2, "updated": 2}
    assert world.service.count(campaign) == {"available": 3, "reserved": 1, "assigned": 0}
    documents = world.documents(campaign)
    for code in lent[:2]:
        assert documents[code] == before[code], "neither date.reserved nor reserveId may stay"
    assert world.service.change(campaign, "release", lent) == {"in": 3, "updated": 1}
    assert world.documents(campaign) == before
    assert world.service.reserve(campaign, 9)["count"] == 4


def test_release_leaves_other_codes_alone(world: World, campaign: str) -> None:
    available, assigned, lent_and_assigned = make_codes(1), make_codes(1), make_codes(1)
    world.stock(campaign, lent_and_assigned)
    world.service.reserve(campaign, 1)
    world.stock(campaign, available + assigned)
    world.service.change(campaign, "assign", assigned + lent_and_assigned)
    before = world.documents(campaign)
    sent = [*available, *assigned, *lent_and_assigned, "unknown"]
    assert world.service.change(campaign, "release", sent) == {"in": 4, "updated": 0}
    assert world.documents(campaign) == before
    assert world.service.count(campaign) == {"available": 1, "reserved": 0, "assigned": 2}


def test_a_released_code_can_be_assigned(world: World, campaign: str) -> None:
    codes = make_codes(1)
    world.stock(campaign, codes)
    world.service.reserve(campaign, 1)
    assert world.service.change(campaign, "release", codes) == {"in": 1, "updated": 1}
    assert world.service.change(campaign, "assign", codes) == {"in": 1, "updated": 1}


def test_racing_assignments_count_each_code_once(world: World, campaign: str) -> None:
    codes = make_codes(300)
    world.stock(campaign, codes)
    counts = in_parallel([lambda: world.service.change(campaign, "assign", codes) for _ in range(8)])
    assert sum(count["updated"] for count in counts) == 300


def test_racing_releases_count_each_code_once(world: World, campaign: str) -> None:
    codes = make_codes(300)
    world.stock(campaign, codes)
    world.service.reserve(campaign, 300)
    counts = in_parallel([lambda: world.service.change(campaign, "release", codes) for _ in range(8)])
    assert sum(count["updated"] for count in counts) == 300


def test_release_against_assign(world: World, campaign: str) -> None:
    """Whoever wins, the code is assigned at the end: release never takes an assignment back."""
    codes = make_codes(200)
    world.stock(campaign, codes)
    world.service.reserve(campaign, 200)
    calls = [
        lambda: world.service.change(campaign, "release", codes),
        lambda: world.service.change(campaign, "assign", codes),
    ]
    _, assigned = in_parallel(calls)
    assert assigned == {"in": 200, "updated": 200}
    assert world.service.count(campaign) == {"available": 0, "reserved": 0, "assigned": 200}


@pytest.mark.parametrize("action", ["assign", "release"])
def test_an_empty_list(service: Service, campaign: str, action: str) -> None:
    assert_problem(service.post(f"/v1/{campaign}/{action}", {"codes": []}), 400, "emptyCodes")


@pytest.mark.parametrize("action", ["assign", "release"])
@pytest.mark.parametrize("body", [{}, {"codes": None}, {"code": ["x"]}])
def test_no_list(service: Service, campaign: str, action: str, body: Any) -> None:
    """The contract does not say which of the two an absent list is."""
    reply = service.post(f"/v1/{campaign}/{action}", body)
    assert_problem(reply, 400, {"emptyCodes", "invalidCodes"})


@pytest.mark.parametrize("action", ["assign", "release"])
@pytest.mark.parametrize(
    "codes",
    ["ABC", 5, True, {"0": "A"}, [1], ["A", None], ["A", ["B"]], [{"code": "A"}], [True], ["A", 1.5]],
)
def test_lists_that_are_not_of_strings(world: World, campaign: str, action: str, codes: Any) -> None:
    world.stock(campaign, ["A"])
    reply = world.service.post(f"/v1/{campaign}/{action}", {"codes": codes})
    assert_problem(reply, 400, "invalidCodes")
    assert world.service.count(campaign)["available"] == 1


@pytest.mark.parametrize("action", ["assign", "release"])
def test_too_many(service: Service, campaign: str, action: str) -> None:
    codes = ["x"] * 100_001
    assert_problem(service.post(f"/v1/{campaign}/{action}", {"codes": codes}), 400, "invalidCodes")
    assert service.change(campaign, action, codes[1:]) == {"in": 100_000, "updated": 0}


def test_as_many_as_may_be_and_as_long(world: World, campaign: str) -> None:
    """Together they are more than the 16 MB of one MongoDB document."""
    stocked = [code.ljust(256, "x") for code in make_codes(500)]
    world.stock(campaign, stocked)
    codes = [f"{index:0256d}" for index in range(99_500)] + stocked
    assert world.service.change(campaign, "assign", codes) == {"in": 100_000, "updated": 500}
    assert world.service.change(campaign, "assign", codes) == {"in": 100_000, "updated": 0}


@pytest.mark.parametrize("action", ["assign", "release"])
@pytest.mark.parametrize(
    "code", ["", " ", "\x00", "a\x00b", "\n", "\ud800", "x" * 257, "x" * 1_000_000, "$ne", "\uffff"]
)
def test_strings_that_are_no_codes(world: World, campaign: str, action: str, code: str) -> None:
    """They are strings, and nobody has them: unknown codes, or refused, but no internal error."""
    known = make_codes(1)
    world.stock(campaign, known)
    world.service.reserve(campaign, 1)
    reply = world.service.post(f"/v1/{campaign}/{action}", {"codes": [code, *known]})
    if reply.status == 200:
        assert reply.json() == {"count": {"in": 2, "updated": 1}}
    else:
        assert_problem(reply, 400, {"invalidCodes", "invalidJson"})
        assert world.service.count(campaign)["reserved"] == 1


# Count


def test_counts_of_a_campaign_that_nobody_knows(service: Service, campaign: str) -> None:
    assert service.count(campaign) == {"available": 0, "reserved": 0, "assigned": 0}


def test_counts(world: World, campaign: str) -> None:
    codes = make_codes(20)
    world.stock(campaign, codes)
    world.stock(campaign, make_codes(3), code_type="external")
    lent = [item["code"] for item in world.service.reserve(campaign, 9)["codes"]]
    world.service.change(campaign, "assign", [*lent[:2], *[code for code in codes if code not in lent][:4]])
    expected = {"available": 7, "reserved": 7, "assigned": 6}
    reply = world.service.get(f"/v1/{campaign}/codes/count?type=tm")
    assert reply.json() == expected
    for status, number in expected.items():
        reply = world.service.get(f"/v1/{campaign}/codes/count?type=tm&status={status}")
        assert reply.status == 200
        assert reply.json() == {status: number}
    assert world.service.count(campaign, "external") == {"available": 3, "reserved": 0, "assigned": 0}


@pytest.mark.parametrize(
    "query", ["", "?", "?type=", "?type=TM", "?type=x", "?status=available", "?types=tm"]
)
def test_types_that_are_none(service: Service, campaign: str, query: str) -> None:
    assert_problem(service.get(f"/v1/{campaign}/codes/count{query}"), 400, "invalidType")


@pytest.mark.parametrize(
    "status", ["", "AVAILABLE", "Available", "free", "available,reserved", "available%20"]
)
def test_statuses_that_are_none(service: Service, campaign: str, status: str) -> None:
    reply = service.get(f"/v1/{campaign}/codes/count?type=tm&status={status}")
    assert_problem(reply, 400, "invalidStatus")


@pytest.mark.parametrize("status", [None, "available", "reserved", "assigned"])
def test_counting_examines_no_document(world: World, campaign: str, status: str | None) -> None:
    codes = make_codes(60)
    world.stock(campaign, codes)
    lent = [item["code"] for item in world.service.reserve(campaign, 25)["codes"]]
    world.service.change(campaign, "assign", lent[:10] + [code for code in codes if code not in lent][:5])
    world.service.change(campaign, "release", lent[10:12])
    query = "" if status is None else f"&status={status}"
    expected = {"available": 32, "reserved": 13, "assigned": 15}
    world.database["system.profile"].drop()
    world.database.command("profile", 2)
    try:
        reply = world.service.get(f"/v1/{campaign}/codes/count?type=tm{query}")
    finally:
        world.database.command("profile", 0)
    assert reply.json() == (expected if status is None else {status: expected[status]})
    seen = list(world.database["system.profile"].find({"ns": f"{world.database.name}.codes"}))
    assert seen, "the server saw no command at all"
    for entry in seen:
        assert entry.get("docsExamined", 0) == 0, entry
        assert "COLLSCAN" not in entry.get("planSummary", ""), entry
    assert sum(entry.get("keysExamined", 0) for entry in seen) < 400
    assert set(reply.json()) <= COUNTS

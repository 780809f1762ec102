"""Reservations: their shape, their number, their end."""

import re
import time
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from .harness import (
    RFC3339_MILLISECONDS,
    Document,
    Service,
    assert_counts,
    assert_problem,
    eventually,
    in_parallel,
    make_codes,
)
from .world import World


def moment(text: str) -> datetime:
    assert RFC3339_MILLISECONDS.fullmatch(text), text
    return datetime.fromisoformat(text)


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_reservation(world: World, campaign: str, method: str) -> None:
    codes = make_codes(20)
    world.stock(campaign, codes)
    before = datetime.now(UTC) - timedelta(milliseconds=2)
    reply = world.service.request(method, f"/v1/{campaign}/reserve?count=10&type=tm")
    after = datetime.now(UTC) + timedelta(milliseconds=2)
    assert reply.status == 200
    assert reply.media_type == "application/json"
    found = reply.json()
    assert set(found) == {"reserveId", "codes", "count", "expiresAt"}
    assert found["count"] == len(found["codes"]) == 10
    reserve_id = uuid.UUID(found["reserveId"])
    assert reserve_id.version == 4
    assert str(reserve_id) == found["reserveId"]
    documents = world.documents(campaign)
    for item in found["codes"]:
        assert set(item) == {"code", "type", "reserveId", "date"}
        assert set(item["date"]) == {"saved", "reserved"}
        assert item["type"] == "tm"
        assert item["reserveId"] == found["reserveId"]
        assert before <= moment(item["date"]["reserved"]) <= after
        assert documents[item["code"]] == {
            "_id": {"campaign_id": campaign, "code": item["code"]},
            "type": "tm",
            "reserveId": found["reserveId"],
            "date": {
                "saved": moment(item["date"]["saved"]),
                "reserved": moment(item["date"]["reserved"]),
            },
        }
    lent = {item["code"] for item in found["codes"]}
    assert len(lent) == 10
    assert lent < set(codes)
    for code in set(codes) - lent:
        assert set(documents[code]) == {"_id", "type", "date"}
        assert set(documents[code]["date"]) == {"saved"}
    assert world.service.count(campaign) == {"available": 10, "reserved": 10, "assigned": 0}


def test_post_takes_the_same_parameters_in_a_body(world: World, campaign: str) -> None:
    """So says the OpenAPI document; the contract says only that they are the same."""
    world.stock(campaign, make_codes(4))
    target = f"/v1/{campaign}/reserve"
    assert world.service.post(target, {"count": 2, "type": "tm"}).json()["count"] == 2
    # An integer, to JSON Schema: https://json-schema.org/understanding-json-schema/reference/numeric
    assert world.service.post(target, {"count": 1.0, "type": "tm"}).json()["count"] == 1
    for body, code in (
        ({"count": 0, "type": "tm"}, "invalidCount"),
        ({"count": "1", "type": "tm"}, "invalidCount"),
        ({"count": True, "type": "tm"}, "invalidCount"),
        ({"count": 1.5, "type": "tm"}, "invalidCount"),
        ({"count": 1, "type": "x"}, "invalidType"),
        ({"count": 1, "type": ["tm"]}, "invalidType"),
    ):
        assert_problem(world.service.post(target, body), 400, code)
    assert world.service.count(campaign) == {"available": 1, "reserved": 3, "assigned": 0}


@pytest.mark.parametrize("body", [b"", None])
@pytest.mark.parametrize("media_type", [None, "application/json", "application/x-www-form-urlencoded"])
def test_post_without_a_body(world: World, campaign: str, body: bytes | None, media_type: str | None) -> None:
    """Clients differ in what they say of a body that is not there."""
    world.stock(campaign, make_codes(1))
    headers = {} if media_type is None else {"Content-Type": media_type}
    target = f"/v1/{campaign}/reserve?count=1&type=tm"
    reply = world.service.post(target, body=body, headers=headers)
    assert reply.status == 200, reply
    assert reply.json()["count"] == 1


def test_every_reservation_has_an_id_of_its_own(world: World, campaign: str) -> None:
    world.stock(campaign, make_codes(10))
    found = [world.service.reserve(campaign, 2) for _ in range(5)]
    assert len({each["reserveId"] for each in found}) == 5
    assert len({item["code"] for each in found for item in each["codes"]}) == 10


def test_all_that_are_left(world: World, campaign: str) -> None:
    codes = make_codes(7)
    world.stock(campaign, codes)
    assert world.service.reserve(campaign, 5)["count"] == 5
    assert world.service.reserve(campaign, 5)["count"] == 2
    empty = world.service.reserve(campaign, 5)
    assert set(empty) == {"reserveId", "codes", "count", "expiresAt"}
    assert empty["codes"] == []
    assert empty["count"] == 0
    assert world.service.count(campaign) == {"available": 0, "reserved": 7, "assigned": 0}


def test_nothing_of_an_unknown_campaign(service: Service, campaign: str) -> None:
    assert service.reserve(campaign, 1)["count"] == 0


def test_only_codes_of_the_type(world: World, campaign: str) -> None:
    tm, external = make_codes(3), make_codes(4)
    world.stock(campaign, tm)
    world.stock(campaign, external, code_type="external")
    found = world.service.reserve(campaign, 10, "external")
    assert {item["code"] for item in found["codes"]} == set(external)
    assert {item["type"] for item in found["codes"]} == {"external"}
    assert world.service.count(campaign, "tm") == {"available": 3, "reserved": 0, "assigned": 0}


def test_ten_thousand_at_once(world: World, campaign: str) -> None:
    world.stock(campaign, make_codes(10_001))
    found = world.service.reserve(campaign, 10_000)
    assert found["count"] == 10_000
    assert len({item["code"] for item in found["codes"]}) == 10_000
    assert world.service.reserve(campaign, 10_000)["count"] == 1


def test_codes_come_back_as_they_are(world: World, campaign: str) -> None:
    codes = [
        'quote"',
        "back\\slash",
        "\u00fcml\u00e4ut",
        "\U0001f600",
        "<&>",
        "\u2028",
        " blanks ",
        "a,b",
        "/",
    ]
    content = "".join('"' + code.replace('"', '""') + '"\n' for code in codes)
    assert_counts(world.upload(campaign, content.encode()), 9, 9, 0)
    found = world.service.reserve(campaign, 20)
    assert {item["code"] for item in found["codes"]} == set(codes)
    assert world.service.change(campaign, "release", codes) == {"in": 9, "updated": 9}
    assert world.service.change(campaign, "assign", codes) == {"in": 9, "updated": 9}


@pytest.mark.parametrize(
    "count",
    [
        "0",
        "-1",
        "10001",
        "1.5",
        "1e1",
        "ten",
        "",
        "%20",
        "0x10",
        "1_0",
        "%EF%BC%91",
        "%D9%A1",
        "1%00",
        "NaN",
        "Infinity",
        "9" * 30,
        "9" * 5000,
        "true",
        "null",
        "1,2",
    ],
)
def test_counts_that_are_none(service: Service, campaign: str, count: str) -> None:
    for method in ("GET", "POST"):
        reply = service.request(method, f"/v1/{campaign}/reserve?count={count}&type=tm")
        assert_problem(reply, 400, "invalidCount")


def test_no_count(service: Service, campaign: str) -> None:
    assert_problem(service.get(f"/v1/{campaign}/reserve?type=tm"), 400, "invalidCount")


@pytest.mark.parametrize(
    "query", ["", "&type=", "&type=TM", "&type=other", "&type=tm%20", "&type=tm,external"]
)
def test_types_that_are_none(service: Service, campaign: str, query: str) -> None:
    for method in ("GET", "POST"):
        reply = service.request(method, f"/v1/{campaign}/reserve?count=1{query}")
        assert_problem(reply, 400, "invalidType")


def test_head_reserves_nothing(world: World, campaign: str) -> None:
    world.stock(campaign, make_codes(3))
    reply = world.service.request("HEAD", f"/v1/{campaign}/reserve?count=2&type=tm")
    assert reply.status == 405
    assert reply.body == b""
    allowed = {name.strip() for name in (reply.header("Allow") or "").split(",")}
    assert {"GET", "POST"} <= allowed
    assert "HEAD" not in allowed
    assert world.service.count(campaign)["reserved"] == 0


def test_a_reply_to_a_reservation_is_not_stored_by_caches(world: World, campaign: str) -> None:
    """GET changes something here, so no cache may answer it."""
    world.stock(campaign, make_codes(2))
    target = f"/v1/{campaign}/reserve?count=1&type=tm"
    first = world.service.get(target)
    etag = first.header("ETag")
    headers = {"If-None-Match": etag or "*", "Cache-Control": "max-age=3600"}
    second = world.service.get(target, headers=headers)
    assert second.status == 200
    assert first.header("Cache-Control") == "no-store"
    assert first.json()["codes"] != second.json()["codes"]


# Holds of 2 s, of the service whose CODESVC_RESERVATION_TTL says so


def test_a_hold_expires_and_its_codes_are_lent_again_once(tiny: World, campaign: str) -> None:
    codes = make_codes(5)
    tiny.stock(campaign, codes)
    first = tiny.service.reserve(campaign, 5)
    assert first["count"] == 5
    assert tiny.service.reserve(campaign, 5)["count"] == 0
    assert tiny.service.count(campaign) == {"available": 0, "reserved": 5, "assigned": 0}
    began = max(moment(item["date"]["reserved"]) for item in first["codes"])
    eventually(lambda: tiny.service.count(campaign)["available"] == 5, limit=10)
    assert datetime.now(UTC) - began >= timedelta(seconds=1.99)
    again = in_parallel([lambda: tiny.service.reserve(campaign, 2) for _ in range(8)], workers=8)
    lent = [item["code"] for found in again for item in found["codes"]]
    assert sorted(lent) == sorted(codes)
    assert all(found["reserveId"] != first["reserveId"] for found in again)
    saved = {item["code"]: item["date"]["saved"] for item in first["codes"]}
    for found in again:
        for item in found["codes"]:
            assert item["date"]["saved"] == saved[item["code"]]
            assert item["reserveId"] == found["reserveId"]
    assert tiny.service.count(campaign) == {"available": 0, "reserved": 5, "assigned": 0}


def test_an_expired_hold_counts_as_available(tiny: World, campaign: str) -> None:
    tiny.stock(campaign, make_codes(3))
    tiny.service.reserve(campaign, 2)
    time.sleep(2.1)
    target = f"/v1/{campaign}/codes/count?type=tm&status="
    assert tiny.service.get(target + "available").json() == {"available": 3}
    assert tiny.service.get(target + "reserved").json() == {"reserved": 0}


def test_assign_takes_a_code_whose_hold_expired(tiny: World, campaign: str) -> None:
    codes = make_codes(2)
    tiny.stock(campaign, codes)
    tiny.service.reserve(campaign, 2)
    time.sleep(2.1)
    assert tiny.service.change(campaign, "assign", codes) == {"in": 2, "updated": 2}
    assert tiny.service.count(campaign) == {"available": 0, "reserved": 0, "assigned": 2}


def test_release_leaves_a_code_whose_hold_expired(tiny: World, campaign: str) -> None:
    """Such a code is available, and release works on reserved codes only."""
    codes = make_codes(2)
    tiny.stock(campaign, codes)
    tiny.service.reserve(campaign, 2)
    time.sleep(2.1)
    assert tiny.service.change(campaign, "release", codes) == {"in": 2, "updated": 0}
    assert tiny.service.count(campaign) == {"available": 2, "reserved": 0, "assigned": 0}
    assert tiny.service.reserve(campaign, 5)["count"] == 2


def held(campaign: str, code: str, *, ago: timedelta, **extra: Any) -> Document:
    now = datetime.now(UTC)
    return {
        "_id": {"campaign_id": campaign, "code": code},
        "type": "tm",
        "reserveId": str(uuid.uuid4()),
        "date": {"saved": now - timedelta(days=9), "reserved": now - ago, **extra},
    }


def test_a_hold_lasts_a_day_by_default(world: World, campaign: str) -> None:
    live, expired = make_codes(4), make_codes(6)
    world.insert(held(campaign, code, ago=timedelta(hours=23, minutes=59)) for code in live)
    world.insert(held(campaign, code, ago=timedelta(hours=24, seconds=1)) for code in expired)
    assert world.service.count(campaign) == {"available": 6, "reserved": 4, "assigned": 0}
    found = world.service.reserve(campaign, 100)
    assert {item["code"] for item in found["codes"]} == set(expired)
    assert world.service.reserve(campaign, 100)["count"] == 0
    assert world.service.count(campaign) == {"available": 0, "reserved": 10, "assigned": 0}


def test_fresh_and_expired_codes_together(world: World, campaign: str) -> None:
    """Exactly the number asked for whenever that many are available, of whichever kind they are."""
    fresh, expired = make_codes(5), make_codes(5)
    world.stock(campaign, fresh)
    world.insert(held(campaign, code, ago=timedelta(days=3)) for code in expired)
    assert world.service.reserve(campaign, 8)["count"] == 8
    assert world.service.reserve(campaign, 8)["count"] == 2
    assert world.service.reserve(campaign, 8)["count"] == 0


def test_assigned_codes_are_never_lent(world: World, campaign: str) -> None:
    codes = make_codes(3)
    now = datetime.now(UTC)
    world.insert(
        held(campaign, code, ago=timedelta(days=3), assigned=now - timedelta(days=2)) for code in codes
    )
    assert world.service.count(campaign) == {"available": 0, "reserved": 0, "assigned": 3}
    assert world.service.reserve(campaign, 3)["count"] == 0
    assert world.service.change(campaign, "release", codes) == {"in": 3, "updated": 0}


def test_the_hold_of_a_code_lent_again_is_the_new_one(tiny: World, campaign: str) -> None:
    codes = make_codes(1)
    tiny.stock(campaign, codes)
    first = tiny.service.reserve(campaign, 1)
    time.sleep(2.05)
    second = tiny.service.reserve(campaign, 1)
    assert second["count"] == 1
    document = tiny.documents(campaign)[codes[0]]
    assert document["reserveId"] == second["reserveId"] != first["reserveId"]
    assert re.match(r"^[0-9a-f-]{36}$", document["reserveId"])
    assert tiny.service.count(campaign) == {"available": 0, "reserved": 1, "assigned": 0}

"""Reservations by their id: what they still hold, shorter holds, a least number, assign and release of all of it."""

import time
import uuid
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import pytest

from .harness import Document, Service, assert_problem, in_parallel, make_codes, new_campaign
from .world import World

# Always the same, since it is part of the name of a test.
NOBODYS = "6f1c2b7e-7d0a-4c1f-9b57-0c8a4a5d9e11"


def held(service: Service, campaign: str, reserve_id: str) -> Document | None:
    reply = service.get(f"/v1/{campaign}/reservations/{reserve_id}")
    if reply.status == 404:
        assert_problem(reply, 404, "notFound")
        return None
    assert reply.status == 200, reply
    assert reply.header("Cache-Control") == "no-store"
    found: Document = reply.json()
    return found


def instant(text: str) -> datetime:
    return datetime.fromisoformat(text)


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_shorter_hold(world: World, second_service: Service, campaign: str, method: str) -> None:
    world.stock(campaign, make_codes(3))
    reply = world.service.request(method, f"/v1/{campaign}/reserve?count=2&type=tm&ttl=900&min=2")
    assert reply.status == 200, reply
    lent = reply.json()
    (began,) = {one["date"]["reserved"] for one in lent["codes"]}
    assert instant(lent["expiresAt"]) - instant(began) == timedelta(seconds=900)
    found = held(second_service, campaign, lent["reserveId"])
    assert found is not None
    by_code = sorted(lent["codes"], key=lambda one: str(one["code"]))
    assert found == lent | {"codes": by_code, "type": "tm"}
    first = lent["codes"][0]
    assert second_service.get(f"/v1/{campaign}/codes/{first['code']}").json() == first | {
        "status": "reserved"
    }


def test_a_hold_as_long_as_others_says_when_it_ends(world: World, campaign: str) -> None:
    world.stock(campaign, make_codes(1))
    lent = world.service.reserve(campaign, 1)
    began = instant(lent["codes"][0]["date"]["reserved"])
    assert instant(lent["expiresAt"]) - began == timedelta(days=1)
    body = {"count": 1, "type": "tm", "ttl": 60}
    assert world.service.post(f"/v1/{campaign}/reserve", body).json()["count"] == 0


def test_a_shorter_hold_ends_by_itself(world: World, campaign: str) -> None:
    world.stock(campaign, make_codes(2))
    target = f"/v1/{campaign}/reserve?type=tm&count=2&min=2"
    lent = world.service.post(f"{target}&ttl=1").json()
    assert_problem(world.service.post(target), 409, "notEnoughCodes")
    assert world.service.count(campaign) == {"available": 0, "reserved": 2, "assigned": 0}
    time.sleep(1.05)
    assert world.service.count(campaign) == {"available": 2, "reserved": 0, "assigned": 0}
    assert held(world.service, campaign, lent["reserveId"]) is None
    for action in ("assign", "release"):
        reply = world.service.post(f"/v1/{campaign}/{action}", {"reserveId": lent["reserveId"]})
        assert reply.json() == {"count": {"in": 0, "updated": 0}}
    assert world.service.post(target).json()["count"] == 2


@pytest.mark.parametrize("action", ["assign", "release"])
def test_all_that_a_reservation_still_holds(
    world: World, second_service: Service, campaign: str, action: str
) -> None:
    world.stock(campaign, make_codes(10))
    lent = world.service.reserve(campaign, 6)
    other = world.service.reserve(campaign, 2)
    reserve_id = lent["reserveId"]
    codes = [one["code"] for one in lent["codes"]]
    world.service.change(campaign, "release", codes[:1])
    world.service.change(campaign, "assign", codes[1:2])
    found = held(second_service, campaign, reserve_id)
    assert found is not None
    assert (found["count"], {one["code"] for one in found["codes"]}) == (4, set(codes[2:]))
    # An id is read in whichever case, and in its own campaign only.
    for campaign_id, sent, count in (
        (new_campaign(), reserve_id, 0),
        (campaign, reserve_id.upper(), 4),
        (campaign, reserve_id, 0),
        (campaign, str(uuid.uuid4()), 0),
    ):
        reply = second_service.post(f"/v1/{campaign_id}/{action}", {"reserveId": sent})
        assert reply.status == 200
        assert reply.json() == {"count": {"in": count, "updated": count}}
    assert held(world.service, campaign, reserve_id) is None
    left = held(world.service, campaign, other["reserveId"])
    assert left is not None
    assert left["count"] == 2
    counts = {"assign": (3, 2, 5), "release": (7, 2, 1)}[action]
    assert tuple(world.service.count(campaign).values()) == counts


def test_codes_whose_type_an_upload_has_changed(world: World, campaign: str) -> None:
    world.stock(campaign, make_codes(5))
    lent = world.service.reserve(campaign, 5)
    codes = [one["code"] for one in lent["codes"]]
    world.upload(campaign, "\n".join(codes[:2]).encode(), code_type="external")
    found = held(world.service, campaign, lent["reserveId"])
    assert found is not None
    assert found["type"] == "tm"
    assert {one["code"]: one["type"] for one in found["codes"]} == {
        code: "external" if code in codes[:2] else "tm" for code in codes
    }
    reply = world.service.post(f"/v1/{campaign}/release", {"reserveId": lent["reserveId"]})
    assert reply.json() == {"count": {"in": 5, "updated": 5}}


def test_of_two_processes_that_want_all_one_gets_all(
    world: World, second_service: Service, campaign: str
) -> None:
    services = (world.service, second_service)
    world.stock(campaign, make_codes(100))
    target = f"/v1/{campaign}/reserve?type=tm&count=10&min=10"

    callers = [partial(services[number % 2].post, target) for number in range(12)]
    statuses = [reply.status for reply in in_parallel(callers)]
    assert sorted(statuses) == [200] * 10 + [409] * 2
    assert world.service.count(campaign) == {"available": 0, "reserved": 100, "assigned": 0}


@pytest.mark.parametrize(
    ("members", "code"),
    [
        ({"ttl": 0}, "invalidTtl"),
        ({"ttl": 86_401}, "invalidTtl"),
        ({"ttl": None}, "invalidTtl"),
        ({"ttl": "60"}, "invalidTtl"),
        ({"ttl": 1.5}, "invalidTtl"),
        ({"min": 0}, "invalidMin"),
        ({"min": 3}, "invalidMin"),
        ({"min": True}, "invalidMin"),
        ({"min": None}, "invalidMin"),
        ({"count": 0, "min": 1, "ttl": 0}, "invalidCount"),
    ],
)
def test_what_no_reserve_is(world: World, campaign: str, members: dict[str, Any], code: str) -> None:
    body = {"type": "tm", "count": 2} | members
    assert_problem(world.service.post(f"/v1/{campaign}/reserve", body), 400, code)


@pytest.mark.parametrize("query", ["ttl=", "ttl=-1", "ttl=1&ttl=1", "ttl=1e3", "min=x", "min=3", "min=0"])
def test_what_no_reserve_is_in_a_query(world: World, campaign: str, query: str) -> None:
    reply = world.service.get(f"/v1/{campaign}/reserve?type=tm&count=2&{query}")
    assert_problem(reply, 400, "invalidTtl" if "ttl" in query else "invalidMin")


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({}, "emptyCodes"),
        ({"codes": None}, "emptyCodes"),
        ({"codes": ["A"], "reserveId": str(uuid.uuid4())}, "invalidCodes"),
        ({"codes": ["A"], "reserveId": None}, "invalidCodes"),
        ({"reserveId": None}, "invalidReserveId"),
        ({"reserveId": ""}, "invalidReserveId"),
        ({"reserveId": uuid.uuid4().hex}, "invalidReserveId"),
        ({"reserveId": [str(uuid.uuid4())]}, "invalidReserveId"),
        ({"reserveId": {"$gt": ""}}, "invalidReserveId"),
    ],
)
@pytest.mark.parametrize("action", ["assign", "release"])
def test_what_names_neither_codes_nor_a_reservation(
    world: World, campaign: str, action: str, body: dict[str, Any], code: str
) -> None:
    assert_problem(world.service.post(f"/v1/{campaign}/{action}", body), 400, code)


@pytest.mark.parametrize("name", ["x", "%00", "..%2F..", "{}", NOBODYS.replace("-", ""), NOBODYS])
def test_no_reservation_by_that_name(world: World, campaign: str, name: str) -> None:
    assert held(world.service, campaign, name) is None

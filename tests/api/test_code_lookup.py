"""GET /v1/{campaignId}/codes/{code}: one code, and where it stands."""

import time
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import pytest

from .harness import (
    CODE_MARK,
    RFC3339_MILLISECONDS,
    Document,
    Service,
    assert_problem,
    eventually,
    make_codes,
    new_campaign,
)
from .world import World

NOW = datetime.now(UTC).replace(microsecond=0)
DAY = timedelta(days=1)


def find(service: Service, campaign: str, code: str) -> Document:
    reply = service.get(f"/v1/{campaign}/codes/{quote(code, safe='')}")
    assert reply.status == 200, reply
    assert reply.header("Cache-Control") == "no-store"
    found: Document = reply.json()
    return found


def test_through_its_whole_life(world: World, second_service: Service, campaign: str) -> None:
    (code,) = make_codes(1)
    world.stock(campaign, [code], code_type="external")
    fresh = find(world.service, campaign, code)
    assert fresh == {
        "code": code,
        "type": "external",
        "status": "available",
        "date": {"saved": fresh["date"]["saved"]},
    }
    assert RFC3339_MILLISECONDS.fullmatch(fresh["date"]["saved"])

    (lent,) = world.service.reserve(campaign, 1, "external")["codes"]
    assert find(second_service, campaign, code) == lent | {"status": "reserved"}

    assert world.service.change(campaign, "release", [code])["updated"] == 1
    assert find(second_service, campaign, code) == fresh

    (lent,) = world.service.reserve(campaign, 1, "external")["codes"]
    assert world.service.change(campaign, "assign", [code])["updated"] == 1
    found = find(second_service, campaign, code)
    assigned = found["date"].pop("assigned")
    assert found == lent | {"status": "assigned"}
    assert assigned >= lent["date"]["reserved"]


def test_a_hold_ends_without_a_write(tiny: World, campaign: str) -> None:
    """Holds last 2 s here."""
    (code,) = make_codes(1)
    tiny.stock(campaign, [code])
    tiny.service.reserve(campaign, 1)
    began = time.monotonic()
    assert find(tiny.service, campaign, code)["status"] == "reserved"
    found: Any = eventually(
        lambda: one if (one := find(tiny.service, campaign, code))["status"] == "available" else None,
        limit=10,
    )
    assert time.monotonic() - began > 1
    assert set(found) == {"code", "type", "status", "date"}
    assert set(found["date"]) == {"saved"}


@pytest.mark.parametrize(
    ("reserved", "assigned", "status", "shown"),
    [
        (NOW - 2 * DAY, None, "available", False),
        (NOW - DAY / 2, None, "reserved", True),
        (NOW - 3 * DAY, NOW - 2.5 * DAY, "assigned", True),
        (NOW - 3 * DAY, NOW - DAY, "assigned", False),
        (None, NOW - DAY, "assigned", False),
    ],
    ids=["ended", "live", "assigned-while-held", "assigned-after-its-hold", "assigned-without-one"],
)
def test_whose_hold_it_shows(
    world: World,
    campaign: str,
    reserved: datetime | None,
    assigned: datetime | None,
    status: str,
    shown: bool,
) -> None:
    (code,) = make_codes(1)
    date = {"saved": NOW - 9 * DAY, "reserved": reserved, "assigned": assigned}
    document: Document = {
        "_id": {"campaign_id": campaign, "code": code},
        "type": "tm",
        "date": {name: instant for name, instant in date.items() if instant},
    }
    world.insert([document | ({"reserveId": "r"} if reserved else {})])
    found = find(world.service, campaign, code)
    assert found["status"] == status
    assert ("reserveId" in found, "reserved" in found["date"]) == (shown, shown)
    assert ("assigned" in found["date"]) == (assigned is not None)


@pytest.mark.parametrize(
    "code",
    [
        f"{CODE_MARK}/a/b",
        f"{CODE_MARK}%2F%25%2f",
        f"{CODE_MARK} ?#&=+;,:@",
        f"{CODE_MARK}{{x}}\\|^`",
        f"{CODE_MARK}\u00e4\u20ac\U0001f600",
        "count ",
        "x" * 256,
    ],
)
def test_any_character(world: World, campaign: str, code: str) -> None:
    world.stock(campaign, [f'"{code}"'])
    assert find(world.service, campaign, code)["code"] == code


@pytest.mark.parametrize(
    "path",
    [
        f"{CODE_MARK}-none",
        f"{CODE_MARK}%00",
        f"{CODE_MARK}%0A",
        f"{CODE_MARK}%FF",
        f"{CODE_MARK}/x",
        "x" * 257,
        "%C3%A4" * 129,
        "",
    ],
)
def test_not_a_code_of_the_campaign(service: Service, campaign: str, path: str) -> None:
    problem = assert_problem(service.get(f"/v1/{campaign}/codes/{path}"), 404, "notFound")
    assert CODE_MARK not in str(problem)


def test_of_another_campaign(world: World, campaign: str) -> None:
    (code,) = make_codes(1)
    world.stock(campaign, [code])
    assert_problem(world.service.get(f"/v1/{new_campaign()}/codes/{code}"), 404, "notFound")


def test_other_requests_to_it(service: Service, campaign: str) -> None:
    target = f"/v1/{campaign}/codes/x"
    assert_problem(service.get(target, auth=None), 401, "unauthorized")
    assert_problem(service.get("/v1/a%20b/codes/x"), 400, "invalidCampaignId")
    refused = service.post(target, {})
    assert_problem(refused, 405, "methodNotAllowed")
    assert refused.header("Allow") == "GET, HEAD"


def test_count_stays_what_it_was(world: World, campaign: str) -> None:
    world.stock(campaign, ["count"])
    assert_problem(world.service.get(f"/v1/{campaign}/codes/count"), 400, "invalidType")
    assert world.service.count(campaign)["available"] == 1


def test_only_the_template_shows(world: World, campaign: str) -> None:
    (code,) = make_codes(1)
    world.stock(campaign, [code])
    for target in (code, f"{code}%2Fx", f"{code}/x", f"{code}%0D%0Ax"):
        reply = world.service.get(f"/v1/{campaign}/codes/{target}")
        lines = world.service.log_lines_of(reply.header("X-Correlation-ID") or "")
        assert lines
        assert CODE_MARK not in str(lines)
        expected = "unmatched" if "/x" in target else "/v1/{campaignId}/codes/{code}"
        assert lines[-1]["route"] == expected
    assert CODE_MARK not in world.service.get("/metrics", auth=None).body.decode()

"""Two processes whose clocks are ten minutes apart: what holds, leases and counts still are, and what they are not.

The contract with clocks that differ by D: no hold is shorter than its time less D, none that a process with the right
clock began ends later for that process, and no lease has anything to do with the processes' clocks.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta

import pytest
from api.harness import Document, csv_of, eventually, make_codes
from api.proxy import Proxy
from api.world import Hosting, World

from .conftest import HOOKS

AHEAD = timedelta(minutes=10)
TTL = timedelta(minutes=20)


@pytest.fixture(scope="module")
def worlds(
    hosting: Hosting,
    fragile_settings: dict[str, str | None],
    mongo_uri: str,
    new_database: Callable[[str], str],
) -> Iterator[tuple[World, World]]:
    """A service with the right clock, and one that is ahead; both read S3 by the proxy."""
    database = new_database("clocks")
    settings = fragile_settings | {
        "CODESVC_MONGO_URI": mongo_uri,
        "CODESVC_MONGO_TIMEOUT": None,
        "CODESVC_RESERVATION_TTL": str(round(TTL.total_seconds())),
    }
    ahead = {"PYTHONPATH": str(HOOKS), "FAULTS_CLOCK_OFFSET": str(AHEAD.total_seconds())}
    with ExitStack() as stack:
        right = stack.enter_context(hosting(settings, database))
        fast = stack.enter_context(hosting(settings | ahead, database))
        # A token is as old as the service that looks at it says.
        yield right, fast


def date(value: str) -> datetime:
    return datetime.fromisoformat(value)


def held(campaign: str, code: str, since: timedelta) -> Document:
    began = datetime.now(UTC) - since
    dates = {"saved": began, "reserved": began}
    return {"_id": {"campaign_id": campaign, "code": code}, "type": "tm", "reserveId": "r", "date": dates}


def test_the_clock_is_ahead_indeed(worlds: tuple[World, World], campaign: str) -> None:
    right, fast = worlds
    right.stock(campaign, make_codes(2))
    for world, offset in ((right, timedelta(0)), (fast, AHEAD)):
        reserved = date(world.service.reserve(campaign, 1)["codes"][0]["date"]["reserved"])
        assert abs(reserved - offset - datetime.now(UTC)) < timedelta(seconds=60)


def test_what_one_lends_the_other_does_not(worlds: tuple[World, World], campaign: str) -> None:
    right, fast = worlds
    codes = make_codes(40)
    right.stock(campaign, codes)
    lent = [one["code"] for world in (fast, right) for one in world.service.reserve(campaign, 15)["codes"]]
    lent += [one["code"] for world in (fast, right) for one in world.service.reserve(campaign, 10)["codes"]]
    assert sorted(lent) == sorted(codes)
    for world in worlds:
        assert world.service.reserve(campaign, 1)["codes"] == []
        assert world.service.count(campaign) == {"available": 0, "reserved": 40, "assigned": 0}
    # Each ends what the other began.
    assert right.service.change(campaign, "release", lent[:5]) == {"in": 5, "updated": 5}
    assert fast.service.change(campaign, "release", lent[-5:]) == {"in": 5, "updated": 5}
    assert right.service.change(campaign, "assign", lent[5:10]) == {"in": 5, "updated": 5}
    for world in worlds:
        assert world.service.count(campaign) == {"available": 10, "reserved": 25, "assigned": 5}


def test_a_hold_ends_earlier_for_the_one_that_is_ahead_by_as_much_and_no_more(
    worlds: tuple[World, World], campaign: str
) -> None:
    right, fast = worlds
    minute = timedelta(minutes=1)
    young, old, over = make_codes(3)
    right.insert(
        [
            held(campaign, young, TTL - AHEAD - minute),
            held(campaign, old, TTL - AHEAD + minute),
            held(campaign, over, TTL + minute),
        ]
    )
    assert right.service.count(campaign) == {"available": 1, "reserved": 2, "assigned": 0}
    assert fast.service.count(campaign) == {"available": 2, "reserved": 1, "assigned": 0}
    # By its clock it lends what ended; the hold that is younger than that is safe from it.
    assert {one["code"] for one in fast.service.reserve(campaign, 3)["codes"]} == {old, over}
    assert right.service.reserve(campaign, 3)["codes"] == []


def test_a_hold_that_the_one_ahead_began_lasts_longer_for_the_other(
    worlds: tuple[World, World], campaign: str
) -> None:
    right, fast = worlds
    minute = timedelta(minutes=1)
    # As the one ahead writes them: dated ten minutes later than they were begun.
    codes = make_codes(2)
    right.insert(
        [held(campaign, codes[0], TTL - AHEAD + minute), held(campaign, codes[1], TTL + minute)],
    )
    assert fast.service.count(campaign)["available"] == 2
    assert [one["code"] for one in right.service.reserve(campaign, 2)["codes"]] == [codes[1]]


@pytest.mark.parametrize("owner", [0, 1], ids=["right", "ahead"])
def test_a_lease_is_by_the_servers_clock(
    worlds: tuple[World, World], s3_proxy: Proxy, campaign: str, owner: int
) -> None:
    """The lease of an upload that stands still is renewed, and nobody takes it for one that has run out."""
    mine, other = worlds[owner], worlds[1 - owner]
    codes = make_codes(8_000)
    key = mine.put(campaign, csv_of(f"{code},{'.' * 40}" for code in codes))
    stalled = s3_proxy.stall_after(150_000)
    begun = mine.service.post(
        f"/v1/{campaign}/codes", {"fileKey": key}, headers={"Prefer": "respond-async"}
    ).json()
    try:
        assert stalled.wait(30)
        for _ in range(8):
            for world in (mine, other):
                found = world.service.get(f"/v1/{campaign}/uploads/{begun['uploadId']}").json()
                assert found["state"] == "running", found
            time.sleep(0.5)
    finally:
        s3_proxy.resume()
    done = eventually(
        lambda: _ended(other, campaign, begun["uploadId"]),
        limit=60,
        every=0.2,
    )
    assert done["state"] == "succeeded"
    assert done["count"] == {"in": 8_000, "inserted": 8_000, "updated": 0}
    assert other.service.count(campaign) == {"available": 8_000, "reserved": 0, "assigned": 0}


def _ended(world: World, campaign: str, upload_id: str) -> Document | None:
    found: Document = world.service.get(f"/v1/{campaign}/uploads/{upload_id}").json()
    return found if found["finishedAt"] is not None else None

"""Many callers at once: no code is lent twice, and nobody is sent away short while stock remains."""

import threading
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import partial

from .harness import Document, Service, csv_of, in_parallel, make_codes
from .world import World

CALLERS = 32


def drain(services: Sequence[Service], campaign: str, *, size: int) -> list[Document]:
    """Let 32 callers reserve until nothing is left; return every reservation."""
    barrier = threading.Barrier(CALLERS)

    def call(service: Service) -> list[Document]:
        found = []
        barrier.wait()
        while (one := service.reserve(campaign, size))["count"]:
            found.append(one)
        return found

    calls = [partial(call, services[index % len(services)]) for index in range(CALLERS)]
    return [one for found in in_parallel(calls, workers=CALLERS) for one in found]


def assert_drained(
    world: World, campaign: str, codes: Sequence[str], reservations: list[Document], *, size: int
) -> None:
    lent = Counter(item["code"] for one in reservations for item in one["codes"])
    assert set(lent) == set(codes)
    assert max(lent.values()) == 1, "a code was lent twice"
    assert len({one["reserveId"] for one in reservations}) == len(reservations)
    full = [one for one in reservations if one["count"] == size]
    assert len(full) == len(codes) // size, "somebody was short while stock remained"
    assert all(one["count"] == len(one["codes"]) for one in reservations)
    documents = world.documents(campaign)
    for one in reservations:
        for item in one["codes"]:
            assert documents[item["code"]]["reserveId"] == one["reserveId"] == item["reserveId"]
    assert world.service.count(campaign) == {"available": 0, "reserved": len(codes), "assigned": 0}


def test_32_callers_drain_10000_codes_in_tens(world: World, campaign: str) -> None:
    codes = make_codes(10_000)
    world.stock(campaign, codes)
    reservations = drain([world.service], campaign, size=10)
    assert len(reservations) == 1000
    assert {one["count"] for one in reservations} == {10}
    assert_drained(world, campaign, codes, reservations, size=10)


def test_two_processes_behind_one_database(world: World, second_service: Service, campaign: str) -> None:
    codes = make_codes(10_000)
    world.stock(campaign, codes)
    reservations = drain([world.service, second_service], campaign, size=10)
    assert len(reservations) == 1000
    assert {one["count"] for one in reservations} == {10}
    assert_drained(world, campaign, codes, reservations, size=10)


def test_numbers_that_do_not_divide(world: World, second_service: Service, campaign: str) -> None:
    codes = make_codes(2003)
    world.stock(campaign, codes)
    reservations = drain([world.service, second_service], campaign, size=37)
    assert_drained(world, campaign, codes, reservations, size=37)


def test_expired_holds_are_lent_once(world: World, second_service: Service, campaign: str) -> None:
    """Half the stock is fresh, and half was lent and never given back."""
    fresh, expired = make_codes(1000), make_codes(1000)
    world.stock(campaign, fresh)
    old = datetime.now(UTC) - timedelta(days=2)
    world.insert(
        {
            "_id": {"campaign_id": campaign, "code": code},
            "type": "tm",
            "reserveId": "7b0c8f5e-60a9-4f0e-9d3b-2f6f3b1f0c11",
            "date": {"saved": old, "reserved": old},
        }
        for code in expired
    )
    reservations = drain([world.service, second_service], campaign, size=10)
    assert_drained(world, campaign, fresh + expired, reservations, size=10)


def test_more_callers_than_codes(world: World, campaign: str) -> None:
    codes = make_codes(20)
    world.stock(campaign, codes)
    found = in_parallel([lambda: world.service.reserve(campaign, 1) for _ in range(CALLERS)])
    assert sorted(one["count"] for one in found) == [0] * 12 + [1] * 20
    assert {item["code"] for one in found for item in one["codes"]} == set(codes)


def test_reserve_release_assign_all_at_once(world: World, second_service: Service, campaign: str) -> None:
    """Every caller owns what it reserved: its assign and release always count in full."""
    codes = make_codes(400)
    world.stock(campaign, codes)

    def call(index: int) -> list[str]:
        service = (world.service, second_service)[index % 2]
        kept = []
        for _ in range(6):
            lent = [item["code"] for item in service.reserve(campaign, 8)["codes"]]
            assert len(lent) == 8
            assert service.change(campaign, "assign", lent[:1]) == {"in": 1, "updated": 1}
            assert service.change(campaign, "release", lent[1:]) == {"in": 7, "updated": 7}
            kept.append(lent[0])
        return kept

    # 24 callers hold 8 codes each at most, and 144 are assigned in all: 400 are always enough.
    kept = in_parallel([partial(call, index) for index in range(24)], workers=24)
    assigned = [code for each in kept for code in each]
    assert len(assigned) == len(set(assigned)) == 144
    assert world.service.count(campaign) == {"available": 256, "reserved": 0, "assigned": 144}


def test_stock_that_arrives_while_callers_wait(world: World, campaign: str) -> None:
    first, second = make_codes(200), make_codes(200)
    world.stock(campaign, first)
    calls = [lambda: world.service.reserve(campaign, 10) for _ in range(40)]
    key = world.put(campaign, csv_of(second))
    results = in_parallel([lambda: world.service.upload(key), *calls], workers=16)
    lent = [item["code"] for one in results[1:] for item in one["codes"]]
    assert len(lent) == len(set(lent))
    left = world.service.count(campaign)
    assert left == {"available": 400 - len(lent), "reserved": len(lent), "assigned": 0}
    assert len(lent) >= 200

"""The rules of the inventory: clocks, holds and counts, apart from where codes are kept."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from codesvc.errors import NotFoundError
from codesvc.inventory import Inventory, Listing, utc_now
from codesvc.models import (
    ChangeCounts,
    Code,
    CodePage,
    CodeType,
    Counts,
    Reservation,
    ReservedCode,
    Status,
)

NOW = datetime(2026, 3, 1, 12, 0, 0, 123_000, tzinfo=UTC)
TTL = timedelta(hours=24)


@dataclass
class Scripted:
    """A listing whose pages are these, whatever is asked; it keeps that."""

    pages: list[CodePage]
    asked: list[tuple[str, int]] = field(default_factory=list)

    async def page(self, *, after: str, limit: int, cut_off: datetime, patience: float) -> CodePage:
        assert (cut_off, patience > 0) == (NOW - TTL, True)
        self.asked.append((after, limit))
        return self.pages.pop(0)


def page(codes: str, following: str | None) -> CodePage:
    """Make a page of codes of one letter."""
    return CodePage(tuple(Code(one, CodeType.TM, Status.AVAILABLE, saved=NOW) for one in codes), following)


@dataclass
class Shelf:
    """A store that keeps what it was asked."""

    asked: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    found: Code | None = None
    held: tuple[list[ReservedCode], datetime] | None = None
    listed: Scripted = field(default_factory=lambda: Scripted([]))

    async def count(self, **arguments: Any) -> Counts:
        self.asked.append(("count", arguments))
        return Counts(1, 2, 3)

    async def count_status(self, **arguments: Any) -> int:
        self.asked.append(("count_status", arguments))
        return 7

    async def find(self, **arguments: Any) -> Code | None:
        self.asked.append(("find", arguments))
        return self.found

    def listing(self, **arguments: Any) -> Listing:
        self.asked.append(("listing", arguments))
        return self.listed

    async def reserve(self, **arguments: Any) -> list[ReservedCode]:
        self.asked.append(("reserve", arguments))
        return [
            ReservedCode("A", arguments["code_type"], arguments["reserve_id"], saved=NOW, reserved=NOW)
        ] * min(arguments["count"], 2)

    async def assign(self, *, campaign_id: str, codes: Sequence[str], now: datetime) -> int:
        self.asked.append(("assign", {"campaign_id": campaign_id, "codes": list(codes), "now": now}))
        return 1

    async def release(self, *, campaign_id: str, codes: Sequence[str], cut_off: datetime) -> int:
        self.asked.append(("release", {"campaign_id": campaign_id, "codes": list(codes), "cut_off": cut_off}))
        return 0

    async def reservation(self, **arguments: Any) -> tuple[list[ReservedCode], datetime] | None:
        self.asked.append(("reservation", arguments))
        return self.held

    async def assign_reservation(self, **arguments: Any) -> ChangeCounts:
        self.asked.append(("assign_reservation", arguments))
        return ChangeCounts(3, 3)

    async def release_reservation(self, **arguments: Any) -> ChangeCounts:
        self.asked.append(("release_reservation", arguments))
        return ChangeCounts(2, 2)


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


@pytest.fixture
def inventory(shelf: Shelf) -> Inventory:
    return Inventory(shelf, reservation_ttl=TTL, clock=lambda: NOW)


async def test_counting_looks_back_by_the_time_a_hold_lasts(inventory: Inventory, shelf: Shelf) -> None:
    assert await inventory.count("c", CodeType.TM) == Counts(1, 2, 3)
    assert await inventory.count_status("c", CodeType.TM, Status.RESERVED) == 7
    asked = {"campaign_id": "c", "code_type": CodeType.TM, "cut_off": NOW - TTL}
    assert shelf.asked == [("count", asked), ("count_status", asked | {"status": Status.RESERVED})]


async def test_reserving(inventory: Inventory, shelf: Shelf) -> None:
    reservation = await inventory.reserve("c", CodeType.EXTERNAL, 5)
    assert str(uuid.UUID(reservation.reserve_id, version=4)) == reservation.reserve_id
    assert [one.reserve_id for one in reservation.codes] == [reservation.reserve_id] * 2
    assert shelf.asked == [
        (
            "reserve",
            {
                "campaign_id": "c",
                "code_type": CodeType.EXTERNAL,
                "count": 5,
                "reserve_id": reservation.reserve_id,
                "now": NOW,
                "cut_off": NOW - TTL,
                "minimum": 0,
                "shortened": timedelta(0),
            },
        )
    ]
    assert reservation.expires == NOW + TTL


@pytest.mark.parametrize(
    ("ttl", "lasting"), [(timedelta(seconds=1), timedelta(seconds=1)), (TTL, TTL), (2 * TTL, TTL)]
)
async def test_a_hold_is_as_short_as_asked_and_never_longer(
    inventory: Inventory, shelf: Shelf, ttl: timedelta, lasting: timedelta
) -> None:
    for count in (2, 0):
        reservation = await inventory.reserve(
            "c", CodeType.TM, count, ttl=ttl, minimum=2, reserve_id="a reservation"
        )
        assert (reservation.reserve_id, reservation.expires) == ("a reservation", NOW + lasting)
        asked = shelf.asked.pop()[1]
        assert (asked["minimum"], asked["shortened"]) == (2, TTL - lasting)


async def test_a_reservation_by_its_id(inventory: Inventory, shelf: Shelf) -> None:
    name = {"campaign_id": "c", "reserve_id": "r", "cut_off": NOW - TTL}
    with pytest.raises(NotFoundError):
        await inventory.reservation("c", "r")
    codes = [ReservedCode("A", CodeType.TM, "r", saved=NOW, reserved=NOW)]
    shelf.held = (codes, NOW - timedelta(hours=23))
    found = await inventory.reservation("c", "r")
    assert found == Reservation("r", tuple(codes), expires=NOW + timedelta(hours=1))
    assert await inventory.assign_reservation("c", "r") == ChangeCounts(3, 3)
    assert await inventory.release_reservation("c", "r") == ChangeCounts(2, 2)
    assert shelf.asked == [
        ("reservation", name),
        ("reservation", name),
        ("assign_reservation", name | {"now": NOW}),
        ("release_reservation", name),
    ]


async def test_no_two_reservations_share_an_id(inventory: Inventory) -> None:
    ids = {(await inventory.reserve("c", CodeType.TM, 0)).reserve_id for _ in range(50)}
    assert len(ids) == 50


async def test_in_is_the_length_of_the_list(inventory: Inventory, shelf: Shelf) -> None:
    assert await inventory.assign("c", ["A", "A", "B"]) == ChangeCounts(total=3, updated=1)
    assert await inventory.release("c", ["A", "A", "B"]) == ChangeCounts(total=3, updated=0)
    assert [asked["codes"] for _, asked in shelf.asked] == [["A", "A", "B"]] * 2
    assert shelf.asked[0][1]["now"] == NOW
    assert shelf.asked[1][1]["cut_off"] == NOW - TTL


async def test_no_code_is_shown_by_accident(inventory: Inventory) -> None:
    reservation = await inventory.reserve("c", CodeType.TM, 1)
    assert "'A'" not in repr(reservation)
    assert "'A'" not in repr(reservation.codes)


def test_now_is_in_utc_and_has_the_resolution_that_is_stored() -> None:
    before = datetime.now(UTC)
    now = utc_now()
    assert now.tzinfo is UTC
    assert now.microsecond % 1000 == 0
    assert before - timedelta(milliseconds=1) < now <= datetime.now(UTC)


async def test_a_code_that_is_not_there(inventory: Inventory, shelf: Shelf) -> None:
    with pytest.raises(NotFoundError):
        await inventory.find("c", "A")
    assert shelf.asked == [("find", {"campaign_id": "c", "code": "A", "cut_off": NOW - TTL})]


@pytest.mark.parametrize(("age", "shown"), [(TTL, False), (TTL - timedelta(milliseconds=1), True)])
async def test_an_assigned_code_shows_the_hold_that_it_was_assigned_with(
    inventory: Inventory, shelf: Shelf, age: timedelta, shown: bool
) -> None:
    # As of a hold of a minute: what counts is from when on its end is reckoned.
    begun = NOW - age + TTL - timedelta(minutes=1)
    dates = {"saved": NOW, "reserved": begun, "reckoned": NOW - age, "assigned": NOW}
    shelf.found = Code("A", CodeType.TM, Status.ASSIGNED, reserve_id="r", **dates)
    found = await inventory.find("c", "A")
    assert (found.reserve_id, found.reserved) == (("r", begun) if shown else (None, None))


@pytest.mark.parametrize(
    ("found", "told"),
    [
        # One more than was asked for: the page ends before that one.
        (page("BCDE", "E"), page("BCD", "D")),
        (page("BCD", None), page("BCD", None)),
        (page("", None), page("", None)),
        # The time was up: what had been found by then, if anything, and more to come.
        (page("BC", "H"), page("BC", "H")),
        (page("", "H"), page("", "H")),
    ],
)
async def test_a_page(inventory: Inventory, shelf: Shelf, found: CodePage, told: CodePage) -> None:
    shelf.listed.pages = [found]
    assert await inventory.page("c", status=Status.ASSIGNED, after="A", limit=3) == told
    assert shelf.listed.asked == [("A", 4)]
    assert shelf.asked == [
        ("listing", {"campaign_id": "c", "code_type": None, "status": Status.ASSIGNED}),
    ]


async def test_an_export_goes_on_past_pages_that_ended_early(inventory: Inventory, shelf: Shelf) -> None:
    shelf.listed.pages = [page("BC", "F"), page("", "M"), page("N", "N"), page("", None)]
    found = [one.code async for some in inventory.export("c", after="A") for one in some]
    assert found == ["B", "C", "N"]
    assert [after for after, _ in shelf.listed.asked] == ["A", "F", "M", "N"]

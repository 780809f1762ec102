"""The soak's judgement: each fault is seen, and what only looks like one is none."""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from .ledger import Fault, Held, Ledger
from .verdict import check

TTL = timedelta(seconds=60)
# Milliseconds are all that MongoDB keeps; what is below them is of no account here.
DATE = datetime.now(UTC).replace(microsecond=0) - timedelta(seconds=30)
KEY = ("c", "A")


def document(
    reserve_id: str | None = None, *, reserved: datetime = DATE, **dates: datetime
) -> dict[str, Any]:
    held = {} if reserve_id is None else {"reserveId": reserve_id}
    date = {"saved": DATE, **({} if reserve_id is None else {"reserved": reserved}), **dates}
    return {"_id": {"campaign_id": "c", "code": "A"}, "type": "tm", "date": date, **held}


def stocked() -> Ledger:
    ledger = Ledger(TTL)
    ledger.upload_sent("c", "tm", ["A"])
    ledger.uploaded("c", "tm", ["A"])
    return ledger


def lend(ledger: Ledger, reserve_id: str, at: float, *, reserved: datetime = DATE) -> Held:
    """Let somebody ask for one code at an instant, and be told a second later that it is A."""
    asked = ledger.reserve_sent("c", "tm", 1, at)
    ledger.reserved(asked, reserve_id, {"A": reserved}, at + 1, moving=False)
    return ledger.hold("c", "A", reserve_id)


def monotonic(date: datetime) -> float:
    return time.monotonic() - (datetime.now(UTC) - date).total_seconds()


def faults(ledger: Ledger, *documents: dict[str, Any]) -> dict[Fault, int]:
    check(ledger, documents)
    return dict(ledger.faults)


def test_a_code_that_is_lent_and_held() -> None:
    ledger = stocked()
    lend(ledger, "r", 1)
    assert faults(ledger, document("r")) == {}


def test_a_code_is_lent_while_another_holds_it() -> None:
    ledger = stocked()
    lend(ledger, "r", 1)
    lend(ledger, "s", 5)
    assert faults(ledger, document("s")) == {Fault.LENT_TWICE: 1}


def test_a_code_is_lent_before_it_was_sent_back() -> None:
    ledger = stocked()
    first = lend(ledger, "r", 1)
    second = lend(ledger, "s", 5)
    first.release_sent = 7
    assert not first.may_have_ended_before(second, TTL)


def test_a_code_is_lent_after_it_was_sent_back_whether_or_not_anybody_heard() -> None:
    ledger = stocked()
    lend(ledger, "r", 1).release_sent = 3.5
    lend(ledger, "s", 3)
    assert faults(ledger, document("s")) == {}


def test_a_code_is_lent_at_the_end_of_its_hold_and_no_sooner() -> None:
    for early, expected in ((timedelta(0), {}), (timedelta(milliseconds=1), {Fault.LENT_TWICE: 1})):
        ledger = stocked()
        lend(ledger, "r", 1, reserved=DATE - TTL)
        lend(ledger, "s", 61, reserved=DATE - early)
        assert faults(ledger, document("s", reserved=DATE - early)) == expected


def test_a_code_is_lent_after_it_was_given_away() -> None:
    ledger = stocked()
    then = monotonic(DATE)
    first = lend(ledger, "r", then - 300, reserved=DATE - 5 * TTL)
    first.assign_sent = first.assigned = then
    lend(ledger, "s", then + 5)
    assert faults(ledger, document("s", assigned=DATE)) == {Fault.LENT_TWICE: 1}


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (document("r", assigned=DATE), {}),
        (document("r"), {Fault.ASSIGN_LOST: 1}),
        (document("r", assigned=DATE - timedelta(seconds=9)), {Fault.ASSIGN_LOST: 1}),
        (document("s", assigned=DATE), {Fault.HOLD_MISSING: 1}),
    ],
)
def test_an_acknowledged_assign(found: dict[str, Any], expected: dict[Fault, int]) -> None:
    ledger = stocked()
    hold = lend(ledger, "r", 1)
    hold.assign_sent = hold.assigned = monotonic(DATE)
    assert faults(ledger, found) == expected | ({Fault.HOLD_UNTOLD: 1} if found["reserveId"] == "s" else {})


@pytest.mark.parametrize("acknowledged", [True, False])
def test_a_release(*, acknowledged: bool) -> None:
    for found in (document(), document("r")):
        ledger = stocked()
        hold = lend(ledger, "r", 1)
        hold.release_sent, hold.released = 3, acknowledged
        lost = acknowledged and "reserveId" in found
        assert faults(ledger, found) == ({Fault.RELEASE_LOST: 1} if lost else {})


def test_a_hold_that_is_not_in_the_document() -> None:
    ledger = stocked()
    lend(ledger, "r", 1)
    assert faults(ledger, document()) == {Fault.HOLD_MISSING: 1}


def test_a_hold_that_expired_and_whose_code_went_to_somebody_who_was_not_told() -> None:
    ledger = stocked()
    lend(ledger, "r", 1, reserved=DATE - TTL)
    ledger.reserve_unknown(ledger.reserve_sent("c", "tm", 1, 70))
    assert faults(ledger, document("x")) == {}


def test_a_hold_that_nobody_was_told_of_and_nobody_can_have_asked_for() -> None:
    assert faults(stocked(), document("x")) == {Fault.HOLD_UNTOLD: 1}


def test_a_code_held_beyond_what_the_reply_said() -> None:
    ledger = stocked()
    ledger.reserved(ledger.reserve_sent("c", "tm", 1, 1), "r", {}, 2, moving=True)
    assert faults(ledger, document("r")) == {Fault.HOLD_UNTOLD: 1}


def test_codes_that_were_uploaded() -> None:
    assert faults(stocked()) == {Fault.UPLOAD_WRONG: 1}
    assert faults(stocked(), document() | {"type": "external"}) == {Fault.UPLOAD_WRONG: 1}
    assert faults(Ledger(TTL), document()) == {Fault.UPLOAD_WRONG: 1}
    unsure = stocked()
    unsure.upload_sent("c", "external", ["A"])
    assert faults(unsure, document() | {"type": "external"}) == {}


Later = Callable[[Ledger], object]


@pytest.mark.parametrize(
    ("before", "meanwhile", "expected"),
    [
        (None, None, {Fault.SHORT: 1}),
        # Another was lent it before or meanwhile, or may have been.
        (None, lambda ledger: lend(ledger, "s", 2), {}),
        (lambda ledger: lend(ledger, "s", 0), None, {}),
        (lambda ledger: ledger.reserve_unknown(ledger.reserve_sent("c", "tm", 1, 0)), None, {}),
        # What came back counts from the next request on.
        (lambda ledger: lend(ledger, "s", 0), lambda ledger: ledger.released("c", "tm", 1), {}),
        (
            lambda ledger: (lend(ledger, "s", 0), ledger.released("c", "tm", 1)),
            None,
            {Fault.SHORT: 1},
        ),
    ],
)
def test_a_reservation_that_is_short(
    before: Later | None, meanwhile: Later | None, expected: dict[Fault, int]
) -> None:
    ledger = stocked()
    if before is not None:
        before(ledger)
    asked = ledger.reserve_sent("c", "tm", 1, 1)
    if meanwhile is not None:
        meanwhile(ledger)
    ledger.reserved(asked, "r", {}, 3, moving=False)
    assert dict(ledger.faults) == expected

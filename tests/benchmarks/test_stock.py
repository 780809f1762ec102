"""The benchmarks' stock is what it says: the documents of the contract, in the states that were asked for."""

from datetime import UTC, datetime, timedelta
from itertools import chain, groupby

import bson
import numpy as np
import pytest

from benchmarks.documents import State, Template
from benchmarks.stock import Stock

NUMBERS = {State.NEVER_HELD: 50, State.EXPIRED: 30, State.HELD: 15, State.ASSIGNED: 5}
NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
DAY = timedelta(hours=24)


def test_a_stock_is_the_same_each_time_and_counts_as_the_service_does() -> None:
    stock = Stock.make(NUMBERS)
    again = Stock.make(NUMBERS)
    assert stock.codes.tolist() == again.codes.tolist() == sorted(set(stock.codes.tolist()))
    assert stock.states.tolist() == again.states.tolist() != sorted(stock.states.tolist())
    assert stock.counts() == {"available": 80, "reserved": 15, "assigned": 5}


def test_a_stock_knows_which_codes_are_available() -> None:
    stock = Stock.make(NUMBERS)
    free = stock.pick(State.NEVER_HELD, 50) + stock.pick(State.EXPIRED, 30)
    (held,) = stock.pick(State.HELD, 1)
    assert stock.all_available(free)
    assert stock.all_available([])
    for wrong in (held, "ZZZZZZZZZZZZ", "222222222222"):
        assert not stock.all_available([*free, wrong])
    copy = stock.copy()
    copy.mark(free[:3], State.ASSIGNED)
    assert copy.counts() == {"available": 77, "reserved": 15, "assigned": 8}
    assert not copy.all_available(free[:1])
    assert stock.all_available(free)


def test_each_turn_picks_other_codes() -> None:
    stock = Stock.make(NUMBERS)
    turns = [stock.pick(State.HELD, 5, turn=number) for number in range(3)]
    assert len(set(chain.from_iterable(turns))) == 15
    with pytest.raises(ValueError, match="HELD"):
        stock.pick(State.HELD, 5, turn=3)


@pytest.mark.parametrize(
    ("state", "dates", "live"),
    [
        (State.NEVER_HELD, {"saved"}, None),
        (State.EXPIRED, {"saved", "reserved"}, False),
        (State.HELD, {"saved", "reserved"}, True),
        (State.ASSIGNED, {"saved", "reserved", "assigned"}, None),
    ],
)
def test_documents_are_those_of_the_contract(state: State, dates: set[str], live: bool | None) -> None:
    codes = np.array([f"{number:012d}" for number in range(1995)], dtype="S12")
    template = Template(campaign_id="1", state=state, now_ms=round(NOW.timestamp() * 1000))
    options: bson.CodecOptions[dict[str, object]] = bson.CodecOptions(tz_aware=True)
    found: list[dict[str, object]] = [
        bson.decode(document, options) for document in template.documents(codes, np.random.default_rng(1))
    ]
    assert [one["_id"] for one in found] == [
        {"campaign_id": "1", "code": code.decode()} for code in codes.tolist()
    ]
    assert {one["type"] for one in found} == {"tm"}
    held = state is not State.NEVER_HELD
    assert {"reserveId" in one for one in found} == {held}
    if held:
        assert [len(list(group)) for _, group in groupby(one["reserveId"] for one in found)] == 199 * [10] + [
            5
        ]
    for one in found:
        date = one["date"]
        assert isinstance(date, dict)
        assert date.keys() == dates
        assert all(date["saved"] < other <= NOW for name, other in date.items() if name != "saved")
        if live is not None:
            assert (date["reserved"] > NOW - DAY) == live

"""What several callers ask several processes at once happens as if one had come after the other, whatever the stock."""

from collections.abc import Iterator
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from codesvc.models import CodeType

from .model import Code, Model
from .operations import Count
from .processes import (
    CHANGES,
    CODES,
    COUNTS,
    RESERVES,
    SETTINGS,
    TYPES,
    Asked,
    Processes,
    started,
    telling,
)
from .rig import TTL, Documents

DAY = timedelta(days=1)

# When the hold of a code began, if it has one: most codes are there to be had.
HOLDS = st.sampled_from([None, None, None, TTL, TTL, TTL - timedelta(milliseconds=1), timedelta(0)])
STOCK = st.dictionaries(
    st.sampled_from(CODES), st.tuples(TYPES, HOLDS, st.sampled_from([*[False] * 7, True])), min_size=3
)
# Reserves find out of each other by the stock that is left. Counts may see a part of what they hold, or what they give
# back again, and are bounded by what was there before; so where others change single codes meanwhile, nobody counts.
BURSTS = st.tuples(st.lists(RESERVES, min_size=2, max_size=7), st.lists(COUNTS, max_size=4)) | st.tuples(
    st.lists(RESERVES, min_size=1, max_size=4), st.lists(CHANGES, min_size=1, max_size=4)
)

Stock = dict[str, tuple[CodeType, timedelta | None, bool]]


@pytest.fixture
def processes(mongo_uri: str, documents: Documents) -> Iterator[Processes]:
    with started(mongo_uri, documents) as running:
        yield running


def stocked(processes: Processes, stock: Stock) -> Model:
    """Write the documents of a new campaign."""
    model = Model(processes.new_campaign(), processes.now)
    for code, (code_type, held, assigned) in stock.items():
        model.codes[code] = Code(
            code_type,
            saved=model.now - 2 * DAY,
            reserved=None if held is None else model.now - held,
            reserve_id=None if held is None else "earlier",
            assigned=model.now - DAY if assigned else None,
        )
    processes.documents.insert_many(model.documents().values())
    return model


@pytest.mark.timeout(300)  # what fails is made short, which takes its time
def test_any_burst_has_an_order(processes: Processes) -> None:
    everybody: list[Asked] = [
        (process, Count(code_type), 0) for process in range(len(SETTINGS)) for code_type in CodeType
    ]

    @settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(stock=STOCK, burst=BURSTS)
    def check(stock: Stock, burst: tuple[list[Asked], list[Asked]]) -> None:
        model = stocked(processes, stock)
        steps = [f"{code}: {one.type}, {one.status(model.now)}" for code, one in model.codes.items()]
        try:
            after, _ = processes.at_once(model, [*burst[0], *burst[1]], steps)
            for (_, count, _), reply in zip(everybody, processes.ask(after, everybody), strict=True):
                count.explain(after, reply)
        except AssertionError as error:
            processes.failures.append("\n".join([*steps, str(error)]))
            raise
        finally:
            processes.delete(model)

    with telling(processes):
        check()

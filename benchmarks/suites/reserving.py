"""Reserve ten codes, by many callers at once and by one alone; thousands in one call; assign and release as many."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from statistics import median
from typing import Any, Final

from benchmarks.bench import Bench, Run, Series, add_table, at_least, rate_cells, take_turns
from benchmarks.charts import Bar, BarChart
from benchmarks.contenders import CODESVC, TEXTBOOK, Contender, Round, contenders
from benchmarks.documents import State
from benchmarks.report import Report, Table, Target
from benchmarks.stock import Stock
from benchmarks.suites.sizes import Sizes

_TEN: Final = 10

AllSeries = Mapping[tuple[str, str], Series]


def run(bench: Bench, report: Report, sizes: Sizes, rounds: int) -> None:
    """Let the contenders take turns at each, on stocks of the same contents."""
    crowd, alone = f"{sizes.callers} callers, {_TEN} codes", f"one caller, {_TEN} codes"
    bulk = f"one caller, {sizes.bulk:,} codes"
    assign, release = f"assign {sizes.changed:,} codes", f"release {sizes.changed:,} codes"
    stock = Stock.make(sizes.stock())
    # Chosen beforehand: the contenders change the same codes, whatever they lent before.
    changes = {
        assign: ("assign", State.ASSIGNED, _picks(stock, State.NEVER_HELD, sizes.changed, rounds)),
        release: ("release", State.NEVER_HELD, _picks(stock, State.HELD, sizes.changed, rounds)),
    }
    with contenders(bench, stock) as both:
        for one in both.values():
            # Connections are made, and plans chosen, before anything is timed.
            one.reserving(_TEN, callers=sizes.callers, requests=4 * sizes.callers)
        reserves = _Reserves(both, rounds)
        reserves.turns(crowd, _TEN, callers=sizes.callers, seconds=sizes.seconds)
        reserves.turns(alone, _TEN, seconds=sizes.lone_seconds)
        reserves.turns(bulk, sizes.bulk, requests=sizes.bulk_calls)
        changed = take_turns(
            "change", sizes.changed, {name: _turn(one, changes) for name, one in both.items()}, rounds=rounds
        )
    _add_reserves(report, f"Reserving: {sizes.codes:,} codes", reserves)
    add_table(
        report,
        f"Assigning and releasing: {sizes.codes:,} codes",
        changed,
        "One request each; the codes lie anywhere in the stock.",
    )
    _add_chart(report, "Codes lent per second", reserves.series)
    _add_chart(report, "Codes assigned and released per second", changed)
    lent = reserves.series
    report.targets += [
        at_least(f"{crowd}, times the textbook", lent[CODESVC, crowd], lent[TEXTBOOK, crowd], 20),
        *_crowd_targets(crowd, reserves.rounds[CODESVC, crowd], right=lent[CODESVC, crowd].right),
        at_least(f"{alone}, times the textbook", lent[CODESVC, alone], lent[TEXTBOOK, alone], 1.5),
        _bulk_target(bulk, reserves.rounds[CODESVC, bulk], right=lent[CODESVC, bulk].right),
        at_least(f"{bulk}, times the textbook", lent[CODESVC, bulk], lent[TEXTBOOK, bulk], 3),
        *(
            at_least(f"{case}, times the textbook", changed[CODESVC, case], changed[TEXTBOOK, case], 3)
            for case in changes
        ),
    ]


class _Reserves:
    """The rounds of every case, with all that was lent in them."""

    def __init__(self, both: Mapping[str, Contender], rounds: int) -> None:
        self._both = both
        self._number = rounds
        self.rounds: dict[tuple[str, str], list[Round]] = {}
        self.series: dict[tuple[str, str], Series] = {}

    def turns(self, case: str, count: int, **how: Any) -> None:
        """Let the contenders reserve by turns: see Contender.reserving for how."""

        def turn(name: str, contender: Contender) -> dict[str, Run]:
            done = contender.reserving(count, **how)
            self.rounds.setdefault((name, case), []).append(done)
            return {case: done.run}

        turns = {name: partial(turn, name, contender) for name, contender in self._both.items()}
        self.series |= take_turns(case, count, turns, rounds=self._number)


Changes = Mapping[str, tuple[str, State, Sequence[Sequence[str]]]]


def _turn(contender: Contender, changes: Changes) -> Callable[[], dict[str, Run]]:
    """Return what changes the codes of the next round each time it is called."""

    def each() -> Iterator[dict[str, Run]]:
        routes = [(case, route, becomes) for case, (route, becomes, _) in changes.items()]
        for picks in zip(*(picks for _, _, picks in changes.values()), strict=True):
            yield {
                case: contender.changing(route, codes, becomes=becomes)
                for (case, route, becomes), codes in zip(routes, picks, strict=True)
            }

    return partial(next, each())


def _picks(stock: Stock, state: State, count: int, rounds: int) -> list[list[str]]:
    return [stock.pick(state, count, turn=number) for number in range(rounds)]


def _add_reserves(report: Report, title: str, reserves: _Reserves) -> None:
    rows = []
    for (name, case), series in reserves.series.items():
        rounds = reserves.rounds[name, case]
        codes = sum(len(one.lent.codes) for one in rounds) or 1
        rows.append(
            [
                f"{case}: {name}",
                *rate_cells(series),
                f"{1000 * median(one.load.percentile(50) for one in rounds):,.1f}",
                f"{1000 * median(one.load.percentile(99) for one in rounds):,.1f}",
                f"{100 * median(one.short for one in rounds):.1f} %",
                f"{sum(one.lent.twice for one in rounds)}",
                f"{sum(one.run.client_cpu for one in rounds) / codes * 1e6:.1f}",
                f"{sum(one.run.server_cpu for one in rounds) / codes * 1e6:.1f}",
            ]
        )
    head = (
        "case: contender",
        "codes/s, median",
        "of all rounds",
        "p50, ms",
        "p99, ms",
        "callers short",
        "lent twice",
        "service µs/code",
        "mongod µs/code",
    )
    note = "Short is who got fewer codes than asked for, though there were enough. What was lent is put back."
    report.tables.append(Table(title, head, rows, note))
    report.figures[title] = list(reserves.series.values())


def _add_chart(report: Report, title: str, table: AllSeries) -> None:
    bars = [Bar(case, name, series.values) for (name, case), series in table.items()]
    report.charts.append(BarChart(title, unit="codes/s", bars=bars))


def _crowd_targets(case: str, rounds: Sequence[Round], *, right: bool) -> Iterator[Target]:
    short, twice = sum(one.lent.short for one in rounds), sum(one.lent.twice for one in rounds)
    yield Target(
        f"{case}: none short, none twice",
        "0 short, 0 twice",
        f"{short} short, {twice} twice",
        right and not short and not twice,
    )
    spread = median(one.load.percentile(99) / one.load.percentile(50) for one in rounds)
    yield Target(
        f"{case}: p99 of the time, of p50",
        "< 5.00",
        f"{spread:.2f}" if right else "N/A",
        spread < 5 if right else None,
    )


def _bulk_target(case: str, rounds: Sequence[Round], *, right: bool) -> Target:
    typical = 1000 * median(reply.seconds for one in rounds for reply in one.load.replies)
    return Target(
        f"{case}: median of the time",
        "< 300 ms",
        f"{typical:.0f} ms" if right else "N/A",
        typical < 300 if right else None,
    )

"""Counts of all three statuses: right after a write, where an index alone has to answer, and once nobody writes."""

import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count
from statistics import median
from typing import Final

from benchmarks.bench import Bench
from benchmarks.callers import Load
from benchmarks.charts import Bar, BarChart, Better
from benchmarks.contenders import CODESVC, TEXTBOOK, Contender, contenders, filled
from benchmarks.report import Report, Table, Target
from benchmarks.stock import SEED, Stock
from benchmarks.suites.sizes import MIXED, Sizes

_PER_ROUND: Final = 3
_SETTLED: Final = 200
_AT_ONCE: Final = 5
_PAUSE: Final = 0.2
_STEADY: Final = 5
_PATIENCE: Final = 30.0
# Numbers that no stock reaches, of the codes that are uploaded to one.
_FIRST_NEW: Final = 1 << 32

Counts = dict[str, int]


@dataclass(slots=True)
class Times:
    """Seconds of one contender's counts, a list for each round; ``right`` until one of them was wrong."""

    rounds: list[list[float]] = field(default_factory=list)
    right: bool = True

    def add(self, load: Load, expected: Counts) -> None:
        """Add counts to the last round."""
        self.right &= all(reply.status == 200 and reply.body == expected for reply in load.replies)
        self.rounds[-1] += [reply.seconds for reply in load.replies]

    @property
    def values(self) -> list[float] | None:
        """Each round's median in milliseconds, or None if any count was wrong."""
        return [1000 * median(one) for one in self.rounds] if self.right and self.rounds else None

    @property
    def typical(self) -> float | None:
        """The median of the rounds in milliseconds, or None."""
        return median(self.values) if self.values else None

    def of(self, base: "Times") -> float | None:
        """Return the median over the rounds of the ratio within each round."""
        if not self.values or not base.values:
            return None
        return median(one / other for one, other in zip(self.values, base.values, strict=True))


def run(bench: Bench, report: Report, sizes: Sizes, rounds: int) -> None:
    """Count in every state of the data, then with nobody writing, then many more codes."""
    textbook, written = {}, {}
    settled = Times()
    for state in sizes.states:
        stock = Stock.make(sizes.stock(state))
        expected = stock.counts()
        with contenders(bench, stock, together=True) as both:
            textbook[state], written[state] = _after_writes(bench, both, expected, rounds)
            if state == MIXED:
                settled = _settled(both[CODESVC], expected, sizes)
        _tell(f"count, {state}: textbook {_ms(textbook[state])}, codesvc {_ms(written[state])} ms")
    _tell(f"count, nobody writes: {_ms(settled)} ms")
    many = _many(bench, sizes)
    _tell(f"count of {sizes.many:,}, nobody writes: {_ms(many)} ms")
    _add_figures(report, sizes, textbook, written, {sizes.codes: settled, sizes.many: many})
    report.targets += [
        _worst(textbook, written),
        _ratio(
            "count while nobody writes, times the textbook", _over(textbook[MIXED], settled), at_least=100
        ),
        _ratio(
            f"count of {sizes.many:,} while nobody writes, of {sizes.codes:,}",
            _over(many, settled),
            at_most=1.5,
        ),
    ]


def _after_writes(
    bench: Bench, both: Mapping[str, Contender], expected: Counts, rounds: int
) -> tuple[Times, Times]:
    """Write and count a few times, and let the textbook count the same codes; return the textbook's times first."""
    textbook, written = Times(), Times()
    numbers = count(_FIRST_NEW)
    for _ in range(rounds):
        written.rounds.append([])
        for _ in range(_PER_ROUND):
            written.right &= _write(bench, both[CODESVC], expected, numbers)
            written.add(both[CODESVC].count(), expected)
        textbook.rounds.append([])
        textbook.add(both[TEXTBOOK].count(), expected)
    return textbook, written


def _write(bench: Bench, contender: Contender, expected: Counts, numbers: Iterator[int]) -> bool:
    """Reserve a code, or upload one where none is available, and change what is to be counted; tell if it worked."""
    if expected["available"]:
        _, lent = contender.reserve(1)
        expected["available"] -= 1
        expected["reserved"] += 1
        return len(lent.codes) == 1
    load = contender.send(
        "POST", "codes", {"fileKey": bench.file(1, first=next(numbers), seed=SEED).key}, requests=1
    )
    expected["available"] += 1
    return bool(load.replies[0].body == {"count": {"in": 1, "inserted": 1, "updated": 0}})


def _settled(contender: Contender, expected: Counts, sizes: Sizes) -> Times:
    """Wait until nobody has written for a while and the time of a count is steady; then count many times."""
    started = time.monotonic()
    waited: list[float] = []
    while True:
        waited.append(contender.count().seconds)
        last, passed = waited[-_STEADY:], time.monotonic() - started
        if (
            passed > sizes.settle and len(last) == _STEADY and max(last) < 2 * min(last)
        ) or passed > _PATIENCE:
            break
        time.sleep(_PAUSE)
    times = Times([[]])
    started = time.monotonic()
    while len(times.rounds[0]) < _SETTLED and time.monotonic() - started < sizes.settled:
        times.add(contender.count(requests=_AT_ONCE), expected)
    return times


def _many(bench: Bench, sizes: Sizes) -> Times:
    """Count many more codes that nobody writes."""
    stock = Stock.make(sizes.stock(codes=sizes.many))
    with filled(bench, stock) as name, bench.service(name) as server:
        return _settled(Contender(CODESVC, bench, server, name, stock), stock.counts(), sizes)


def _add_figures(
    report: Report,
    sizes: Sizes,
    textbook: Mapping[str, Times],
    written: Mapping[str, Times],
    settled: Mapping[int, Times],
) -> None:
    title = f"Counting {sizes.codes:,} codes"
    rows = [
        [f"{state}, after a write", _ms(textbook[state]), _ms(times), _figure(times.of(textbook[state]))]
        for state, times in written.items()
    ]
    for codes, times in settled.items():
        compared = textbook[MIXED] if codes == sizes.codes else None
        rows.append(
            [
                f"{MIXED}, nobody writes" + f", {codes:,} codes" * (compared is None),
                _ms(compared) if compared else "",
                _ms(times),
                _figure(_over(times, compared), digits=4) if compared else "",
            ]
        )
    note = (
        "All three statuses in one request; a write is a reserve of one code, or an upload of one where none is left. "
        "The textbook's counts do not change when nobody writes."
    )
    head = ("state of the codes", "textbook, ms", "codesvc, ms", "of the textbook")
    report.tables.append(Table(title, head, rows, note))
    bars = [
        Bar(state, name, times[state].values)
        for state in sizes.states
        for name, times in ((TEXTBOOK, textbook), (CODESVC, written))
    ]
    bars += [Bar(f"{codes:,}, nobody writes", CODESVC, times.values) for codes, times in settled.items()]
    report.charts.append(BarChart(title, unit="ms", bars=bars, better=Better.LOWER))
    report.figures[title] = {"textbook": textbook, "after a write": written, "nobody writes": settled}


def _worst(textbook: Mapping[str, Times], written: Mapping[str, Times]) -> Target:
    name = "count right after a write, of the textbook's time, in the worst state"
    ratios = {state: times.of(textbook[state]) for state, times in written.items()}
    known = {state: ratio for state, ratio in ratios.items() if ratio is not None}
    if len(known) < len(ratios):
        return Target(name, "<= 0.15", "N/A", None)
    state = max(known, key=lambda one: known[one])
    return Target(name, "<= 0.15", f"{known[state]:.2f} ({state})", known[state] <= 0.15)


def _ratio(
    name: str, ratio: float | None, *, at_least: float | None = None, at_most: float | None = None
) -> Target:
    wanted = f">= {at_least:.2f}" if at_least is not None else f"<= {at_most:.2f}"
    if ratio is None:
        return Target(name, wanted, "N/A", None)
    met = (at_least is None or ratio >= at_least) and (at_most is None or ratio <= at_most)
    return Target(name, wanted, f"{ratio:.2f}", met)


def _over(one: Times, other: Times) -> float | None:
    return one.typical / other.typical if one.typical and other.typical else None


def _figure(ratio: float | None, *, digits: int = 2) -> str:
    return "N/A" if ratio is None else f"{ratio:.{digits}f}"


def _ms(times: Times) -> str:
    return "N/A" if times.typical is None else f"{times.typical:,.2f}"


def _tell(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()

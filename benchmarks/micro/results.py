"""Reads what pytest-benchmark wrote, and makes tables, plots and targets of it."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Final

from benchmarks.charts import Bar, BarChart, Values, short
from benchmarks.report import Report, Table, Target

OURS: Final = "codesvc"
TRACED: Final = "codesvc, 1% of traces"


@dataclass(frozen=True, slots=True)
class Suite:
    """What the report says of a suite; ``base`` is the contender that the others are compared with."""

    title: str
    unit: str
    base: str
    sentence: str


SUITES: Final = {
    "extractor": Suite(
        "Extractor: the first column of a CSV in memory, one core",
        "rows/s",
        "Python csv",
        (
            "The native core alone: the first column of a CSV in memory. codesvc also checks every code and row and "
            "writes BSON, which nobody else does; memchr only looks for the ends of the lines."
        ),
    ),
    "encoder": Suite(
        "Encoder",
        "documents/s",
        "bson.encode",
        (
            "Encoding: codesvc from CSV bytes (documents) or from a batch (upserts), bson.encode from dicts that are "
            "there already; both give the same bytes."
        ),
    ),
    "tokens": Suite(
        "Tokens",
        "tokens/s",
        "PyJWT",
        "Bearer tokens judged, each for the first time or all the time the same one, beside PyJWT alone.",
    ),
    "middleware": Suite(
        "Middleware: requests over 8 keep-alive connections",
        "requests/s",
        "bare aiohttp",
        (
            "Everything around a handler (correlation id, token, metrics, access log, parsing), beside a bare aiohttp "
            "handler with the same reply, over real sockets; client and server with a core each where there are two."
        ),
    ),
    "replies": Suite(
        "Replies to bulk writes",
        "replies/s",
        "bson.decode",
        "The replies of MongoDB to batches of 50,000 (2,000 with --quick), read by codesvc and by bson.decode.",
    ),
}

# Of the requests per second of a bare handler, on a route that asks for a token.
_CHAIN: Final = {OURS: 0.6, TRACED: 0.5}

# Of codesvc to Python's csv module, to memchr, and to the best of the other tools that were right: the table.
_FLOORS: Final = {"narrow": (25, 0.60, 2.5), "wide": (55, 0.38, 5), "quoted": (32, 0.27, 4)}
_TOOLS: Final = ("pyarrow", "polars")

_DATA: Final = {
    "narrow": "one column: a code of 12 characters",
    "wide": "a code of 12 characters, and 200 bytes in 10 further columns",
    "quoted": "as wide, every field quoted; 2% have a newline or a doubled quote in one, a quarter of them in the code",
    "crlf": "as narrow, with CRLF",
}


@dataclass(slots=True)
class Series:
    """One contender in one case: units per second, round by round; ``fault`` says why its result was wrong."""

    amount: int
    fault: str
    rates: list[float] = field(default_factory=list)

    @property
    def values(self) -> Values:
        """The rates, or None if they do not count."""
        return None if self.fault else self.rates


Cases = dict[str, dict[str, Series]]
"""By case, and by contender."""


def add_results(report: Report, path: Path, *, quick: bool) -> None:
    """Add every suite that the file of pytest-benchmark holds."""
    found = _read(path)
    for name, suite in SUITES.items():
        if name in found:
            report.measured.append(suite.sentence)
            report.tables.append(_table(suite, found[name]))
    if "extractor" in found:
        _add_extractor(report, found["extractor"])
    if "middleware" in found:
        suite = SUITES["middleware"]
        report.charts.append(_chart(suite.title, suite.unit, found["middleware"], lambda _: True))
        cases = found["middleware"]["count"]
        report.targets += [
            _target(
                f"requests/s on count, {name}, of a bare handler's", cases[name], cases[suite.base], floor
            )
            for name, floor in _CHAIN.items()
        ]
    report.figures["micro"] = found
    report.settings["micro suites"] = (
        f"{'one round' if quick else '5 rounds'}, contenders taking turns, on one core. The extractor is fed 128 KiB "
        "at a time and makes batches of 50,000; pyarrow and polars have one thread and read no other column."
    )
    report.left_out += [
        f"{tool}, beside the extractor: it is not installed (the extra bench brings it)"
        for tool in _TOOLS
        if find_spec(tool) is None
    ]


def ratio(one: Series, other: Series) -> float | None:
    """Return how many times as fast ``one`` is: the median of the ratios within each round."""
    if one.fault or other.fault:
        return None
    return median(ours / theirs for ours, theirs in zip(one.rates, other.rates, strict=True))


def _read(path: Path) -> dict[str, Cases]:
    suites: dict[str, Cases] = {}
    for one in json.loads(path.read_text(encoding="utf-8"))["benchmarks"]:
        info = one["extra_info"]
        contenders = suites.setdefault(info["suite"], {}).setdefault(info["case"], {})
        series = contenders.setdefault(info["contender"], Series(info["amount"], info["fault"]))
        series.rates.append(info["amount"] / one["stats"]["median"])
    return suites


def _table(suite: Suite, cases: Cases) -> Table:
    rows, faults = [], []
    for case, contenders in cases.items():
        for contender, series in contenders.items():
            times = ratio(series, contenders[suite.base])
            rates = series.values
            rows.append(
                (
                    f"{case}: {contender}",
                    short(median(rates)) if rates else "N/A",
                    "N/A" if times is None else f"{times:.2f}",
                    f"{short(min(rates))} to {short(max(rates))}" if rates else "",
                )
            )
            if series.fault:
                faults.append(f"{case}, {contender}: {series.fault.strip().splitlines()[-1]}.")
    head = ("case: contender", f"{suite.unit}, median", f"times {suite.base}", "of all rounds")
    return Table(suite.title, head, rows, " ".join(faults))


def _add_extractor(report: Report, cases: Cases) -> None:
    unit = SUITES["extractor"].unit
    note = "codesvc checks every row and writes BSON; the tools only find the column; memchr only the lines' ends."
    prefix = f"{OURS}, "
    report.charts += [
        _chart(
            "First column of a CSV in memory, one core",
            unit,
            cases,
            lambda name: not name.startswith(prefix),
            note,
        ),
        _chart("Instruction sets of the extractor", unit, cases, lambda name: name.startswith(prefix)),
    ]
    for case, contenders in cases.items():
        report.data[f"extractor, {case}"] = f"{contenders[OURS].amount:,} records: {_DATA[case]}"
    for case, floors in _FLOORS.items():
        report.targets += _targets(case, cases[case], floors)


def _targets(case: str, contenders: dict[str, Series], floors: tuple[float, float, float]) -> list[Target]:
    others = [("Python csv", "Python csv", floors[0]), ("memchr", "memchr", floors[1])]
    # Without one of them at hand there is nothing to compare with, which is no miss; the report says what is missing.
    tools = [name for name in _TOOLS if name in contenders and not contenders[name].fault]
    if tools:
        best = max(tools, key=lambda name: median(contenders[name].rates))
        others.append((f"the best other tool ({best})", best, floors[2]))
    return [
        _target(f"extractor, {case} file, times {label}", contenders[OURS], contenders[other], floor)
        for label, other, floor in others
    ]


def _target(name: str, ours: Series, theirs: Series, floor: float) -> Target:
    times = ratio(ours, theirs)
    measured = "N/A" if times is None else f"{times:.2f}"
    return Target(name, f">= {floor:g}", measured, None if times is None else times >= floor)


def _chart(title: str, unit: str, cases: Cases, wanted: Callable[[str], bool], note: str = "") -> BarChart:
    bars = [
        Bar(case, contender, series.values)
        for case, contenders in cases.items()
        for contender, series in contenders.items()
        if wanted(contender)
    ]
    return BarChart(title, unit, bars, note=note)

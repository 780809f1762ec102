"""A nearly empty stock: what one reserve has to look through, and whether all of it is lent, once, to whoever comes."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from statistics import mean, median
from typing import Any, Final

from benchmarks.bench import Bench
from benchmarks.callers import Lent, Load
from benchmarks.contenders import CODESVC, Contender, filled
from benchmarks.documents import State
from benchmarks.report import Report, Table, Target
from benchmarks.stock import Stock
from benchmarks.suites.sizes import Sizes

_TEN: Final = 10
_WARM_UP: Final = 2
_PROFILE_BYTES: Final = 64 << 20
_LOOKED_AT: Final = ("keysExamined", "docsExamined")


@dataclass(frozen=True, slots=True)
class _Looked:
    """The keys and the documents that MongoDB examined for each of the reserves."""

    keys: Sequence[int]
    documents: Sequence[int]


def run(bench: Bench, report: Report, sizes: Sizes) -> None:
    """Reserve from the last hundredth of a stock: first a few times under the profiler, then until nothing is left."""
    # Not a multiple of ten: one reserve comes away with the rest.
    available = sizes.codes // 100 - 3
    gone = sizes.codes - available
    numbers = {State.NEVER_HELD: available // 2, State.EXPIRED: available - available // 2}
    numbers |= {State.HELD: gone - gone // 3, State.ASSIGNED: gone // 3}
    stock = Stock.make(numbers)
    with filled(bench, stock) as name, bench.service(name) as server:
        contender = Contender(CODESVC, bench, server, name, stock)
        lent = [contender.reserve(_TEN)[1] for _ in range(_WARM_UP)]
        with _profiler(bench, name) as looked_at:
            totals = [looked_at()]
            for _ in range(sizes.probes):
                lent.append(contender.reserve(_TEN)[1])
                totals.append(looked_at())
        examined = _Looked(*zip(*(_difference(*pair) for pair in pairwise(totals)), strict=True))
        left = available - sum(len(one.codes) for one in lent)
        load, drained = contender.reserve(
            _TEN, callers=sizes.callers, requests=left // _TEN + 1 + sizes.callers
        )
        lent.append(drained)
    right = _right(lent, stock) and bool(sum(examined.keys))
    _add_table(
        report, f"A nearly empty stock: {available:,} of {sizes.codes:,} codes", examined, load, drained
    )
    report.targets += [
        _keys_target("median", median(examined.keys), right=right),
        _keys_target("mean", mean(examined.keys), right=right),
        _drain_target(drained, left, load),
    ]


@contextmanager
def _profiler(bench: Bench, database: str) -> Iterator[Any]:
    """Record every command; yields what tells the keys and documents examined for codesvc so far."""
    place = bench.client[database]
    place.create_collection("system.profile", capped=True, size=_PROFILE_BYTES)
    place.command("profile", 2)
    chosen = {"ns": f"{database}.codes", "appName": "codesvc"}
    sums = {name: {"$sum": f"${name}"} for name in _LOOKED_AT}

    def looked_at() -> tuple[int, ...]:
        found = list(
            place["system.profile"].aggregate([{"$match": chosen}, {"$group": {"_id": None} | sums}])
        )
        return tuple(found[0][name] if found else 0 for name in _LOOKED_AT)

    try:
        yield looked_at
    finally:
        place.command("profile", 0)


def _difference(before: Sequence[int], after: Sequence[int]) -> tuple[int, ...]:
    return tuple(late - early for early, late in zip(before, after, strict=True))


def _right(lent: Sequence[Lent], stock: Stock) -> bool:
    """Whether every available code was lent, and each once."""
    codes = [code for one in lent for code in one.codes]
    return (
        all(one.consistent for one in lent)
        and len(codes) == len(set(codes)) == stock.counts()["available"]
        and stock.all_available(codes)
    )


def _add_table(report: Report, title: str, examined: _Looked, load: Load, drained: Lent) -> None:
    rows = [
        [f"{what} examined by a reserve of {_TEN}", f"{median(of):,.0f}", f"{mean(of):,.0f}", f"{max(of):,}"]
        for what, of in (("keys", examined.keys), ("documents", examined.documents))
    ]
    times = [1000 * reply.seconds for reply in load.replies]
    rows.append(
        ["a reserve while it drains, ms", f"{median(times):.1f}", f"{mean(times):.1f}", f"{max(times):.1f}"]
    )
    note = (
        "The available codes lie scattered among held and assigned ones; half of them were held before. Keys and "
        "documents come from MongoDB's profiler, all commands of a reserve together. Drained at "
        f"{len(drained.codes) / load.seconds:,.0f} codes/s."
    )
    report.tables.append(Table(title, ("figure", "median", "mean", "most"), rows, note))


def _keys_target(kind: str, keys: float, *, right: bool) -> Target:
    return Target(
        f"keys examined by a reserve of {_TEN} from the last hundredth, {kind}",
        "< 2,000",
        f"{keys:,.0f}" if right else "N/A",
        keys < 2000 if right else None,
    )


def _drain_target(drained: Lent, left: int, load: Load) -> Target:
    """Judge a drain: tens as long as there are ten, the rest for one caller, nothing for the others."""
    tens, rest = divmod(left, _TEN)
    wanted = Counter([_TEN] * tens + [rest] + [0] * (len(drained.sizes) - tens - 1))
    odd = (Counter(drained.sizes) - wanted).total()
    missing = left - len(set(drained.codes))
    return Target(
        "the last hundredth, drained in tens by all callers",
        "0 left, 0 twice, 0 split",
        "N/A" if load.failures else f"{missing} left, {drained.twice} twice, {odd} split",
        None if load.failures else not missing and not drained.twice and not odd,
    )

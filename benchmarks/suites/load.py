"""How fast codes come in, from the request to the reply: new ones, known ones, mixed; narrow rows and wide ones."""

from benchmarks.bench import REFERENCE, Bench, Step, add_table, at_least, take_turns
from benchmarks.charts import Bar, BarChart
from benchmarks.data import Profile
from benchmarks.report import Report, Target
from codesvc.settings import Settings

NEW = "new"
KNOWN = "known"
MIXED = "half known"
WIDE = "new, wide"


def run(bench: Bench, report: Report, rounds: int) -> None:
    """Compare codesvc with its readable reference and with the wire ceiling."""
    count = 100_000 if report.quick else 2_000_000
    narrow = bench.file(count)
    wide = bench.file(count, Profile.WIDE, seed=1)
    half = bench.file(count // 2, seed=2)
    mixed = bench.file(count, seed=2, shuffled=True)
    connections = 2 if report.quick else bench.best_connections(narrow)
    ceiling = f"wire ceiling ({connections} connections)"
    sorted_ceiling = "wire ceiling, sorted beforehand"
    sort_codes = Settings().sort_codes
    two_ways = (Step(NEW, narrow), Step(KNOWN, narrow, known=count))
    half_known = (Step("half", half, timed=False), Step(MIXED, mixed, known=count // 2))

    table = take_turns(
        f"load {count:,}",
        count,
        {
            ceiling: lambda: {NEW: bench.ceiling(narrow, connections)},
            sorted_ceiling: lambda: {NEW: bench.ceiling(narrow, 2, sort_codes=sort_codes)},
            "codesvc": lambda: (
                bench.uploads(two_ways) | bench.uploads((Step(WIDE, wide),)) | bench.uploads(half_known)
            ),
            "reference": lambda: bench.uploads(two_ways, REFERENCE) | bench.uploads(half_known, REFERENCE),
        },
        rounds=rounds,
    )
    add_table(
        report,
        f"Load {count:,} codes",
        table,
        "The wire ceiling sends insert commands that were encoded beforehand, in the file's order; sorted beforehand, "
        f"{sort_codes:,} codes at a time, as codesvc sorts on the way. The reference is bulk_write of "
        "UpdateOne(upsert=True), 4 in flight, in the file's order.",
    )
    report.charts.append(
        BarChart(
            f"Codes stored per second, {count:,} codes",
            unit="codes/s",
            bars=[
                Bar(case, contender, table[contender, case].values)
                for case in (NEW, WIDE, KNOWN, MIXED)
                for contender in (ceiling, sorted_ceiling, "codesvc", "reference")
                if (contender, case) in table
            ],
            main=True,
        )
    )
    report.measured.append(
        "Loading: the time from the request to the reply of one upload through HTTP and S3, of new codes in narrow "
        "and in wide rows, of codes that are known already, and of a file of which half are."
    )
    base = table[ceiling, NEW]
    report.targets += [
        at_least("new codes, of the wire ceiling", table["codesvc", NEW], base, 0.90),
        at_least(
            "new codes, of the ceiling sorted beforehand",
            table["codesvc", NEW],
            table[sorted_ceiling, NEW],
            0.90,
        ),
        at_least("new codes in wide rows, of the wire ceiling", table["codesvc", WIDE], base, 0.85),
        at_least("new codes, times the reference", table["codesvc", NEW], table["reference", NEW], 5),
        at_least("known codes, times the reference", table["codesvc", KNOWN], table["reference", KNOWN], 4),
        at_least("half known, times the reference", table["codesvc", MIXED], table["reference", MIXED], 3),
        _cpu_target([one.client_cpu for one in table["codesvc", NEW].runs], count),
    ]


def _cpu_target(seconds: list[float], count: int) -> Target:
    micros = sorted(seconds)[len(seconds) // 2] / count * 1e6
    return Target("CPU of the service per new code", "< 0.60 µs", f"{micros:.2f} µs", micros < 0.6)

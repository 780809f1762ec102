"""What a promise costs: majority and journal against w:1, on a replica set of three processes.

A reply at w:1 comes before the secondaries have done their part of the work. Where all members share the same cores, as
here, that work is only put off: so there is a third contender, w:1 with a majority-acknowledged barrier at the end,
which promises what the default promises.
"""

from benchmarks.bench import Bench, Step, add_table, at_least, take_turns
from benchmarks.report import Report

NEW = "new, three nodes"
_WEAK = {"CODESVC_WRITE_CONCERN": "1", "CODESVC_WRITE_JOURNAL": "false"}


def run(bench: Bench, report: Report, rounds: int) -> None:
    """Compare the default with the weakest setting, and both with the wire ceiling."""
    count = 50_000 if report.quick else 1_000_000
    file = bench.file(count)
    table = take_turns(
        "durability",
        count,
        {
            "wire ceiling, majority": lambda: {NEW: bench.ceiling(file, 2)},
            "wire ceiling, w:1": lambda: {NEW: bench.ceiling(file, 2, concern={"w": 1, "j": False})},
            "codesvc, majority": lambda: bench.uploads((Step(NEW, file),)),
            "codesvc, w:1": lambda: bench.uploads((Step(NEW, file),), _WEAK),
            "codesvc, w:1, then a majority": lambda: bench.uploads((Step(NEW, file),), _WEAK, barrier=True),
        },
        rounds=rounds,
    )
    add_table(report, f"Durability: {count:,} codes, three mongod processes", table)
    safe = table["codesvc, majority", NEW]
    report.targets += [
        at_least("majority and journal, of w:1", safe, table["codesvc, w:1", NEW], 0.9),
        at_least(
            "majority and journal, of w:1 until a majority has it",
            safe,
            table["codesvc, w:1, then a majority", NEW],
            0.9,
        ),
    ]

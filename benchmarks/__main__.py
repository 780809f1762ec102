"""Runs the suites and writes the report."""

import argparse
import shutil
import sys
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Final

from benchmarks import micro
from benchmarks.bench import Bench, single, three
from benchmarks.publish import publish, write
from benchmarks.report import Report
from benchmarks.suites import durability, indexing, inventory, latency, load, overload, scale, tuning

OUT: Final = Path("build/bench")

MICRO: Final = "micro"
Place = Callable[[Path, Path], AbstractContextManager[Bench]]
SUITES: Final[dict[str, tuple[Place, Callable[[Bench, Report, int], None]]]] = {
    "load": (single, load.run),
    "scale": (single, scale.run),
    "latency": (single, latency.run),
    "overload": (single, overload.run),
    "inventory": (single, inventory.run),
    "indexing": (single, indexing.run),
    "tuning": (single, tuning.run),
    "durability": (three, durability.run),
    "tuning-three": (three, partial(tuning.run, nodes=3)),
}


def main() -> int:
    """Run what was asked for; the exit code is 1 when a result was wrong."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="once and small: shows that everything still runs"
    )
    parser.add_argument(
        "--suite", action="append", choices=[MICRO, *SUITES], help="only this one; may be repeated"
    )
    parser.add_argument("--rounds", type=int, help="rounds of each comparison (5; 1 with --quick)")
    parser.add_argument("--out", type=Path, default=OUT, metavar="DIR", help=f"where the report goes ({OUT})")
    parser.add_argument("--publish", action="store_true", help="write the README's plot into docs/ as well")
    options = parser.parse_args()
    report = Report(quick=options.quick)
    rounds = options.rounds or (1 if options.quick else 5)
    for name in options.suite or (MICRO, *SUITES):
        run_suite(name, report, rounds=rounds, out=options.out)
    report.show()
    sys.stdout.write(f"\n{write(report, options.out)}\n")
    if options.publish:
        publish(report, Path("docs"))
    return 1 if any(target.met is None for target in report.targets) else 0


def run_suite(name: str, report: Report, *, rounds: int, out: Path) -> None:
    """Run one suite and add to the report what it found."""
    if name == MICRO:
        micro.run(report, quick=report.quick, out=out)
        return
    place, run = SUITES[name]
    # A new MongoDB for each: none inherits another's cache.
    scratch = Path(tempfile.mkdtemp(prefix="codesvc-bench-"))
    try:
        with place(scratch, out / "files") as bench:
            run(bench, report, rounds)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())

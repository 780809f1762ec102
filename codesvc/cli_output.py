"""How commands run, what they print, and what they exit with."""

import asyncio
import json
import sys
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

from codesvc.models import UploadReport

EXIT_OK: Final = 0
EXIT_FAILURE: Final = 1
EXIT_USAGE: Final = 2
EXIT_INTERRUPTED: Final = 130

Result = TypeVar("Result")


def run(job: Coroutine[Any, Any, Result]) -> Result:
    """Run a job on the quickest event loop there is."""
    try:
        from uvloop import new_event_loop  # noqa: PLC0415
    except ModuleNotFoundError:
        return asyncio.run(job)
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        return runner.run(job)


def print_line(line: str) -> None:
    """Print a line that somebody may be waiting for."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def complain(line: str) -> None:
    """Say on standard error, in one line, what is wrong."""
    one_line = " ".join(line.split())
    sys.stderr.write(f"codesvc: {one_line}\n")


DRY_RUN: Final = "dry run: nothing is stored"


def print_report(report: UploadReport, *, seconds: float, as_json: bool, dry_run: bool = False) -> None:
    """Print what an upload did, or after a dry run, would do."""
    counts = report.counts
    if as_json:
        count = {"in": counts.total, "inserted": counts.inserted, "updated": counts.updated}
        samples = [{"line": row.line, "reason": row.reason} for row in report.invalid_samples]
        invalid = {"count": report.invalid_count, "samples": samples}
        told = {"count": count, "invalid": invalid, "seconds": round(seconds, 3)}
        print_line(json.dumps(told | {"dryRun": True} if dry_run else told))
        return
    if dry_run:
        print_line(DRY_RUN)
    rate = f"{counts.total / max(seconds, 0.001):,.0f} codes/s"
    print_line(f"{counts.total:,} codes in {seconds:.2f} s ({rate})")
    print_line(
        f"{counts.inserted:,} inserted, {counts.updated:,} updated, {report.invalid_count:,} invalid rows"
    )
    for row in report.invalid_samples:
        print_line(f"line {row.line}: {row.reason}")
    if report.invalid_count > len(report.invalid_samples):
        print_line(f"… and {report.invalid_count - len(report.invalid_samples):,} more")

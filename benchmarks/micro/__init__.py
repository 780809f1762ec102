"""The micro suites, run by pytest-benchmark in a process of their own, and read back into the report.

    python -m pytest benchmarks/micro [--quick] [-k tokens] [--benchmark-json=FILE]

runs them by hand. How they take turns is told in conftest.py, what they hold and what they compare in each module.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

from benchmarks.micro.results import add_results
from benchmarks.report import Report, Target

_ROOT: Final = Path(__file__).parents[2]


def run(report: Report, *, quick: bool, out: Path) -> None:
    """Run every micro suite and add its tables, plots and targets to the report.

    pytest's own output and figures are left in ``out`` as micro.log and micro.json. A suite that fails shows as a
    target without a figure.
    """
    out.mkdir(parents=True, exist_ok=True)
    figures, log = (out / "micro.json").resolve(), out / "micro.log"
    figures.unlink(missing_ok=True)
    sys.stderr.write(f"micro suites: {log} tells how far they are\n")
    command = [sys.executable, "-m", "pytest", "benchmarks/micro", "-v", "-p", "no:cacheprovider"]
    command += [f"--benchmark-json={figures}", "--benchmark-quiet", *["--quick"] * quick]
    # Called from a test that pytest-xdist has dealt to a worker, it is no worker itself: one may not measure.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}
    with log.open("wb") as output:
        code = subprocess.run(
            command,
            cwd=_ROOT,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            check=False,
        ).returncode
    if code:
        sys.stderr.write("\n".join(log.read_text(errors="replace").splitlines()[-30:]) + "\n")
        report.targets.append(
            Target("the micro suites run to their end", "yes", f"pytest: exit {code}", None)
        )
    if figures.exists():
        add_results(report, figures, quick=quick)

"""Measures which lines of codesvc/_fastcsv.pyx, and of the C that it includes, the tests of the native core run.

Builds the extension with line tracing (Cython) and with the compiler's counters (gcov), runs tests/native with it,
prints the shares, and ends with 1 where one is below its floor: zero, as one gets when the build was not traced or
another extension was imported, is never passed off as a result.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from instrumented import TESTS, build, environment_of

FLOORS = {
    "codesvc/_fastcsv.pyx": 85.0,
    "_fastcsv_core.h": 85.0,
    "_fastcsv_bson.h": 85.0,
    "_fastcsv_scan.h": 90.0,
}
"""Percent of the lines; what is left are failures of memory."""

_CONFIGURATION = """
[run]
plugins = Cython.Coverage
include = */codesvc/_fastcsv.pyx
core = ctrace
"""


def main() -> int:
    """Build, run, tell."""
    with tempfile.TemporaryDirectory(prefix="codesvc-coverage-") as directory:
        scratch = Path(directory)
        library = build(
            scratch,
            CODESVC_BUILD_TRACE="1",
            CFLAGS="--coverage -fprofile-update=atomic",
            LDFLAGS="--coverage",
        )
        (scratch / "coveragerc").write_text(_CONFIGURATION)
        environment = environment_of(library, COVERAGE_FILE=str(scratch / "coverage"))
        coverage = [sys.executable, "-m", "coverage"]
        rc = f"--rcfile={scratch / 'coveragerc'}"
        pytest = [
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            f"--confcutdir={TESTS}",
            str(TESTS),
            *sys.argv[1:],
        ]
        ended = subprocess.run(
            [*coverage, "run", rc, *pytest], cwd=scratch, env=environment, check=False
        ).returncode
        if ended:
            return ended
        report = subprocess.run(
            [*coverage, "report", rc],
            cwd=scratch,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        shares = dict(re.findall(r"^(\S+\.pyx)\s.*?(\d+(?:\.\d+)?)%", report.stdout, re.MULTILINE))
        shares |= of_c(scratch)
    shown = {name: float(share) for name, share in shares.items()}
    low = [name for name, floor in FLOORS.items() if shown.get(name, 0.0) < floor]
    for name in FLOORS:
        print(f"{name}: {shown.get(name, 0.0):.1f} % of the lines")
    if low:
        print(f"{report.stdout}{report.stderr}below the floor: {', '.join(low)}", file=sys.stderr)
    return 1 if low else 0


def of_c(scratch: Path) -> dict[str, str]:
    """Return the share of each header's lines, as gcov counts them."""
    gcov = shutil.which("gcov")
    counters = list(scratch.rglob("*.gcda"))
    if gcov is None or not counters:
        return {}
    told = subprocess.run(
        [gcov, "-n", *map(os.fspath, counters)], cwd=scratch, capture_output=True, text=True, check=True
    ).stdout
    found = re.findall(r"File '(?:.*/)?(_fastcsv_\w+\.h)'\nLines executed:([\d.]+)%", told)
    return dict(found)


if __name__ == "__main__":
    sys.exit(main())

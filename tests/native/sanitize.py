"""Runs the tests of the native core under AddressSanitizer and UndefinedBehaviorSanitizer.

Builds an instrumented extension in a temporary directory, beside the one in use, and runs pytest on tests/native with
it. Ends with pytest's exit code, which after a finding is not 0 either; the finding stands in the output. Where the
compiler has no sanitizers it says so in one line, and ends with 0. Arguments go to pytest.
"""

import os
import shlex
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from instrumented import ROOT, TESTS, build, environment_of

SANITIZERS = "-fsanitize=address,undefined"


def main() -> int:
    compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")
    with tempfile.TemporaryDirectory(prefix="codesvc-sanitize-") as scratch:
        runtimes = sanitizer_runtimes(compiler, Path(scratch))
        if runtimes is None:
            print(f"Not run: {compiler[0]} has no AddressSanitizer and UndefinedBehaviorSanitizer")
            return 0
        library = build(Path(scratch), CODESVC_BUILD_SANITIZE="1")
        return run_tests(library, runtimes)


def sanitizer_runtimes(compiler: list[str], scratch: Path) -> list[str] | None:
    """The libraries that must be loaded before a Python that knows nothing of them; None without sanitizers."""
    source = scratch / "probe.c"
    source.write_text("int main(void) { return 0; }\n")
    try:
        subprocess.run(
            [*compiler, SANITIZERS, str(source), "-o", str(scratch / "probe")],
            check=True,
            capture_output=True,
        )
        subprocess.run([scratch / "probe"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    runtimes = []
    for name in ("libasan.so", "libubsan.so"):
        found = subprocess.run(
            [*compiler, f"-print-file-name={name}"], check=True, capture_output=True, text=True
        ).stdout.strip()
        if not Path(found).is_absolute():
            return None
        runtimes.append(found)
    return runtimes


def run_tests(library: Path, runtimes: list[str]) -> int:
    environment = environment_of(
        library,
        ASAN_OPTIONS="detect_leaks=0:strict_string_checks=1",  # the interpreter keeps what it has to its end
        UBSAN_OPTIONS="print_stacktrace=1",
        LD_PRELOAD=" ".join(runtimes),
        PYTHONMALLOC="malloc",  # Python's own allocator would hide where an object ends
    )
    # Without the conftest of all tests: what it starts is not what is looked at here. Without capture: a finding ends
    # the process, and what pytest had captured, the finding itself, would be lost.
    pytest = [sys.executable, "-m", "pytest", "-q", "--capture=no", "-p", "no:cacheprovider"]
    command = [*pytest, f"--confcutdir={TESTS}", str(TESTS)]
    return subprocess.run([*command, *sys.argv[1:]], cwd=ROOT, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())

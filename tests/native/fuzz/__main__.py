"""Fuzzes the C parts of the native core: coverage-guided (LLVM's libFuzzer), under both sanitizers.

    python tests/native/fuzz SECONDS

Each harness starts from its corpus, tests/native/fuzz/*.zip, which is kept because of what it reaches; what is
found beyond it goes to build/fuzz, and what breaks a harness is left there too. Ends with 0 if nothing broke and the
harnesses reached code at all. Where there is no clang with libFuzzer it says so in one line, and ends with 0.

    python tests/native/fuzz SECONDS --keep

adds what was found to the corpus, as little of it as reaches the same.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

ROOT = Path(__file__).parents[3]
HERE = Path(__file__).parent
OUT = ROOT / "build" / "fuzz"
HARNESSES = ("extractor", "replies")
MAX_LENGTH = 4096
FLAGS = (
    "-std=c11",
    "-O1",
    "-g",
    "-fno-omit-frame-pointer",
    "-fsanitize=fuzzer,address,undefined",
    "-fno-sanitize-recover=all",
    # What a harness does not call.
    "-Wno-unused-function",
)
_COVERED = re.compile(r"cov: (\d+)")
_LEAST = {"extractor": 500, "replies": 100}
"""Edges that the corpus alone reaches; far fewer mean that the code was not instrumented, or is not run."""


def main() -> int:
    """Build, run, tell."""
    parser = argparse.ArgumentParser(prog="fuzz")
    parser.add_argument("seconds", type=int)
    parser.add_argument("--keep", action="store_true")
    options = parser.parse_args()
    OUT.mkdir(parents=True, exist_ok=True)
    clang = find_clang()
    if clang is None:
        print("Not fuzzed: there is no clang with libFuzzer: apt-get install clang libclang-rt-dev")
        return 0
    for name in HARNESSES:
        (OUT / name).mkdir(exist_ok=True)
        with ZipFile(archive(name)) as kept:
            kept.extractall(corpus(name))
        subprocess.run(
            [clang, *FLAGS, "-I", ROOT / "codesvc", HERE / f"{name}.c", "-o", binary(name)], check=True
        )
    with ThreadPoolExecutor(len(HARNESSES)) as pool:
        broken = [
            name
            for name, right in zip(
                HARNESSES, pool.map(lambda name: run(name, options.seconds), HARNESSES), strict=True
            )
            if not right
        ]
    if options.keep and not broken:
        for name in HARNESSES:
            keep(name)
    return 1 if broken else 0


def find_clang() -> str | None:
    """Return a clang that brings libFuzzer along, which is a package of its own; None where there is none."""
    probe = OUT / "probe"
    probe.with_suffix(".c").write_text("int LLVMFuzzerTestOneInput(const char *i, long n) { return 0; }\n")
    for name in ("clang", *(f"clang-{version}" for version in range(22, 12, -1))):
        found = shutil.which(name)
        if found is not None:
            command: list[str | Path] = [found, *FLAGS, probe.with_suffix(".c"), "-o", probe]
            if subprocess.run(command, capture_output=True, check=False).returncode == 0:
                return found
    return None


def binary(name: str) -> Path:
    """Return where a harness is built to."""
    return OUT / f"fuzz-{name}"


def corpus(name: str) -> Path:
    """Return where the corpus of a harness is unpacked to."""
    return OUT / f"{name}-corpus"


def archive(name: str) -> Path:
    """Return where it is kept."""
    return HERE / f"{name}.zip"


def run(name: str, seconds: int) -> bool:
    """Fuzz for so many seconds; tell whether nothing broke."""
    command: list[str | Path] = [
        binary(name),
        OUT / name,
        corpus(name),
        f"-max_total_time={seconds}",
        f"-max_len={MAX_LENGTH}",
        f"-artifact_prefix={OUT}/{name}-",
        "-timeout=20",
        "-rss_limit_mb=2048",
        "-print_final_stats=1",
    ]
    environment = {**os.environ, "UBSAN_OPTIONS": "print_stacktrace=1"}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, errors="replace", check=False
    )
    covered = max((int(found) for found in _COVERED.findall(done.stderr)), default=0)
    units = re.search(r"stat::number_of_executed_units:\s*(\d+)", done.stderr)
    told = f"{name}: {units[1] if units else '?'} inputs, {covered} edges reached"
    if done.returncode:
        print(f"{done.stderr[-8000:]}\n{told}; it broke", file=sys.stderr)
        return False
    if covered < _LEAST[name]:
        print(f"{told}: at least {_LEAST[name]} were expected, so this says nothing", file=sys.stderr)
        return False
    print(f"{told}, nothing broke")
    return True


def keep(name: str) -> None:
    """Keep as corpus, of it and of what was found, as little as reaches all that they reach."""
    least = OUT / f"{name}-least"
    shutil.rmtree(least, ignore_errors=True)
    least.mkdir()
    subprocess.run(
        [binary(name), "-merge=1", f"-max_len={MAX_LENGTH}", least, corpus(name), OUT / name],
        check=True,
        capture_output=True,
    )
    inputs = sorted(least.iterdir())
    with ZipFile(archive(name), "w", ZIP_DEFLATED) as kept:
        for one in inputs:
            # Without a date: the same inputs make the same archive.
            kept.writestr(ZipInfo(one.name), one.read_bytes(), ZIP_DEFLATED)
    print(f"{name}: {len(inputs)} inputs in the corpus")


if __name__ == "__main__":
    sys.exit(main())

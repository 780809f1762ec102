"""``make soak``: callers, uploads and crashes for as long as one likes, and what it came to."""

import argparse
import os
import random
import sys
import tempfile
from pathlib import Path

from .run import Options, soak


def main() -> int:
    parser = argparse.ArgumentParser(prog="make soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=1800, help="how long callers are busy")
    parser.add_argument("--callers", type=int, default=64)
    parser.add_argument("--services", type=int, default=3, help="processes of codesvc serve")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    parser.add_argument("--directory", type=Path, help="keeps data and logs here, instead of nowhere")
    arguments = parser.parse_args()
    # What leads to this package would lead the child processes to it as well.
    os.environ.pop("PYTHONPATH", None)
    options = Options(
        seconds=arguments.seconds,
        callers=arguments.callers,
        services=arguments.services,
        seed=arguments.seed,
    )
    print(f"seed {options.seed}", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(prefix="codesvc-soak-") as scratch:
        directory = arguments.directory or Path(scratch)
        directory.mkdir(parents=True, exist_ok=True)
        verdict = soak(directory, options)
    print(verdict.table(), flush=True)
    return int(verdict.failed)


if __name__ == "__main__":
    sys.exit(main())

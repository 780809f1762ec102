"""Builds the package with an instrumented extension beside the one in use, and sees to it that it is imported."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]
TESTS = Path(__file__).parent


def build(scratch: Path, **switches: str) -> Path:
    """Build the whole package in ``scratch``: an extension alone would not be found beside the one in use.

    From a copy of the sources, since Cython writes beside them, and what it writes depends on the switches.
    """
    ignored = shutil.ignore_patterns("*.so", "_fastcsv.c", "__pycache__")
    shutil.copytree(ROOT / "codesvc", scratch / "codesvc", ignore=ignored)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, scratch / name)
    command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace", f"--build-temp={scratch / 'temp'}"]
    environment = {**os.environ, **switches}
    built = subprocess.run(command, cwd=scratch, env=environment, capture_output=True, text=True, check=False)
    if built.returncode != 0:
        sys.exit(f"{built.stdout}{built.stderr}The instrumented build failed")
    return scratch


def environment_of(library: Path, **variables: str) -> Mapping[str, str]:
    """Return the environment in which the extension of ``library`` is imported; end the process if it is not."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(library),
        "PYTHONSAFEPATH": "1",  # not the package in the current directory
        **variables,
    }
    imported = subprocess.run(
        [sys.executable, "-c", "import codesvc._fastcsv as core; print(core.__file__)"],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if not imported.stdout.startswith(str(library)):
        sys.exit(
            f"{imported.stdout}{imported.stderr}The instrumented extension is not the one that is imported"
        )
    return environment

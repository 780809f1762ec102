"""What the figures were measured on."""

import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from codesvc import __version__

_ROOT: Final = Path(__file__).parents[1]
_PACKAGES: Final = (
    *("pymongo", "motor", "aiohttp", "aiobotocore", "orjson", "uvloop", "pyjwt", "cython", "numpy"),
    *("pyarrow", "polars", "pytest-benchmark", "matplotlib"),
)


def environment() -> dict[str, Any]:
    """Tell the machine, its load at this moment, and the versions of everything that matters."""
    cpu = next(
        (line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
        platform.machine(),
    )
    memory = next(
        (int(line.split()[1]) for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), 0
    )
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "processor": cpu,
        "cores": len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count(),
        "memoryGB": round(memory / 2**20, 1),
        "loadAtStart": round(os.getloadavg()[0], 2),
        "system": platform.platform(),
        "python": platform.python_version(),
        "packages": {"codesvc": __version__} | dict(_versions()),
    }


def _versions() -> list[tuple[str, str]]:
    found = []
    for name in _PACKAGES:
        try:
            found.append((name, version(name)))
        except PackageNotFoundError:
            continue
    return found


def _commit() -> str:
    """Name the commit, with a + where files differ from it; empty outside of a clone."""
    try:
        commit, changes = (
            subprocess.run(
                ["git", *arguments], cwd=_ROOT, capture_output=True, text=True, check=True, timeout=10
            ).stdout
            for arguments in (
                ("rev-parse", "--short=12", "HEAD"),
                ("status", "--porcelain", "--untracked-files=no"),
            )
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return commit.strip() + "+" * bool(changes.strip())


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []

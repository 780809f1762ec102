"""How many cores this process may use."""

import math
import os
from pathlib import Path
from typing import Final

_CGROUPS: Final = Path("/sys/fs/cgroup")
_MEMBERSHIP: Final = Path("/proc/self/cgroup")


def available_cores(*, cgroups: Path = _CGROUPS, membership: Path = _MEMBERSHIP) -> int:
    """Return the number of whole cores that affinity and the CPU quota of the control groups leave, at least 1."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        cores = os.cpu_count() or 1
    return max(1, math.floor(min(cores, _quota(cgroups, membership))))


def _quota(cgroups: Path, membership: Path) -> float:
    """Return the least quota, in cores, of this process's control group and all above it; infinite without one.

    A container sees its own group as the root, so that the root counts as well (cgroups(7), version 2: cpu.max;
    version 1: cpu.cfs_quota_us and cpu.cfs_period_us).
    """
    least = math.inf
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return least
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and "cpu" not in controllers.split(","):
            continue
        mount = cgroups / controllers if controllers else cgroups
        if controllers and not mount.is_dir():
            mount = cgroups / "cpu"
        group = mount / path.strip("/")
        for directory in (group, *group.parents):
            if not directory.is_relative_to(mount):
                break
            least = min(least, _of_group(directory))
    return least


def _of_group(directory: Path) -> float:
    for read in (_version_2, _version_1):
        try:
            quota, period = read(directory)
        except (OSError, ValueError):
            continue
        if quota > 0 and period > 0:
            return quota / period
    return math.inf


def _version_2(directory: Path) -> tuple[int, int]:
    quota, period = (directory / "cpu.max").read_text().split()
    return int(quota), int(period)


def _version_1(directory: Path) -> tuple[int, int]:
    quota = (directory / "cpu.cfs_quota_us").read_text()
    return int(quota), int((directory / "cpu.cfs_period_us").read_text())

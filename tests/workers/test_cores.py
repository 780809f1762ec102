"""How many cores there are to use, by affinity and by control groups of both versions."""

import os
from pathlib import Path

import pytest

from codesvc.workers.cores import available_cores


@pytest.fixture(autouse=True)
def affinity(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of 16 cores."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)


def cores(tmp_path: Path, membership: str, **files: str) -> int:
    """Return the cores where these files, their names with ``__`` for a slash, are in the control groups."""
    for name, text in files.items():
        path = tmp_path / "cgroup" / name.replace("__", "/").replace("cpu_max", "cpu.max")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "self").write_text(membership)
    return available_cores(cgroups=tmp_path / "cgroup", membership=tmp_path / "self")


def test_without_control_groups_all_that_affinity_leaves(tmp_path: Path) -> None:
    assert available_cores(cgroups=tmp_path / "none", membership=tmp_path / "none") == 16


@pytest.mark.parametrize(
    ("quota", "expected"),
    [("max 100000", 16), ("200000 100000", 2), ("250000 100000", 2), ("50000 100000", 1), ("nonsense", 16)],
)
def test_the_quota_of_a_container(tmp_path: Path, quota: str, expected: int) -> None:
    assert cores(tmp_path, "0::/\n", cpu_max=quota) == expected


def test_the_least_quota_of_all_groups_above_counts(tmp_path: Path) -> None:
    files = {"a__cpu_max": "300000 100000", "a__b__cpu_max": "600000 100000", "c__cpu_max": "100000 100000"}
    assert cores(tmp_path, "0::/a/b\n", **files) == 3


def test_version_1(tmp_path: Path) -> None:
    directory = tmp_path / "cgroup" / "cpu,cpuacct" / "pod"
    directory.mkdir(parents=True)
    (directory / "cpu.cfs_quota_us").write_text("400000\n")
    (directory / "cpu.cfs_period_us").write_text("100000\n")
    assert cores(tmp_path, "5:memory:/x\n4:cpu,cpuacct:/pod\n") == 4
    (directory / "cpu.cfs_quota_us").write_text("-1\n")
    assert cores(tmp_path, "4:cpu,cpuacct:/pod\n") == 16

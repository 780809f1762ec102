"""A short soak: 64 callers, two uploaders and two services keep their word while one mongod after another is killed."""

from pathlib import Path

import pytest

from .run import Options, soak


@pytest.mark.timeout(240)
def test_nothing_that_was_acknowledged_is_lost_or_lent_twice(tmp_path: Path) -> None:
    verdict = soak(tmp_path, Options(seconds=22, services=2))
    assert not verdict.failed, f"{verdict.samples}\n{verdict.table()}"

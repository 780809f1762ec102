"""Commands that are sent again are counted: the driver's own second tries, and codesvc's."""

from typing import Any

import pytest
from datastore.rig import CAMPAIGN, Rig, numbered
from datastore.shown import shown

from codesvc.models import CodeType, Counts, UploadCounts

from .conftest import FailPoint

NAME = "datastore_retries_total"

FAULTS: list[dict[str, Any]] = [{"closeConnection": True}, {"errorCode": 91}]


async def stocked(rig: Rig) -> None:
    await rig.upload(numbered(20))
    assert shown(rig, NAME) == {(): 0}


@pytest.mark.parametrize("fault", FAULTS, ids=["connection", "shutdown"])
async def test_the_drivers_own_second_try(rig: Rig, failing: FailPoint, fault: dict[str, Any]) -> None:
    await stocked(rig)
    with failing("find", times=1, **fault):
        assert len(await rig.reserve(3)) == 3
    assert shown(rig, NAME) == {(): 1}


@pytest.mark.parametrize("fault", FAULTS, ids=["connection", "shutdown"])
async def test_a_bulk_write_that_is_sent_again(rig: Rig, failing: FailPoint, fault: dict[str, Any]) -> None:
    await stocked(rig)
    with failing("insert", times=2, **fault):
        assert await rig.upload(numbered(10, prefix="N-")) == UploadCounts(inserted=10)
    assert shown(rig, NAME) == {(): 2}


async def test_a_count_that_is_made_again(rig: Rig, failing: FailPoint) -> None:
    await stocked(rig)
    with failing("aggregate", times=4, closeConnection=True):
        assert await rig.inventory.count(CAMPAIGN, CodeType.TM) == Counts(20, 0, 0)
    assert shown(rig, NAME)[()] >= 1


async def test_what_is_not_sent_again_does_not_count(rig: Rig, failing: FailPoint) -> None:
    await stocked(rig)
    with failing("find", times=1, errorCode=8000), pytest.raises(Exception, match="refused"):
        await rig.reserve(3)
    assert len(await rig.reserve(3)) == 3
    assert shown(rig, NAME) == {(): 0}

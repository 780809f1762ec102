"""Every command tells the server how long it may take, so that what nobody waits for any more ends there, too."""

import asyncio
from datetime import timedelta
from typing import Any, Final

import pytest

from codesvc.models import CodeType, Status

from .rig import CAMPAIGN, Commands, Rigs, numbered

# Commands of the driver's own, which take no time and know no limit, and the next page of an answer, whose time is
# that of the command which began it.
_OWN: Final = {"hello", "isMaster", "ping", "endSessions", "killCursors", "getMore", "saslStart", "buildInfo"}
_LIMIT: Final = 8_000


def name_of(command: dict[str, Any]) -> str:
    return next(iter(command))


@pytest.mark.parametrize("driver_name", ["motor", "pymongo"])
@pytest.mark.parametrize("strategy", ["insert-first", "upsert"])
async def test_every_command_has_one(rigs: Rigs, driver_name: str, strategy: str) -> None:
    commands = Commands()
    rig = await rigs(
        mongo_driver=driver_name, write_strategy=strategy, mongo_timeout=_LIMIT / 1000, listeners=[commands]
    )
    codes = numbered(200)
    await rig.upload(codes, batch_size=50)
    await rig.upload([*codes, *numbered(50, prefix="NEW-")], batch_size=50)
    await rig.inventory.count(CAMPAIGN, CodeType.TM)
    await rig.inventory.count_status(CAMPAIGN, CodeType.TM, Status.AVAILABLE)
    held = await rig.reserve(20)
    await asyncio.gather(*(rig.reserve(5) for _ in range(4)))
    lent = held
    await rig.inventory.assign(CAMPAIGN, lent[:10])
    await rig.inventory.release(CAMPAIGN, lent[10:])
    await rig.inventory.find(CAMPAIGN, lent[0])
    rig.clock.now += timedelta(days=2)
    await rig.reserve(250)
    assert await rig.reserve(1) == []
    told = {name_of(one) for one in commands.sent}
    assert {"insert", "update", "find", "aggregate"} & told
    assert len(told) > 4, told
    without = {name_of(one) for one in commands.sent if name_of(one) not in _OWN and "maxTimeMS" not in one}
    assert without == set()
    limits = [one["maxTimeMS"] for one in commands.sent if "maxTimeMS" in one]
    assert all(0 < limit <= _LIMIT for limit in limits)

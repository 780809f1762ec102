"""What the driver tells of its connections, and of the members of a replica set."""

import asyncio
import time
from datetime import datetime, timedelta
from typing import Any

import pymongo
import pytest
from pymongo import monitoring
from pymongo.hello import Hello
from pymongo.server_description import ServerDescription
from pymongo.topology_description import TOPOLOGY_TYPE, TopologyDescription

from codesvc.datastore.watch import Watch, replica_lag
from codesvc.errors import CodesvcError
from codesvc.models import CodeType

from .rig import CAMPAIGN, Rig, Rigs, numbered
from .shown import shown

CHECKOUTS = "datastore_pool_checkout_seconds_count"


async def slow(rig: Rig) -> None:
    """Find a code, which takes the server a second, whatever time limit the settings give."""
    with pymongo.timeout(10):
        await rig.mongo.codes.find_one({"$where": "sleep(1000) || true"})


async def test_connections_are_counted(rig: Rig) -> None:
    await rig.upload(numbered(10))
    before = shown(rig, CHECKOUTS)[("ok",)]
    await asyncio.gather(*(rig.inventory.count(CAMPAIGN, CodeType.TM) for _ in range(4)))
    assert shown(rig, CHECKOUTS)[("ok",)] > before
    connections = shown(rig, "datastore_pool_connections")
    assert connections[("open",)] >= 1
    assert connections[("in_use",)] == 0
    assert shown(rig, "datastore_pool_max_connections") == {(): 100}
    assert shown(rig, CHECKOUTS)[("failed",)] == 0
    assert shown(rig, "datastore_retries_total") == {(): 0}


async def test_a_connection_is_in_use_while_a_command_runs(rig: Rig) -> None:
    await rig.upload(["A"])
    asking = asyncio.ensure_future(slow(rig))
    deadline = time.monotonic() + 10
    while not shown(rig, "datastore_pool_connections")[("in_use",)]:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)
    await asking
    assert shown(rig, "datastore_pool_connections")[("in_use",)] == 0


async def test_a_pool_that_is_used_up(rigs: Rigs, driver: str) -> None:
    uri = f"{rigs.uri}&maxPoolSize=1"
    rig = await rigs(uri=uri, mongo_driver=driver, mongo_timeout=0.6)
    await rig.upload(["A"])
    assert shown(rig, "datastore_pool_max_connections") == {(): 1}
    # Longer than others may wait for the one connection.
    asking = asyncio.ensure_future(slow(rig))
    await asyncio.sleep(0.1)
    with pytest.raises(CodesvcError):
        await rig.inventory.count(CAMPAIGN, CodeType.TM)
    await asyncio.gather(asking, return_exceptions=True)
    assert shown(rig, CHECKOUTS)[("failed",)] >= 1


async def test_there_are_no_connections_after_the_end(rigs: Rigs, driver: str) -> None:
    rig = await rigs(mongo_driver=driver)
    await rig.upload(["A"])
    await rig.store.close()
    await rig.mongo.close()
    assert set(shown(rig, "datastore_pool_connections").values()) == {0}


def member(port: int, *, heard: float, written: float | None, primary: bool = False) -> ServerDescription:
    """Describe a member as the driver does: ``written`` seconds after some instant, ``heard`` of at some time."""
    reply: dict[str, Any] = {"ok": 1, "setName": "rs", "hosts": ["a:1", "a:2", "a:3"], "maxWireVersion": 17}
    reply["isWritablePrimary" if primary else "secondary"] = True
    if written is not None:
        reply["lastWrite"] = {"lastWriteDate": datetime(2026, 3, 1) + timedelta(seconds=written)}  # noqa: DTZ001
    described = ServerDescription(("a", port), Hello(reply), 0.001)
    described._last_update_time = heard
    return described


def lag(*members: ServerDescription) -> float | None:
    known = {one.address: one for one in members}
    return replica_lag(
        TopologyDescription(TOPOLOGY_TYPE.ReplicaSetWithPrimary, known, "rs", None, None, None)
    )


def test_replica_lag() -> None:
    primary = member(1, heard=100, written=50, primary=True)
    assert lag(primary) == 0
    assert lag(primary, member(2, heard=100, written=50), member(3, heard=100, written=38)) == 12
    # The secondary was heard of 4 s later: by then the primary had written for 4 s more.
    assert lag(primary, member(2, heard=104, written=50)) == 4
    assert lag(primary, member(2, heard=96, written=46)) == 0
    assert lag(primary, member(2, heard=100, written=60)) == 0
    assert lag(primary, member(2, heard=100, written=None)) == 0
    assert lag(member(2, heard=100, written=50)) is None


async def test_the_lag_of_a_set_of_one_is_nothing(rig: Rig) -> None:
    await rig.upload(["A"])
    assert shown(rig, "datastore_replica_lag_seconds") == {(): 0}


def test_all_events_of_both_kinds_are_heard() -> None:
    for kind in (monitoring.ConnectionPoolListener, monitoring.CommandListener):
        for name in vars(kind):
            if not name.startswith("_"):
                assert name in vars(Watch), name

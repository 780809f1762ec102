"""Reservations whose commands fail or whose replies are lost: nothing is lent twice, and little is lost."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest
from datastore.rig import CAMPAIGN, Documents, Rig, Rigs, document, numbered, stored

from codesvc.errors import DatabaseRefusedError, DatabaseUnavailableError
from codesvc.models import ChangeCounts, CodeType, Counts, Status

from .conftest import FailPoint
from .proxy import Proxy, command

pytestmark = pytest.mark.usefixtures("short_lived_transactions")


@pytest.fixture(params=["motor", "pymongo"])
async def proxied(request: pytest.FixtureRequest, rigs: Rigs, proxy_uri: str) -> Rig:
    """A rig behind the proxy, which knows its server."""
    rig = await rigs(uri=proxy_uri, mongo_driver=request.param, mongo_timeout=3)
    await rig.store.batch_limits()
    return rig


class Lent:
    """What callers were told, and how often they were told that there is no telling."""

    def __init__(self) -> None:
        self.codes: list[str] = []
        self.unknown = 0

    async def drain(self, rig: Rig, count: int) -> None:
        """Reserve until nothing is left; a caller who gets an error asks again."""
        while True:
            try:
                reservation = await rig.inventory.reserve(CAMPAIGN, CodeType.TM, count)
            except DatabaseUnavailableError:
                self.unknown += 1
                continue
            if not reservation.codes:
                return
            self.codes += [one.code for one in reservation.codes]


def nothing_is_lent_twice(lent: Lent, documents: Documents, codes: list[str]) -> None:
    assert len(lent.codes) == len(set(lent.codes))
    held = stored(documents, reserveId={"$exists": True})
    assert sorted(held) == codes
    assert set(lent.codes) <= set(held)


@pytest.mark.parametrize("name", ["find", "update", "commitTransaction"])
async def test_a_reply_that_is_lost(proxied: Rig, proxy: Proxy, documents: Documents, name: str) -> None:
    codes = numbered(200)
    documents.insert_many([document(code) for code in codes])
    lent = Lent()
    proxy.lose_replies(command(name), times=3)
    await asyncio.gather(*(lent.drain(proxied, 5) for _ in range(6)))
    assert proxy.swallowed == 3
    nothing_is_lent_twice(lent, documents, codes)
    # The driver and the store try again by themselves.
    assert lent.unknown == 0
    assert sorted(lent.codes) == codes


async def test_a_command_that_is_carried_out_long_after_its_connection_was_reset(
    proxied: Rig, proxy: Proxy, documents: Documents
) -> None:
    documents.insert_many([document(code) for code in numbered(400)])
    proxy.delay_request(command("update"))
    found = await asyncio.gather(*(proxied.reserve(5) for _ in range(6)))
    await proxy.deliver()
    # It holds nothing but what somebody was told.
    told = sorted(code for codes in found for code in codes)
    assert len(told) == 30
    assert sorted(stored(documents, reserveId={"$exists": True})) == told


async def test_connections_that_are_reset_again_and_again(
    proxied: Rig, proxy: Proxy, documents: Documents
) -> None:
    codes = numbered(400)
    documents.insert_many([document(code) for code in codes])
    lent = Lent()
    draining = asyncio.gather(*(lent.drain(proxied, 5) for _ in range(6)))
    while not draining.done():
        await asyncio.sleep(0.1)
        proxy.reset()
    await draining
    nothing_is_lent_twice(lent, documents, codes)
    # Only what somebody was told nothing of may be held by nobody.
    assert len(codes) - len(lent.codes) <= 5 * lent.unknown


@pytest.mark.parametrize("code", [189, 112, 251])
@pytest.mark.parametrize("name", ["find", "update", "commitTransaction"])
async def test_a_command_that_is_refused_for_the_moment(
    rigs: Rigs, documents: Documents, failing: FailPoint, name: str, code: int
) -> None:
    rig = await rigs(mongo_driver="pymongo", mongo_timeout=5)
    codes = numbered(60)
    documents.insert_many([document(code) for code in codes])
    lent = Lent()
    labels = {"errorLabels": ["TransientTransactionError"]} if code == 251 else {}
    with failing(name, times=2, errorCode=code, **labels):
        await asyncio.gather(*(lent.drain(rig, 5) for _ in range(2)))
    nothing_is_lent_twice(lent, documents, codes)
    assert len(codes) - len(lent.codes) <= 5 * lent.unknown


@pytest.mark.parametrize("code", [189, 246])
async def test_a_count_that_has_to_be_taken_again(
    rigs: Rigs, documents: Documents, failing: FailPoint, code: int
) -> None:
    # 246: the collection or an index of it is younger than the snapshot, as just after the first upload.
    rig = await rigs(mongo_driver="pymongo", mongo_timeout=1)
    documents.insert_many([document(code) for code in numbered(3)])
    labels = ["TransientTransactionError"]
    with failing("aggregate", times=2, errorCode=code, errorLabels=labels):
        assert await rig.inventory.count(CAMPAIGN, CodeType.TM) == Counts(3, 0, 0)
    with failing("aggregate", times=10_000, errorCode=code, errorLabels=labels):
        with pytest.raises(DatabaseUnavailableError):
            await rig.inventory.count(CAMPAIGN, CodeType.TM)
        with pytest.raises(DatabaseUnavailableError):
            await rig.inventory.count_status(CAMPAIGN, CodeType.TM, Status.AVAILABLE)


async def test_a_count_that_cannot_be_kept(rigs: Rigs, documents: Documents, failing: FailPoint) -> None:
    rig = await rigs(mongo_timeout=3)
    documents.insert_many([document(code) for code in numbered(30)])
    await rig.reserve(5)
    with failing("update", times=10_000, errorCode=14031):
        for _ in range(3):
            assert await rig.inventory.count(CAMPAIGN, CodeType.TM) == Counts(25, 5, 0)
    stuck = {"blockConnection": True, "blockTimeMS": 1_500}
    with failing("update", times=10_000, **stuck):
        assert await rig.inventory.count(CAMPAIGN, CodeType.TM) == Counts(25, 5, 0)


async def test_a_commit_that_is_refused_for_good(
    rigs: Rigs, documents: Documents, failing: FailPoint
) -> None:
    rig = await rigs()
    documents.insert_many([document(code) for code in numbered(10)])
    # More than there are: only the last ones are held in a transaction.
    with failing("commitTransaction", times=1, errorCode=8), pytest.raises(DatabaseRefusedError):
        await rig.reserve(11)
    lent = Lent()
    await lent.drain(rig, 5)
    assert len(lent.codes) == len(set(lent.codes)) == 10


async def test_a_commit_without_its_write_concern(
    rigs: Rigs, documents: Documents, failing: FailPoint
) -> None:
    # Not known to be durable: asked again, until it is or the time is up.
    rig = await rigs(mongo_timeout=1)
    documents.insert_many([document(code) for code in numbered(10)])
    unmet = {"code": 64, "errmsg": "waiting for replication timed out", "errInfo": {"wtimeout": True}}
    with failing("commitTransaction", times=3, writeConcernError=unmet):
        assert len(await rig.reserve(11)) == 10
    await rig.inventory.release(CAMPAIGN, numbered(10))
    with (
        failing("commitTransaction", times=10_000, writeConcernError=unmet),
        pytest.raises(DatabaseUnavailableError),
    ):
        await rig.reserve(11)
    assert await rig.reserve(5) == []


async def test_a_hold_without_its_write_concern(rigs: Rigs, documents: Documents, failing: FailPoint) -> None:
    rig = await rigs(mongo_timeout=1)
    documents.insert_many([document(code) for code in numbered(10)])
    unmet = {"code": 64, "errmsg": "waiting for replication timed out", "errInfo": {"wtimeout": True}}
    with failing("update", writeConcernError=unmet):
        # Read back, and shown to be durable by a later write.
        assert len(await rig.reserve(5)) == 5
    with (
        failing("update", "findAndModify", times=10_000, writeConcernError=unmet),
        pytest.raises(DatabaseUnavailableError),
    ):
        await rig.reserve(5)
    assert await rig.reserve(5) == []


Change = Callable[[Rig, list[str]], Awaitable[ChangeCounts]]


@pytest.mark.parametrize("name", ["assign", "release"])
async def test_a_change_whose_reply_is_lost_may_be_sent_again(
    proxied: Rig, proxy: Proxy, documents: Documents, name: str
) -> None:
    codes = numbered(12_000)
    now = proxied.clock()
    documents.insert_many([document(code, reserved=now, reserve_id="r") for code in codes])
    change: Any = getattr(proxied.inventory, name)
    proxy.lose_replies(command("update"))
    with suppress(DatabaseUnavailableError):
        await change(CAMPAIGN, codes)
    assert proxy.swallowed == 1
    again = await change(CAMPAIGN, codes)
    assert again.total == 12_000
    field = "date.assigned" if name == "assign" else "date.reserved"
    assert documents.count_documents({field: {"$exists": True}}) == (12_000 if name == "assign" else 0)
    assert (await change(CAMPAIGN, codes)).updated == 0

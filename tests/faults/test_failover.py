"""A replica set of three real processes whose primary steps down, or is killed, in the middle of things."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, suppress
from itertools import product
from typing import Any

import pytest
from datastore.rig import CAMPAIGN, Documents, Rig, Rigs, document, numbered, stored
from pymongo import MongoClient
from pymongo.errors import AutoReconnect

from codesvc.errors import DatabaseUnavailableError
from codesvc.local.mongod import ReplicaSet, start_replica_set
from codesvc.models import CodeType, Counts, Status, UploadCounts

FILE = numbered(12_000) + numbered(3_000)
KNOWN = numbered(4_000, start=6_000)

# PyMongo's asyncio client forgets the socket with which it is just connecting when it is closed.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReplicaSet]:
    """Three members, on their own ports."""
    with start_replica_set(tmp_path_factory.mktemp("set")) as running:
        yield running


@pytest.fixture
def replica_set(members: ReplicaSet) -> ReplicaSet:
    """The set, whole again after what the test before did to it."""
    for member in members.members:
        if not member.running:
            member.launch()
    members.wait_until_whole()
    return members


@pytest.fixture
def documents(replica_set: ReplicaSet) -> Iterator[Documents]:
    """The collection of codes, empty, seen from outside."""
    with MongoClient[dict[str, Any]](replica_set.uri, tz_aware=True, w="majority") as client:
        client["test"]["codes"].delete_many({})
        yield client["test"]["codes"]


@pytest.fixture
async def rigs(replica_set: ReplicaSet, documents: Documents) -> AsyncIterator[Rigs]:
    """Open rigs on the set."""
    async with AsyncExitStack() as stack:
        yield Rigs(replica_set.uri, "test", stack)


def step_down(replica_set: ReplicaSet) -> None:
    with replica_set.primary().client() as client, suppress(AutoReconnect):
        client.admin.command("replSetStepDown", 3, secondaryCatchUpPeriodSecs=2)


def kill(replica_set: ReplicaSet) -> None:
    replica_set.primary().kill()


UPLOADS = [
    pytest.param("pymongo", "insert-first", step_down, id="insert-first-pymongo-step-down"),
    pytest.param("motor", "insert-first", kill, id="insert-first-motor-kill"),
    pytest.param("motor", "upsert", step_down, id="upsert-motor-step-down"),
]


async def when(condition: Any, action: Any, *arguments: Any) -> None:
    """Do it in another thread as soon as the condition holds."""
    while not condition():  # noqa: ASYNC110 - conditions on a clock, and on a list
        await asyncio.sleep(0.005)
    await asyncio.to_thread(action, *arguments)


@pytest.mark.parametrize(("driver", "strategy", "fail"), UPLOADS)
async def test_an_upload(
    rigs: Rigs, replica_set: ReplicaSet, documents: Documents, driver: str, strategy: str, fail: Any
) -> None:
    rig = await rigs(
        mongo_driver=driver, write_strategy=strategy, batch_size=200, write_concurrency=4, mongo_timeout=28
    )
    await rig.upload(KNOWN)
    start = time.monotonic()
    uploading = asyncio.create_task(rig.upload(FILE, code_type=CodeType.EXTERNAL))
    await when(lambda: time.monotonic() > start + 0.1, fail, replica_set)
    assert not uploading.done()
    # Another primary is elected long before the time is up, so here there is no need of a second try.
    assert await uploading == UploadCounts(inserted=8_000, updated=7_000)
    assert await rig.inventory.count(CAMPAIGN, CodeType.EXTERNAL) == Counts(12_000, 0, 0)


@pytest.mark.parametrize("fail", [step_down, kill])
async def test_the_life_of_codes(
    rigs: Rigs, replica_set: ReplicaSet, documents: Documents, fail: Any
) -> None:
    codes = numbered(2_000)
    documents.insert_many([document(code) for code in codes])
    services = [await rigs(mongo_driver=driver, mongo_timeout=15) for driver in ("motor", "pymongo")]
    lent: list[str] = []
    totals = set()
    unknown = 0
    drained = asyncio.Event()

    async def drain(rig: Rig) -> None:
        nonlocal unknown
        while True:
            try:
                taken = await rig.reserve(10)
            except DatabaseUnavailableError:
                unknown += 1
                continue
            if not taken:
                return
            lent.extend(taken)
            with suppress(DatabaseUnavailableError):
                await rig.inventory.assign(CAMPAIGN, taken)

    async def watch(rig: Rig) -> None:
        while not drained.is_set():
            with suppress(DatabaseUnavailableError):
                counts = await rig.inventory.count(CAMPAIGN, CodeType.TM)
                totals.add(counts.available + counts.reserved + counts.assigned)

    watching = [asyncio.create_task(watch(rig)) for rig in services]
    draining = [asyncio.create_task(drain(rig)) for rig in services for _ in range(4)]
    await when(lambda: len(lent) > 500, fail, replica_set)
    await asyncio.gather(*draining)
    drained.set()
    await asyncio.gather(*watching)
    assert len(lent) == len(set(lent))
    assert sorted(stored(documents, reserveId={"$exists": True})) == codes
    # Held by nobody are at most those that a caller was told nothing of.
    assert len(codes) - len(lent) <= 10 * unknown
    assert totals == {2_000}
    # To assign is safe to ask for again.
    for rig in services:
        await rig.inventory.assign(CAMPAIGN, codes)
    assert await services[0].inventory.count(CAMPAIGN, CodeType.TM) == Counts(0, 0, 2_000)


async def test_an_export(rigs: Rigs, replica_set: ReplicaSet, documents: Documents) -> None:
    """It goes on at the new primary, with every code once, while others are uploaded."""
    codes = numbered(20_000)
    documents.insert_many([document(code) for code in codes])
    services = [await rigs(mongo_driver=driver, mongo_timeout=28) for driver in ("motor", "pymongo")]

    async def export(rig: Rig, status: Status | None, begun: asyncio.Event) -> list[str]:
        found: list[str] = []
        # As to a reader who takes his time, so that the failover comes in the middle.
        async for some in rig.inventory.export(CAMPAIGN, code_type=CodeType.TM, status=status):
            found += [one.code for one in some]
            begun.set()
            await asyncio.sleep(0.2)
        return found

    statuses = (None, Status.AVAILABLE)
    begun = [asyncio.Event() for _ in range(4)]
    exports = [
        asyncio.create_task(export(rig, status, event))
        for (rig, status), event in zip(product(services, statuses), begun, strict=True)
    ]
    await when(lambda: all(one.is_set() for one in begun), step_down, replica_set)
    assert not any(one.done() for one in exports)
    # Not one that is listed: of a type of its own.
    await services[0].upload(numbered(500, prefix="BETWEEN-"), code_type=CodeType.EXTERNAL)
    for found in await asyncio.gather(*exports):
        assert found == codes

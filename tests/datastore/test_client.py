"""The connection: what the settings decide, whatever the connection string says besides."""

import asyncio
import time
from typing import Any

import pytest

from codesvc.datastore.indexes import ensure_indexes
from codesvc.errors import DatabaseRefusedError
from codesvc.local.process import free_port
from codesvc.models import ChangeCounts, CodeType, Counts, UploadCounts

from .rig import CAMPAIGN, INDEX_NAMES, Commands, Documents, Rig, Rigs, numbered, opened


@pytest.mark.parametrize(
    "options",
    [
        "readPreference=secondaryPreferred&readConcernLevel=majority",
        "w=0",
        "w=0&journal=false&retryWrites=false&retryReads=false",
        "readConcernLevel=linearizable",
        "timeoutMS=60000&maxPoolSize=3&compressors=zlib&zlibCompressionLevel=1",
    ],
)
async def test_options_of_the_connection_string_do_not_change_what_is_promised(
    rigs: Rigs, driver: str, options: str
) -> None:
    rig = await rigs(uri=f"{rigs.uri}&{options}", mongo_driver=driver, batch_size=100)
    codes = numbered(300)
    assert await rig.upload(codes) == UploadCounts(inserted=300)
    assert await rig.upload(codes) == UploadCounts(updated=300)
    replies = await asyncio.gather(*(rig.reserve(10) for _ in range(8)))
    assert len({code for reply in replies for code in reply}) == 80
    assert await rig.inventory.assign(CAMPAIGN, replies[0]) == ChangeCounts(10, 10)
    assert await rig.inventory.release(CAMPAIGN, replies[1]) == ChangeCounts(10, 10)
    assert await rig.inventory.count(CAMPAIGN, CodeType.TM) == Counts(230, 60, 10)


@pytest.mark.parametrize("strategy", ["insert-first", "upsert"])
@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, {"w": "majority", "j": True}),
        ({"write_concern": 1, "write_journal": False}, {"w": 1, "j": False}),
    ],
)
async def test_every_write_asks_for_the_write_concern_of_the_settings(
    rigs: Rigs, driver: str, strategy: str, settings: dict[str, Any], expected: dict[str, Any]
) -> None:
    commands = Commands()
    rig = await rigs(mongo_driver=driver, write_strategy=strategy, listeners=[commands], **settings)
    await rig.upload(["A", "B"], code_type=CodeType.EXTERNAL)
    await rig.upload(["A", "B"])
    [code] = await rig.reserve(1)
    await rig.inventory.release(CAMPAIGN, [code])
    await rig.inventory.assign(CAMPAIGN, [code])
    writes = [
        one
        for one in commands.sent
        # A transaction's statements have that of its commit.
        if "commitTransaction" in one
        or ("codes" in {one.get("insert"), str(one.get("update"))} and "autocommit" not in one)
    ]
    assert len(writes) >= 5
    assert [one.get("writeConcern") for one in writes] == [expected] * len(writes)
    # What processes tell each other is never rolled back.
    told = [one for one in commands.sent if "campaigns" in {str(one.get("update")), one.get("findAndModify")}]
    assert told
    assert all(one["writeConcern"] == {"w": "majority", "j": True} for one in told)


async def test_ready(rig: Rig) -> None:
    assert await rig.mongo.ping(2.0)


# PyMongo's asyncio client forgets the socket with which it is just connecting when it is closed.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_not_ready_while_nothing_listens(driver: str) -> None:
    async with opened(f"mongodb://127.0.0.1:{free_port()}", "test", mongo_driver=driver) as rig:
        start = time.monotonic()
        assert not await rig.mongo.ping(0.5)
        assert time.monotonic() - start < 1.5


async def test_an_index_of_that_name_with_other_keys_is_told(rig: Rig, documents: Documents) -> None:
    documents.drop()
    documents.create_index([("type", 1)], name="codes_by_status")
    try:
        with pytest.raises(DatabaseRefusedError):
            await ensure_indexes(rig.mongo, timeout=5)
    finally:
        documents.drop()


async def test_indexes_are_made_once(rig: Rig, documents: Documents) -> None:
    documents.drop()
    for _ in range(2):
        names = await ensure_indexes(rig.mongo, timeout=None)
        assert names == INDEX_NAMES
    assert set(documents.index_information()) == {"_id_", "codes_by_status", "codes_by_reservation"}

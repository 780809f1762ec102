"""Batches as large as the server, the driver and the replies allow."""

import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from pymongo import MongoClient

from codesvc._fastcsv import Extractor
from codesvc.datastore.wire import Wire
from codesvc.models import UploadCounts

from .rig import Documents, Rig, Rigs, csv, numbered

# Waiting for the journal is not what these are about.
QUICK: dict[str, Any] = {"write_concern": 1, "write_journal": False}
LONGEST: dict[str, Any] = {"campaign_id": "c" * 128, "batch_size": 100_000}


@pytest.fixture
def database_name(mongo: MongoClient[dict[str, Any]]) -> Iterator[str]:
    """A database of its own for each test: to drop it is quicker than to empty a collection of so many bytes."""
    name = f"test-{uuid.uuid4().hex}"
    yield name
    mongo.drop_database(name)


def longest(count: int, *, start: int = 0) -> list[str]:
    return [f"{number:0256d}" for number in range(start, start + count)]


async def test_the_limits_are_those_of_hello(rig: Rig, mongo: MongoClient[dict[str, Any]]) -> None:
    hello = mongo.admin.command("hello")
    codes, payload = await rig.store.batch_limits()
    assert codes == hello["maxWriteBatchSize"]
    # Room for the rest of the command, within the size of a document.
    assert hello["maxBsonObjectSize"] - 65_536 < payload < hello["maxBsonObjectSize"]


async def test_the_longest_codes_of_the_longest_campaign(rigs: Rigs, documents: Documents) -> None:
    # 500 bytes a document and 1,000 an error: each message meets its limit long before it holds 100,000 codes.
    rig = await rigs(write_concurrency=1, mongo_timeout=28, **QUICK)
    assert await rig.upload(longest(33_000), **LONGEST) == UploadCounts(inserted=33_000)
    assert await rig.upload(longest(33_000), **LONGEST) == UploadCounts(updated=33_000)
    mixed = longest(2_000, start=32_000) + longest(1_000, start=40_000)
    assert await rig.upload(mixed, **LONGEST) == UploadCounts(inserted=2_000, updated=1_000)
    assert documents.estimated_document_count() == 35_000


async def test_upserts_of_the_longest_codes(rigs: Rigs) -> None:
    # The reply names every code that was inserted.
    rig = await rigs(mongo_driver="pymongo", mongo_timeout=28, **QUICK)
    codes, payload = await rig.store.batch_limits()
    extractor = Extractor(
        campaign_id="c" * 128,
        code_type="external",
        saved_ms=1,
        max_batch_codes=codes,
        max_batch_bytes=payload,
    )
    [batch, *_] = extractor.feed(csv(longest(33_000)))
    reply = await Wire(rig.mongo, rig.telemetry, raw=True).update(batch.upserts())
    assert reply.upserted == reply.n == len(batch) > 30_000


async def test_a_batch_of_short_codes_that_are_all_known(rigs: Rigs) -> None:
    # Their errors are larger in proportion, so here the estimate of a reply's size is the tightest.
    rig = await rigs(write_concurrency=1, mongo_timeout=28, **QUICK)
    codes = numbered(60_000, prefix="")
    for counts in (UploadCounts(inserted=60_000), UploadCounts(updated=60_000)):
        assert await rig.upload(codes, campaign_id="c", batch_size=100_000) == counts

"""The indexes and their version: made once, changed beside traffic, and never by a version that does not know them."""

from typing import Any

import pytest
from pymongo import MongoClient

from codesvc.datastore import indexes
from codesvc.datastore.indexes import VERSION, migrate
from codesvc.errors import DatabaseRefusedError

from .rig import INDEX_NAMES, Documents, Rig, numbered

OLD = "codes_by_what_was_asked_before"


@pytest.fixture
def schema(mongo: MongoClient[dict[str, Any]], database_name: str) -> Documents:
    """The collection that keeps the version."""
    collection = mongo[database_name]["schema"]
    collection.drop()
    return collection


async def test_the_version_is_noted(rig: Rig, schema: Documents) -> None:
    for _ in range(2):
        assert await migrate(rig.mongo) == INDEX_NAMES
        assert list(schema.find()) == [{"_id": "indexes", "version": VERSION}]


async def test_an_old_index_stays_until_nobody_needs_it(
    rig: Rig, documents: Documents, schema: Documents, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents.create_index([("type", 1)], name=OLD)
    monkeypatch.setattr(indexes, "OBSOLETE", (OLD,))
    await rig.upload(numbered(10))
    await migrate(rig.mongo)
    assert OLD in documents.index_information()
    for _ in range(2):
        await migrate(rig.mongo, drop_obsolete=True)
        assert set(documents.index_information()) == {"_id_", "codes_by_status", "codes_by_reservation"}
    assert len(await rig.reserve(10)) == 10


async def test_a_newer_version_is_left_alone(rig: Rig, documents: Documents, schema: Documents) -> None:
    documents.create_index([("type", 1)], name="codes_by_what_is_asked_next")
    schema.insert_one({"_id": "indexes", "version": VERSION + 1})
    with pytest.raises(DatabaseRefusedError, match=f"version {VERSION + 1}"):
        await migrate(rig.mongo, drop_obsolete=True)
    await migrate(rig.mongo)
    assert schema.find_one() == {"_id": "indexes", "version": VERSION + 1}
    assert "codes_by_what_is_asked_next" in documents.index_information()
    documents.drop_index("codes_by_what_is_asked_next")


async def test_an_index_of_the_same_name_with_other_keys(rig: Rig, documents: Documents) -> None:
    documents.drop()
    documents.create_index([("type", 1)], name="codes_by_status")
    try:
        with pytest.raises(DatabaseRefusedError):
            await migrate(rig.mongo)
    finally:
        documents.drop()
        await migrate(rig.mongo)

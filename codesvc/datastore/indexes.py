"""The indexes, created or verified by name, and their version in the database.

A change of the indexes of a collection that is in use takes three steps, each of which runs beside traffic:

1. Raise ``VERSION``, put the new index into ``INDEXES`` and the name of the one that it replaces into ``OBSOLETE``.
   Processes of the old version go on with the old index meanwhile, and do not touch the new one.
2. Deploy: ``codesvc indexes``, or the first process that serves, builds the new index (MongoDB builds it beside reads
   and writes) and then notes the version.
3. When no process of the old version is left: ``codesvc indexes --drop-obsolete``.
"""

import asyncio
from typing import Any, Final

import pymongo

from codesvc.datastore.client import CAMPAIGNS, COLLECTION, IDEMPOTENCY_KEYS, INVALID_ROWS, UPLOADS, Mongo
from codesvc.datastore.failures import translated
from codesvc.errors import DatabaseRefusedError

VERSION: Final = 4
"""Of what stands below; 1 had no index of campaigns, 2 none of uploads, 3 none of reservations and of
idempotency keys."""

BY_STATUS: Final = "codes_by_status"
"""Answers every count and finds what a reserve may lend."""

BY_RESERVATION: Final = "codes_by_reservation"
"""Finds what a reservation holds."""

INDEXES: Final[dict[str, list[tuple[str, int]]]] = {
    BY_STATUS: [
        ("_id.campaign_id", 1),
        ("type", 1),
        ("date.assigned", 1),
        ("date.reserved", 1),
        ("_id.code", 1),
    ],
    BY_RESERVATION: [("reserveId", 1)],
}
"""Of the collection of codes: the keys alone."""

_SPARSE: Final = frozenset({BY_RESERVATION})
"""They hold no code that was never held, so that an upload does not touch them."""

CODE_INDEXES: Final[dict[str, dict[str, Any]]] = {
    name: {"key": dict(keys)} | ({"sparse": True} if name in _SPARSE else {})
    for name, keys in INDEXES.items()
}
"""Of the collection of codes: the keys and the options, as MongoDB takes them."""

CAMPAIGN_INDEXES: Final[dict[str, list[tuple[str, int]]]] = {
    "campaigns_by_writer": [("writers.id", 1)],
    "campaigns_by_touch": [("touched", -1)],
}
"""Of the collection of campaigns: which of them are written to, and which was last."""

UPLOAD_INDEXES: Final[dict[str, dict[str, Any]]] = {
    "uploads_by_campaign": {"key": {"campaignId": 1, "_id": -1}},
    # Codes tell which upload saved them by this instant.
    "uploads_by_saved": {
        "key": {"campaignId": 1, "saved": 1},
        "unique": True,
        "partialFilterExpression": {"saved": {"$exists": True}},
    },
    "uploads_by_lease": {"key": {"leaseUntil": 1}, "sparse": True},
    "uploads_by_expiry": {"key": {"expireAt": 1}, "expireAfterSeconds": 0},
}
"""Of the records of uploads: a campaign's, the latest first; those that are under way; and those that can go."""

INVALID_ROW_INDEXES: Final[dict[str, dict[str, Any]]] = {
    "invalid_rows_by_expiry": {"key": {"expireAt": 1}, "expireAfterSeconds": 0},
}
"""Of the invalid rows that uploads have met: those that can go."""

KEY_INDEXES: Final[dict[str, dict[str, Any]]] = {
    "idempotency_keys_by_expiry": {"key": {"expireAt": 1}, "expireAfterSeconds": 0},
}
"""Of the replies that are kept for requests with an Idempotency-Key: those that can go."""

OBSOLETE: Final[tuple[str, ...]] = ()
"""Indexes of codes that an earlier version needed."""

_ALL: Final[dict[str, dict[str, dict[str, Any]]]] = {
    COLLECTION: CODE_INDEXES,
    CAMPAIGNS: {name: {"key": dict(keys)} for name, keys in CAMPAIGN_INDEXES.items()},
    UPLOADS: UPLOAD_INDEXES,
    INVALID_ROWS: INVALID_ROW_INDEXES,
    IDEMPOTENCY_KEYS: KEY_INDEXES,
}

_INDEX_NOT_FOUND: Final = 27
_SCHEMA: Final = "schema"


async def ensure_indexes(mongo: Mongo, *, timeout: float | None) -> list[str]:  # noqa: ASYNC109 - the driver's own
    """Create the indexes that are missing and verify the others; return their names.

    An index over millions of codes takes minutes to build: ``timeout`` is in seconds, None for no limit. Where all of
    them exist, the server answers at once.

    Raises:
        DatabaseRefusedError: an index of one of the names exists, with other keys.
        DatabaseUnavailableError: MongoDB does not answer.

    """
    with translated(), pymongo.timeout(timeout):
        await asyncio.gather(
            *(
                mongo.database.command(
                    {
                        "createIndexes": collection,
                        "indexes": [{"name": name, **options} for name, options in indexes.items()],
                    }
                )
                for collection, indexes in _ALL.items()
            )
        )
    return [name for indexes in _ALL.values() for name in indexes]


async def migrate(mongo: Mongo, *, drop_obsolete: bool = False) -> list[str]:
    """Create or verify the indexes, and note their version; return their names.

    ``drop_obsolete`` drops those that only an earlier version needs.

    Raises:
        DatabaseRefusedError: see ensure_indexes; or the database has been migrated by a newer version of codesvc, whose
            obsolete indexes this one does not know.
        DatabaseUnavailableError: MongoDB does not answer.

    """
    with translated():
        noted = await _version(mongo)
        if noted > VERSION and drop_obsolete:
            raise DatabaseRefusedError(
                f"The indexes are of version {noted}, and this codesvc knows version {VERSION}."
            )
        names = await ensure_indexes(mongo, timeout=None)
        await mongo.database[_SCHEMA].update_one(
            {"_id": "indexes"}, {"$max": {"version": VERSION}}, upsert=True
        )
        if drop_obsolete:
            for name in OBSOLETE:
                await _drop(mongo, name)
    return names


async def _version(mongo: Mongo) -> int:
    found: dict[str, Any] | None = await mongo.database[_SCHEMA].find_one({"_id": "indexes"})
    return 0 if found is None else int(found["version"])


async def _drop(mongo: Mongo, name: str) -> None:
    try:
        await mongo.database.command({"dropIndexes": COLLECTION, "index": name})
    except pymongo.errors.OperationFailure as error:
        if error.code != _INDEX_NOT_FOUND:
            raise

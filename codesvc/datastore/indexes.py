"""The indexes of the collection of codes, created or verified by name."""

from typing import Final

import pymongo

from codesvc.datastore.client import Mongo
from codesvc.datastore.failures import translated

BY_STATUS: Final = "codes_by_status"
"""Answers every count and finds what a reserve may lend: see codesvc/datastore/codes.py."""

INDEXES: Final[dict[str, list[tuple[str, int]]]] = {
    BY_STATUS: [
        ("_id.campaign_id", 1),
        ("type", 1),
        ("date.assigned", 1),
        ("date.reserved", 1),
        ("_id.code", 1),
    ],
}


async def ensure_indexes(mongo: Mongo, *, timeout: float | None) -> list[str]:  # noqa: ASYNC109 - the driver's own
    """Create the indexes that are missing and verify the others; return their names.

    An index over millions of codes takes minutes to build: ``timeout`` is in seconds, None for no limit. Where all of
    them exist, the server answers at once.

    Raises:
        DatabaseRefusedError: an index of one of the names exists, with other keys.
        DatabaseUnavailableError: MongoDB does not answer.

    """
    command = {
        "createIndexes": mongo.codes.name,
        "indexes": [{"name": name, "key": dict(keys)} for name, keys in INDEXES.items()],
    }
    with translated(), pymongo.timeout(timeout):
        await mongo.database.command(command)
    return list(INDEXES)

"""How the batches of an upload are written: two strategies, the same counts.

``upsert`` is the readable reference: one ``UpdateOne(upsert=True)`` per code through the driver's ``bulk_write``.

``insert-first`` is the fast one. A new code costs the server least as an insert, a known one as an upsert; so a batch
is inserted, and the codes that were there already are upserted afterwards. Where nearly all of a batch was known, the
following batches are upserted at once (an insert that fails costs the server four times an upsert that matches),
until one shows many new codes again. Which way a batch goes changes its speed and never its counts: the server tells
for each statement whether it inserted.
"""

from datetime import datetime
from typing import Final, Protocol

from pymongo import UpdateOne

from codesvc._fastcsv import Batch, WriteReply
from codesvc.datastore.client import Mongo
from codesvc.datastore.failures import database_error, translated
from codesvc.datastore.telemetry import Telemetry
from codesvc.datastore.wire import Wire
from codesvc.errors import DatabaseRefusedError
from codesvc.models import CodeType, UploadCounts

# Shares of a batch that were known already: from the upper one on, the next batches are upserted; below the lower
# one, inserted again. Upserts of new codes cost the server about twice an insert, inserts of known ones four times an
# upsert, which puts the break-even near a third; the gap between the two keeps mixed files from flapping.
_MOSTLY_KNOWN: Final = 0.4
_MOSTLY_NEW: Final = 0.2

# Two uploads that insert the same code at the same moment can make an upsert fail with E11000 once; the next try
# finds the code. More than a few rounds would mean a unique index that is not codesvc's.
_DUPLICATE_ROUNDS: Final = 5
_DUPLICATE_KEY: Final = 11000


class BatchWriter(Protocol):
    """Writes the batches of one upload; several calls may be under way at once."""

    async def write(self, batch: Batch) -> UploadCounts:
        """Store a batch and tell how many of its codes were new."""


class UpsertWriter:
    """The reference: the driver's own bulk write."""

    def __init__(
        self, mongo: Mongo, telemetry: Telemetry, campaign_id: str, code_type: CodeType, saved: datetime
    ) -> None:
        self._mongo = mongo
        self._telemetry = telemetry
        self._campaign_id = campaign_id
        self._change = {"$set": {"type": code_type.value}, "$setOnInsert": {"date": {"saved": saved}}}

    async def write(self, batch: Batch) -> UploadCounts:
        """Upsert every code of the batch."""
        requests = [
            UpdateOne({"_id": {"campaign_id": self._campaign_id, "code": code}}, self._change, upsert=True)
            for code in batch.codes()
        ]
        with self._telemetry.datastore_operation("bulk_write", codes=len(batch)), translated():
            result = await self._mongo.codes.bulk_write(requests, ordered=False)
        return UploadCounts(inserted=result.upserted_count, updated=result.matched_count)


class InsertFirstWriter:
    """Encoded batches over the wire: inserts for new codes, upserts for known ones."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._upsert_next = False

    async def write(self, batch: Batch) -> UploadCounts:
        """Insert the batch and upsert what was known, or upsert it all."""
        counts = await (self._upsert(batch, None) if self._upsert_next else self._insert(batch))
        known = counts.updated / counts.total
        self._upsert_next = known > (_MOSTLY_NEW if self._upsert_next else _MOSTLY_KNOWN)
        return counts

    async def _insert(self, batch: Batch) -> UploadCounts:
        counts = UploadCounts()
        known: list[int] = []
        start = 0
        for documents, size in await self._wire.runs(batch.documents, len(batch)):
            reply = await self._wire.insert(documents)
            _check_sum(reply, size)
            counts += UploadCounts(inserted=reply.n)
            known += [start + index for index in reply.duplicates] if start else reply.duplicates
            start += size
        return counts + await self._upsert(batch, known) if known else counts

    async def _upsert(self, batch: Batch, indexes: list[int] | None) -> UploadCounts:
        counts = UploadCounts()
        pending = len(batch) if indexes is None else len(indexes)
        for _ in range(_DUPLICATE_ROUNDS):
            reply = await self._wire.update(batch.upserts(indexes))
            _check_sum(reply, pending)
            counts += UploadCounts(inserted=reply.upserted, updated=reply.n - reply.upserted)
            if not reply.duplicates:
                return counts
            indexes = reply.duplicates if indexes is None else [indexes[i] for i in reply.duplicates]
            pending = len(indexes)
        raise database_error(_DUPLICATE_KEY)


def _check_sum(reply: WriteReply, statements: int) -> None:
    """Refuse to report counts that do not add up; no known server sends such a reply."""
    if reply.n + len(reply.duplicates) != statements:
        raise DatabaseRefusedError("The database's reply to a bulk write does not account for every code.")

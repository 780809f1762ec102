"""How the batches of an upload are written: two strategies, the same counts.

``upsert`` is the readable reference: one ``UpdateOne(upsert=True)`` per code through the driver's ``bulk_write``.

``insert-first`` is the fast one: a new code costs the server least as an insert, a known one as a look at the index of
``_id`` (codesvc/datastore/looks.py). Every batch begins with a look at a few hundred neighbouring codes. Where next to
none is known, all are inserted, and the few that turn out to be there already (E11000) are upserted. Otherwise the rest
is looked up as well, and the unknown are inserted. Which way a batch goes changes its speed and never its counts:

* A code counts as inserted when the server says that it was inserted, and as updated when it was seen.
* What is seen is as durable as what is written: looks have read concern ``majority``.
* A code that was seen already has the type that it should have, if the campaign holds no other type a moment later; one
  step in the index ``codes_by_status`` tells. If it does, documents are read with their types, and codes of another are
  upserted.
"""

from datetime import datetime
from typing import Final, Protocol

from pymongo import UpdateOne

from codesvc._fastcsv import NOT_SEEN, SEEN, SEEN_OTHER_TYPE, Batch, WriteReply
from codesvc.datastore.client import Mongo
from codesvc.datastore.failures import database_error, translated
from codesvc.datastore.looks import Looks
from codesvc.datastore.telemetry import Telemetry
from codesvc.datastore.wire import Wire
from codesvc.errors import DatabaseRefusedError
from codesvc.models import CodeType, UploadCounts

# Two uploads that insert the same code at the same moment can make an upsert fail with E11000 once; the next try
# finds the code. More than a few rounds would mean a unique index that is not codesvc's.
_DUPLICATE_ROUNDS: Final = 5
_DUPLICATE_KEY: Final = 11000


class BatchWriter(Protocol):
    """Writes the batches of one upload; several calls may be under way at once."""

    @property
    def sorts(self) -> bool:
        """Whether codes shall come sorted, and none twice in a run, rather than in the file's order."""

    async def write(self, batch: Batch) -> UploadCounts:
        """Store a batch and tell how many of its codes were new."""


class UpsertWriter:
    """The reference: the driver's own bulk write, in the file's order."""

    sorts: Final = False

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
    """Encoded batches over the wire: looks for known codes, inserts for new ones."""

    sorts: Final = True

    def __init__(self, wire: Wire, campaign_id: str, code_type: CodeType) -> None:
        self._wire = wire
        self._looks = Looks(wire)
        self._campaign_id = campaign_id
        self._code_type = code_type
        # Whether the campaign holds codes of another type: assumed not to be so until it shows.
        self._other_types = False

    async def write(self, batch: Batch) -> UploadCounts:
        """Insert the codes that no look has shown, upsert those of another type."""
        marks = await self._look(batch)
        if NOT_SEEN in marks and SEEN not in marks and SEEN_OTHER_TYPE not in marks:
            return await self._insert(batch)
        counts = UploadCounts(updated=marks.count(SEEN))
        for mark, write in ((NOT_SEEN, self._insert), (SEEN_OTHER_TYPE, self._upsert)):
            if mark in marks:
                counts += await write(batch.pick(marks, mark))
        return counts

    async def _look(self, batch: Batch) -> bytearray:
        """Mark the codes that are there; where few are, most stay unmarked."""
        nothing = bytearray(len(batch))
        if not await self._wire.reads_majority():
            return nothing
        while True:
            typed = self._other_types
            marks, instant = await self._looks.look(batch, typed=typed)
            if typed or marks == nothing or instant is None:
                return marks
            if not await self._wire.holds_other_types(self._campaign_id, self._code_type.value, instant):
                return marks
            self._other_types = True

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

    async def _upsert(self, batch: Batch, indexes: list[int] | None = None) -> UploadCounts:
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

"""The collection of uploads: what is known of each, written by the process that runs it and read by all.

    {_id: "<UUID of version 7>", campaignId, fileKey, type, header, strict, dryRun,
     state, bytes: {done, total}, count: {inserted, updated},
     invalid: {count, samples: [{line, reason}], pieces: 3},
     codesPerSecond, secondsLeft, startedAt, updatedAt, finishedAt, error: {code, title, detail, line},
     saved: Date,                    what the codes that it inserts have as date.saved, and those of no other upload
     etag: "<ETag>",                 of the version of the file that is read
     checkpoint: {offset, line, afterCr, inserted, updated, invalid, pieces},
                                     where another process goes on: all before it is confirmed
     unsure: true,                   codes may have been inserted that are in no count: in the end, they are counted
     owner: "<process>",             which runs it, or keeps it in its queue
     generation: 2,                  how often it was taken over; what an earlier owner writes is not heeded
     attempts: 1,                    how often since the checkpoint last moved
     leaseUntil: Date,               by the server's clock; absent when it has ended
     handed: true,                   the owner has left it to others, who may have it when the lease is over
     revision: 17,                   of what this owner has written, so that nothing older comes after it
     cancel: true,                   somebody wants it to end
     takenBack: {...},               see codesvc/datastore/takeback.py
     expireAt: Date}                 when the record goes; absent while it is under way

What was invalid in an upload's file is in the collection invalid_rows, some 20,000 rows to a document:

    {_id: {uploadId, number: 0}, rows: Binary, expireAt: Date}     zlib (RFC 1950) of lines "line,reason" CR LF

The owner renews its lease with each word on progress, about once a second. Where the lease has run out, the owner is
gone, and any process may take the upload over: it makes itself the owner and raises the generation, by one write, so
that one of them does. All that an owner writes is on condition that it still is the owner of that generation. A piece
of invalid rows has the generation in it too (field ``generation``), and gives way to those of later ones.
"""

import asyncio
import itertools
import zlib
from collections.abc import AsyncGenerator, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from random import randint
from typing import Any, Final

import pymongo
from pymongo import ReturnDocument
from pymongo.errors import DuplicateKeyError

from codesvc.datastore.client import Mongo
from codesvc.datastore.failures import translated
from codesvc.datastore.pieces import BY_ID, Pieces, stretch
from codesvc.errors import DatabaseRefusedError, UploadHandedOverError
from codesvc.models import (
    Checkpoint,
    Claim,
    CodeType,
    InvalidRow,
    Progress,
    Stamp,
    TakenBack,
    Upload,
    UploadCounts,
    UploadFailure,
    UploadOrder,
    UploadState,
)

_UNDER_WAY: Final = [state.value for state in UploadState if not state.ended]
_MILLISECOND: Final = timedelta(milliseconds=1)
_LONG: Final = timedelta(days=7)
# Uploads of one campaign that begin within one millisecond: the first few move by one, a crowd spreads.
_TRIES: Final = 40
# Codes that one command looks at, to count some of them.
_FIRST_PIECE: Final = 2_000
_LARGEST_PIECE: Final = 100_000
_PIECE_SECONDS: Final = 0.25
_NEIGHBOURS: Final = 5


class UploadRecords:
    """Reads and writes the records.

    Every method raises DatabaseUnavailableError when MongoDB gives no answer within the time limit of the settings,
    and DatabaseRefusedError when it will not do what was asked.

    Arguments:
        process: the name of this one, as an owner.
        kept: how long a record is kept after the upload has ended.
        lease: how long nobody else touches an upload after a word of its owner.

    """

    def __init__(self, mongo: Mongo, process: str, *, kept: timedelta, lease: timedelta) -> None:
        self._mongo = mongo
        self._process = process
        self._kept = kept // _MILLISECOND
        self._lease = lease // _MILLISECOND

    async def queue(self, upload: Upload, stamp: Stamp) -> None:
        """Keep an upload that waits for its turn.

        Raises:
            UploadHandedOverError: another process has taken it over.

        """
        with translated(), pymongo.timeout(self._mongo.timeout):
            await self._put(upload, stamp, {})

    async def begin(self, upload: Upload, stamp: Stamp, *, saved: datetime, etag: str | None) -> datetime:
        """Keep an upload that begins to run; return the instant at which its codes are saved.

        That is ``saved``, or as soon after it as no other upload of the campaign has.

        Raises:
            UploadHandedOverError: another process has taken it over.

        """
        with translated(), pymongo.timeout(self._mongo.timeout):
            for number in range(_TRIES):
                try:
                    await self._put(upload, stamp, {"saved": saved, "etag": etag})
                except DuplicateKeyError:
                    saved += _MILLISECOND * (1 if number < _NEIGHBOURS else randint(1, min(2**number, 1000)))  # noqa: S311
                else:
                    return saved
        raise DatabaseRefusedError("There is no instant left at which this upload's codes could be saved.")

    async def save(self, upload: Upload, stamp: Stamp) -> bool | None:
        """Write down how far an upload has come, and renew its lease or let it go; tell whether it is to be cancelled.

        Nothing is written where something newer was. None where another process has taken the upload over.
        """
        with translated(), pymongo.timeout(self._mongo.timeout):
            found = await self._mongo.uploads.find_one_and_update(
                self._mine(upload, stamp), [{"$set": self._progress(upload, stamp)}], {"cancel": 1}
            )
        return None if found is None else bool(found.get("cancel"))

    async def leave(self, upload: Upload, stamp: Stamp, *, pause: timedelta) -> None:
        """Write down how far an upload has come, and leave it to others, who may have it after a pause."""
        left = {"leaseUntil": {"$add": ["$$NOW", pause // _MILLISECOND]}, "handed": True}
        with translated(), pymongo.timeout(self._mongo.timeout):
            await self._mongo.uploads.update_one(
                self._mine(upload, stamp), [{"$set": self._progress(upload, stamp) | left}]
            )

    async def take(self, *, patience: timedelta) -> Claim | None:
        """Take over an upload whose lease has been over for at least so long; None where there is none."""
        handed = {"$ifNull": ["$handed", False]}
        # One that waited in a queue was not what ended its process, and nothing of it was written.
        waited = {"$eq": ["$state", UploadState.QUEUED.value]}
        begun = {"$ne": [{"$type": "$saved"}, "missing"]}
        attempts = {"$add": [{"$ifNull": ["$attempts", 0]}, {"$cond": [{"$or": [handed, waited]}, 0, 1]}]}
        unsure = {
            "$or": [{"$ifNull": ["$unsure", False]}, {"$and": [{"$not": [{"$or": [handed, waited]}]}, begun]}]
        }
        over = {"$lt": ["$leaseUntil", {"$subtract": ["$$NOW", patience // _MILLISECOND]}]}
        with translated(), pymongo.timeout(self._mongo.timeout):
            found = await self._mongo.uploads.find_one_and_update(
                # The first is what an index answers: only those under way have a lease.
                {"leaseUntil": {"$type": "date"}, "state": {"$in": _UNDER_WAY}, "$expr": over},
                [
                    {
                        "$set": {
                            "owner": {"$literal": self._process},
                            "generation": {"$add": [{"$ifNull": ["$generation", 0]}, 1]},
                            "revision": 0,
                            "attempts": attempts,
                            "unsure": unsure,
                            "leaseUntil": {"$add": ["$$NOW", self._lease]},
                        }
                    }
                ],
                sort=[("leaseUntil", 1)],
                return_document=ReturnDocument.AFTER,
            )
        return None if found is None else _claim(found)

    async def stored(self, campaign_id: str, saved: datetime) -> int:
        """Count the codes that were inserted by the upload whose codes are saved at that instant."""
        pieces = Pieces(
            self._mongo.codes, campaign_id, first=_FIRST_PIECE, most=_LARGEST_PIECE, seconds=_PIECE_SECONDS
        )
        total = 0
        after = ""
        while True:
            with translated(), pymongo.timeout(self._mongo.timeout):
                to = await pieces.end(after)
                found: int = await self._mongo.codes.count_documents(
                    stretch(campaign_id, after, to) | {"date.saved": saved}, hint=BY_ID
                )
            total += found
            if to is None:
                return total
            pieces.done()
            after = to

    async def find(self, campaign_id: str, upload_id: str) -> Upload | None:
        """Read one upload."""
        with translated(), pymongo.timeout(self._mongo.timeout):
            found = await self._mongo.uploads.find_one({"_id": upload_id, "campaignId": campaign_id})
        return None if found is None else _upload(found)

    async def page(self, campaign_id: str, *, limit: int, after: str | None) -> list[Upload]:
        """Read at most ``limit`` uploads of a campaign, the latest first, from before ``after`` on."""
        match: dict[str, Any] = {"campaignId": campaign_id}
        if after is not None:
            match["_id"] = {"$lt": after}
        with translated(), pymongo.timeout(self._mongo.timeout):
            found = await self._mongo.uploads.find(match).sort("_id", -1).limit(limit).to_list(None)
        return [_upload(one) for one in found]

    async def ask_to_cancel(self, campaign_id: str, upload_id: str) -> None:
        """Ask the owner of an upload to end it; where it has been left to others, whoever takes it next, and now."""
        lease = {"$cond": [{"$ifNull": ["$handed", False]}, "$$NOW", "$leaseUntil"]}
        with translated(), pymongo.timeout(self._mongo.timeout):
            await self._mongo.uploads.update_one(
                {"_id": upload_id, "campaignId": campaign_id, "state": {"$in": _UNDER_WAY}},
                [{"$set": {"cancel": True, "leaseUntil": lease}}],
            )

    async def keep_invalid(self, upload_id: str, generation: int, number: int, rows: bytes) -> None:
        """Keep some of the invalid rows of an upload; ``number`` counts from 0."""
        packed = await asyncio.to_thread(zlib.compress, rows, 1)
        # Longer than the record is kept, since an upload may take a while yet.
        expire = datetime.now(UTC) + _MILLISECOND * self._kept + _LONG
        document = {
            "_id": {"uploadId": upload_id, "number": number},
            "generation": generation,
            "rows": packed,
            "expireAt": expire,
        }
        no_later = {"_id": document["_id"], "generation": {"$not": {"$gt": generation}}}
        # A later owner has been here: this one will hear of it.
        with translated(), pymongo.timeout(self._mongo.timeout), suppress(DuplicateKeyError):
            await self._mongo.invalid_rows.replace_one(no_later, document, upsert=True)

    async def invalid(self, upload_id: str) -> AsyncGenerator[bytes, None]:
        """Yield the invalid rows of an upload, as they were kept."""
        with translated(), pymongo.timeout(self._mongo.timeout):
            record = await self._mongo.uploads.find_one({"_id": upload_id}, {"invalid.pieces": 1})
        # Behind those that the record tells of, there may be some of an owner before.
        pieces = None if record is None else record.get("invalid", {}).get("pieces")
        # One document at a time, by its name: a cursor would be gone when a slow reader comes back to it.
        for number in itertools.count() if pieces is None else range(pieces):
            with translated(), pymongo.timeout(self._mongo.timeout):
                found = await self._mongo.invalid_rows.find_one(
                    {"_id": {"uploadId": upload_id, "number": number}}
                )
            if found is None:
                return
            yield await asyncio.to_thread(zlib.decompress, found["rows"])

    async def _put(self, upload: Upload, stamp: Stamp, further: dict[str, Any]) -> None:
        """Write a record whole; raise DuplicateKeyError where ``further`` has the instant of another upload."""
        fields: dict[str, Any] = {
            "campaignId": upload.order.campaign_id,
            "fileKey": upload.order.file_key,
            "type": upload.order.code_type.value,
            "header": upload.order.header,
            "strict": upload.order.strict,
            "dryRun": upload.order.dry_run,
            **further,
        }
        literal = {name: {"$literal": value} for name, value in fields.items()}
        try:
            written = await self._mongo.uploads.update_one(
                self._mine(upload, stamp),
                [{"$set": {**literal, **self._progress(upload, stamp)}}],
                # Only the first owner makes a record.
                upsert=stamp.generation == 0,
            )
        except DuplicateKeyError as error:
            if "saved" in (error.details or {}).get("keyPattern", {}):
                raise
            lost = True
        else:
            lost = written.matched_count == 0 and written.upserted_id is None
        if lost:
            raise UploadHandedOverError(
                "Another process has taken the upload over.", upload.order.campaign_id, upload.id
            )

    def _mine(self, upload: Upload, stamp: Stamp) -> dict[str, Any]:
        """Select a record as long as this process owns the upload, and this is its latest word."""
        return {
            "_id": upload.id,
            "owner": self._process,
            "generation": stamp.generation,
            "revision": {"$lt": stamp.revision},
        }

    def _progress(self, upload: Upload, stamp: Stamp) -> dict[str, Any]:
        """Return the fields that change, and the lease, as expressions."""
        progress = upload.progress
        counts = progress.counts
        samples = [{"line": row.line, "reason": row.reason} for row in progress.invalid_samples]
        fields = {
            "state": upload.state.value,
            "bytes": {"done": progress.bytes_done, "total": progress.bytes_total},
            "count": {"inserted": counts.inserted, "updated": counts.updated},
            "invalid": {"count": progress.invalid_count, "samples": samples, "pieces": progress.pieces},
            "checkpoint": _checkpoint_document(progress.checkpoint),
            "codesPerSecond": upload.codes_per_second,
            "secondsLeft": upload.seconds_left,
            "startedAt": upload.started,
            "updatedAt": upload.updated,
            "finishedAt": upload.finished,
            "error": _failure_document(upload.failure),
            "revision": stamp.revision,
            "attempts": stamp.attempts,
            "unsure": stamp.unsure,
        }
        literal: dict[str, Any] = {name: {"$literal": value} for name, value in fields.items()}
        if upload.state.ended:
            gone = {"$add": ["$$NOW", self._kept]}
            return literal | {"leaseUntil": "$$REMOVE", "handed": "$$REMOVE", "expireAt": gone}
        return literal | {"leaseUntil": {"$add": ["$$NOW", self._lease]}, "handed": "$$REMOVE"}


def _checkpoint_document(checkpoint: Checkpoint) -> dict[str, Any] | None:
    if checkpoint.place is None:
        return None
    return {
        "offset": checkpoint.offset,
        "line": checkpoint.line,
        "afterCr": checkpoint.after_cr,
        "inserted": checkpoint.counts.inserted,
        "updated": checkpoint.counts.updated,
        "invalid": checkpoint.invalid_count,
        "pieces": checkpoint.pieces,
    }


def _failure_document(failure: UploadFailure | None) -> dict[str, Any] | None:
    if failure is None:
        return None
    line = {} if failure.line is None else {"line": failure.line}
    return {"code": failure.code, "title": failure.title, "detail": failure.detail, **line}


def _failure(error: Mapping[str, Any] | None) -> UploadFailure | None:
    if error is None:
        return None
    return UploadFailure(error["code"], error["title"], error["detail"], error.get("line"))


def _claim(document: Mapping[str, Any]) -> Claim:
    return Claim(
        upload=_upload(document),
        generation=document["generation"],
        attempts=document["attempts"],
        unsure=document["unsure"],
        handed_over=bool(document.get("handed")),
        cancelled=bool(document.get("cancel")),
        saved=document.get("saved"),
        etag=document.get("etag"),
    )


def _checkpoint(document: Mapping[str, Any] | None, samples: tuple[InvalidRow, ...]) -> Checkpoint:
    if document is None:
        return Checkpoint()
    invalid = document["invalid"]
    return Checkpoint(
        document["offset"],
        document["line"],
        document["afterCr"],
        UploadCounts(document["inserted"], document["updated"]),
        invalid,
        samples[:invalid],
        document["pieces"],
    )


def _upload(document: Mapping[str, Any]) -> Upload:
    taken = document.get("takenBack")
    samples = tuple(InvalidRow(one["line"], one["reason"]) for one in document["invalid"]["samples"])
    return Upload(
        id=document["_id"],
        order=UploadOrder(
            document["campaignId"],
            CodeType(document["type"]),
            document["fileKey"],
            header=document["header"],
            strict=document["strict"],
            dry_run=document.get("dryRun", False),
        ),
        state=UploadState(document["state"]),
        updated=document["updatedAt"],
        progress=Progress(
            document["bytes"]["done"],
            document["bytes"]["total"],
            UploadCounts(document["count"]["inserted"], document["count"]["updated"]),
            document["invalid"]["count"],
            samples,
            document["invalid"].get("pieces", 0),
            _checkpoint(document.get("checkpoint"), samples),
        ),
        codes_per_second=document["codesPerSecond"],
        seconds_left=document["secondsLeft"],
        started=document["startedAt"],
        finished=document["finishedAt"],
        failure=_failure(document["error"]),
        taken_back=None if taken is None else TakenBack(taken["count"], taken["at"], taken["done"]),
    )

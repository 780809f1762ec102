"""The collection of uploads: what is known of each, written by the process that runs it and read by all.

    {_id: "<UUID of version 7>", campaignId, fileKey, type, header, strict, dryRun,
     state, bytes: {done, total}, count: {inserted, updated}, invalid: {count, samples: [{line, reason}]},
     codesPerSecond, secondsLeft, startedAt, updatedAt, finishedAt, error: {code, title, detail, line},
     saved: Date,                    what the codes that it inserts have as date.saved, and those of no other upload
     owner: "<process>",             which runs it, or keeps it in its queue
     leaseUntil: Date,               by the server's clock; absent when it has ended
     revision: 17,                   of what the owner has written, so that nothing older comes after it
     cancel: true,                   somebody wants it to end
     takenBack: {...},               see codesvc/datastore/takeback.py
     expireAt: Date}                 when the record goes; absent while it is under way

What was invalid in an upload's file is in the collection invalid_rows, some 20,000 rows to a document:

    {_id: {uploadId, number: 0}, rows: Binary, expireAt: Date}     zlib (RFC 1950) of lines "line,reason" CR LF

The owner renews its lease with each word on progress, about once a second. Where the lease has run out, the owner is
gone; whoever reads the record then marks it so.
"""

import asyncio
import itertools
import zlib
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from inspect import isawaitable
from random import randint
from typing import Any, Final

import pymongo
from pymongo.errors import DuplicateKeyError

from codesvc.datastore.client import Mongo
from codesvc.datastore.failures import translated
from codesvc.errors import DatabaseRefusedError
from codesvc.models import (
    CodeType,
    InvalidRow,
    Progress,
    TakenBack,
    Upload,
    UploadCounts,
    UploadFailure,
    UploadOrder,
    UploadState,
)

LEASE_SECONDS: Final = 25
"""Longer than the driver goes on trying to reach a primary."""

_UNDER_WAY: Final = [state.value for state in UploadState if not state.ended]
_MILLISECOND: Final = timedelta(milliseconds=1)
_LONG: Final = timedelta(days=7)
# Uploads of one campaign that begin within one millisecond: the first few move by one, a crowd spreads.
_TRIES: Final = 40
_NEIGHBOURS: Final = 5


class UploadRecords:
    """Reads and writes the records.

    Every method raises DatabaseUnavailableError when MongoDB gives no answer within the time limit of the settings,
    and DatabaseRefusedError when it will not do what was asked.

    Arguments:
        process: the name of this one, as an owner.
        kept: how long a record is kept after the upload has ended.
        interrupted: the failure of an upload whose owner is gone.

    """

    def __init__(self, mongo: Mongo, process: str, *, kept: timedelta, interrupted: UploadFailure) -> None:
        self._mongo = mongo
        self._process = process
        self._kept = kept // _MILLISECOND
        self._interrupted = interrupted

    async def queue(self, upload: Upload, *, revision: int) -> None:
        """Keep a new upload that waits for its turn."""
        with translated(), pymongo.timeout(self._mongo.timeout), suppress(DuplicateKeyError):
            await self._put(upload, revision, None)

    async def begin(self, upload: Upload, *, revision: int, saved: datetime) -> datetime:
        """Keep an upload that begins to run; return the instant at which its codes are saved.

        That is ``saved``, or as soon after it as no other upload of the campaign has.
        """
        with translated(), pymongo.timeout(self._mongo.timeout):
            for number in range(_TRIES):
                try:
                    await self._put(upload, revision, saved)
                except DuplicateKeyError as error:
                    if "saved" not in (error.details or {}).get("keyPattern", {}):
                        return saved  # this word has arrived before, or a later one
                    saved += _MILLISECOND * (1 if number < _NEIGHBOURS else randint(1, min(2**number, 1000)))  # noqa: S311
                else:
                    return saved
        raise DatabaseRefusedError("There is no instant left at which this upload's codes could be saved.")

    async def save(self, upload: Upload, *, revision: int) -> bool:
        """Write down how far an upload has come, and renew its lease or let it go; tell whether it is to be cancelled.

        Nothing is written where something newer was, or where another process owns the upload by now.
        """
        with translated(), pymongo.timeout(self._mongo.timeout):
            found = await self._mongo.uploads.find_one_and_update(
                {"_id": upload.id, "owner": self._process, "revision": {"$lte": revision}},
                [{"$set": self._progress(upload, revision)}],
                {"cancel": 1},
            )
        return found is not None and bool(found.get("cancel"))

    async def find(self, campaign_id: str, upload_id: str) -> Upload | None:
        """Read one upload."""
        found = await self._read([{"$match": {"_id": upload_id, "campaignId": campaign_id}}])
        return found[0] if found else None

    async def page(self, campaign_id: str, *, limit: int, after: str | None) -> list[Upload]:
        """Read at most ``limit`` uploads of a campaign, the latest first, from before ``after`` on."""
        match: dict[str, Any] = {"campaignId": campaign_id}
        if after is not None:
            match["_id"] = {"$lt": after}
        return await self._read([{"$match": match}, {"$sort": {"_id": -1}}, {"$limit": limit}])

    async def ask_to_cancel(self, campaign_id: str, upload_id: str) -> None:
        """Ask the owner of an upload to end it."""
        with translated(), pymongo.timeout(self._mongo.timeout):
            await self._mongo.uploads.update_one(
                {"_id": upload_id, "campaignId": campaign_id, "state": {"$in": _UNDER_WAY}},
                {"$set": {"cancel": True}},
            )

    async def keep_invalid(self, upload_id: str, number: int, rows: bytes) -> None:
        """Keep some of the invalid rows of an upload; ``number`` counts from 0."""
        packed = await asyncio.to_thread(zlib.compress, rows, 1)
        # Longer than the record is kept, since an upload may take a while yet.
        expire = datetime.now(UTC) + _MILLISECOND * self._kept + _LONG
        document = {"_id": {"uploadId": upload_id, "number": number}, "rows": packed, "expireAt": expire}
        with translated(), pymongo.timeout(self._mongo.timeout):
            await self._mongo.invalid_rows.replace_one({"_id": document["_id"]}, document, upsert=True)

    async def invalid(self, upload_id: str) -> AsyncGenerator[bytes, None]:
        """Yield the invalid rows of an upload, as they were kept."""
        # One document at a time, by its name: a cursor would be gone when a slow reader comes back to it.
        for number in itertools.count():
            with translated(), pymongo.timeout(self._mongo.timeout):
                found = await self._mongo.invalid_rows.find_one(
                    {"_id": {"uploadId": upload_id, "number": number}}
                )
            if found is None:
                return
            yield await asyncio.to_thread(zlib.decompress, found["rows"])

    async def _put(self, upload: Upload, revision: int, saved: datetime | None) -> None:
        """Write a record whole; raise DuplicateKeyError where this revision of it, or a later one, is there."""
        fields: dict[str, Any] = {
            "campaignId": upload.order.campaign_id,
            "fileKey": upload.order.file_key,
            "type": upload.order.code_type.value,
            "header": upload.order.header,
            "strict": upload.order.strict,
            "dryRun": upload.order.dry_run,
            "owner": self._process,
        }
        if saved is not None:
            fields["saved"] = saved
        literal = {name: {"$literal": value} for name, value in fields.items()}
        await self._mongo.uploads.update_one(
            {"_id": upload.id, "revision": {"$lt": revision}},
            [{"$set": {**literal, **self._progress(upload, revision)}}],
            upsert=True,
        )

    def _progress(self, upload: Upload, revision: int) -> dict[str, Any]:
        """Return the fields that change, and the lease, as expressions."""
        progress = upload.progress
        counts = progress.counts
        samples = [{"line": row.line, "reason": row.reason} for row in progress.invalid_samples]
        fields = {
            "state": upload.state.value,
            "bytes": {"done": progress.bytes_done, "total": progress.bytes_total},
            "count": {"inserted": counts.inserted, "updated": counts.updated},
            "invalid": {"count": progress.invalid_count, "samples": samples},
            "codesPerSecond": upload.codes_per_second,
            "secondsLeft": upload.seconds_left,
            "startedAt": upload.started,
            "updatedAt": upload.updated,
            "finishedAt": upload.finished,
            "error": _failure_document(upload.failure),
            "revision": revision,
        }
        literal: dict[str, Any] = {name: {"$literal": value} for name, value in fields.items()}
        if upload.state.ended:
            return literal | self._let_go()
        return literal | {
            "leaseUntil": {"$add": ["$$NOW", 1000 * LEASE_SECONDS]},
            # Also where it was taken for interrupted meanwhile: the owner had only stood still.
            "expireAt": "$$REMOVE",
        }

    def _let_go(self) -> dict[str, Any]:
        return {"leaseUntil": "$$REMOVE", "expireAt": {"$add": ["$$NOW", self._kept]}}

    async def _read(self, pipeline: list[dict[str, Any]]) -> list[Upload]:
        gone = {"$and": [{"$in": ["$state", _UNDER_WAY]}, {"$lt": ["$leaseUntil", "$$NOW"]}]}
        pipeline = [*pipeline, {"$set": {"gone": gone}}]
        with translated(), pymongo.timeout(self._mongo.timeout):
            documents = await self._documents(pipeline)
            lost = [one["_id"] for one in documents if one["gone"]]
            if lost:
                await self._interrupt(lost)
                documents = await self._documents(pipeline)
        return [_upload(one) for one in documents]

    async def _documents(self, pipeline: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        cursor = self._mongo.uploads.aggregate(pipeline)
        # A coroutine in PyMongo's asyncio client, a cursor in Motor.
        found: list[dict[str, Any]] = await (await cursor if isawaitable(cursor) else cursor).to_list(None)
        return found

    async def _interrupt(self, upload_ids: Sequence[str]) -> None:
        """Mark uploads whose owners are gone, unless they have come back just now."""
        failed = {
            "state": UploadState.FAILED.value,
            "secondsLeft": None,
            "error": _failure_document(self._interrupted),
        }
        change = {name: {"$literal": value} for name, value in failed.items()}
        await self._mongo.uploads.update_many(
            {
                "_id": {"$in": list(upload_ids)},
                "state": {"$in": _UNDER_WAY},
                "$expr": {"$lt": ["$leaseUntil", "$$NOW"]},
            },
            [{"$set": {**change, "finishedAt": "$$NOW", "updatedAt": "$$NOW", **self._let_go()}}],
        )


def _failure_document(failure: UploadFailure | None) -> dict[str, Any] | None:
    if failure is None:
        return None
    line = {} if failure.line is None else {"line": failure.line}
    return {"code": failure.code, "title": failure.title, "detail": failure.detail, **line}


def _failure(error: Mapping[str, Any] | None) -> UploadFailure | None:
    if error is None:
        return None
    return UploadFailure(error["code"], error["title"], error["detail"], error.get("line"))


def _upload(document: Mapping[str, Any]) -> Upload:
    taken = document.get("takenBack")
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
            tuple(InvalidRow(one["line"], one["reason"]) for one in document["invalid"]["samples"]),
        ),
        codes_per_second=document["codesPerSecond"],
        seconds_left=document["secondsLeft"],
        started=document["startedAt"],
        finished=document["finishedAt"],
        failure=_failure(document["error"]),
        taken_back=None if taken is None else TakenBack(taken["count"], taken["at"], taken["done"]),
    )

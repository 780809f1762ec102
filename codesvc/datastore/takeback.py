"""Taking back what an upload has inserted: codes that are still available, told by the instant at which it saved them.

The record of the upload (codesvc/datastore/uploads.py) says how far that has come:

    takenBack: {count: 98000,         codes, in all
                at: Date,             when that was last so
                done: false,          whether it has come to the end of the campaign
                after: "<code>"}      the code behind which it goes on; absent when it is done

The campaign is walked in pieces by ``_id``. The codes of a piece are deleted, and counted in the record, in one
transaction, which also moves the place: whatever is lost, of replies, primaries or processes, each code that was
deleted is counted once. Several processes may be at it; each piece is done by the one that finds the place where it
read it.

A code is deleted on condition that it is available at that moment, so a lender that has read it ahead does not find it
any more, and one that has just lent it keeps it. What an upload saved anew carries another instant.

A standalone server has no transactions: there, codes that were deleted when the process died, or the connection broke,
may be missing in the count.
"""

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, Final

import pymongo
from pymongo import ReturnDocument
from pymongo.errors import PyMongoError

from codesvc.datastore.client import AsyncSession, Mongo, commit, transaction
from codesvc.datastore.failures import may_be_sent_again, translated
from codesvc.datastore.motion import Motion
from codesvc.datastore.pieces import BY_ID, Pieces, stretch
from codesvc.datastore.telemetry import Telemetry
from codesvc.models import UploadState

_ENDED: Final = [state.value for state in UploadState if state.ended]
_FIRST_PIECE: Final = 1_000
_LARGEST_PIECE: Final = 10_000
_PIECE_SECONDS: Final = 0.5
_LONGEST_PAUSE: Final = 0.2


class CodesOfUpload:
    """Takes back the codes of one upload."""

    def __init__(
        self, mongo: Mongo, motion: Motion, telemetry: Telemetry, campaign_id: str, upload_id: str
    ) -> None:
        self._mongo = mongo
        self._motion = motion
        self._telemetry = telemetry
        self._campaign_id = campaign_id
        self._upload_id = upload_id
        self._pieces = Pieces(
            mongo.codes, campaign_id, first=_FIRST_PIECE, most=_LARGEST_PIECE, seconds=_PIECE_SECONDS
        )
        self._saved: datetime | None = None
        # The place in the record, and how far nothing was found behind it.
        self._place: str | None = None
        self._reached = ""

    async def begin(self) -> bool:
        """Go to where it was left off, or to the campaign's first code if it has been done; False if the upload runs.

        Raises:
            DatabaseUnavailableError: no answer in time.
            DatabaseRefusedError: the server refused.

        """
        anew = {
            "count": {"$ifNull": ["$takenBack.count", 0]},
            "at": "$$NOW",
            # What has no instant has never begun to insert.
            "done": {"$lte": ["$saved", None]},
            "after": "",
        }
        going_on = {"$eq": ["$takenBack.done", False]}
        change = {"takenBack": {"$cond": [going_on, "$takenBack", anew]}, "updatedAt": "$$NOW"}
        with translated(), pymongo.timeout(self._mongo.timeout):
            found = await self._mongo.uploads.find_one_and_update(
                {"_id": self._upload_id, "campaignId": self._campaign_id, "state": {"$in": _ENDED}},
                [{"$set": change}],
                {"saved": 1, "takenBack": 1},
                return_document=ReturnDocument.AFTER,
            )
        if found is None:
            return False
        self._read(found)
        return True

    async def step(self, cut_off: datetime) -> bool:
        """Take back what is available in the next piece; return whether that was the last. Errors as of ``begin``."""
        deadline = time.monotonic() + self._mongo.timeout
        with (
            self._telemetry.datastore_operation("take_back"),
            translated(),
            pymongo.timeout(self._mongo.timeout),
        ):
            while self._place is not None:
                try:
                    await self._piece(cut_off)
                except PyMongoError as error:
                    if not may_be_sent_again(error) or time.monotonic() > deadline:
                        raise
                else:
                    self._pieces.done()
                    return self._place is None
                # Somebody holds or assigns some of these codes; or the server is away, and nobody knows what was done.
                self._telemetry.command_retried()
                self._pieces.shorten()
                await asyncio.sleep(random.uniform(0, _LONGEST_PAUSE))  # noqa: S311 - spreads load
                found = await self._mongo.uploads.find_one(
                    {"_id": self._upload_id}, {"saved": 1, "takenBack": 1}
                )
                self._read(found or {})
        return True

    def _read(self, record: dict[str, Any]) -> None:
        told = record.get("takenBack") or {"done": True}
        self._saved = record.get("saved")
        place = None if told["done"] or self._saved is None else told["after"]
        if place is None or place != self._place:
            self._place, self._reached = place, place or ""

    async def _piece(self, cut_off: datetime) -> None:
        end = await self._pieces.end(self._reached)
        available = stretch(self._campaign_id, self._reached, end) | {
            "date.saved": self._saved,
            "date.assigned": None,
            "date.reserved": {"$not": {"$gt": cut_off}},
        }
        async with self._motion.writing(self._campaign_id), self._together() as session:
            deleted = await self._mongo.codes.delete_many(available, hint=BY_ID, session=session)
            if not deleted.deleted_count and end is not None:
                # Nothing to be written down: the transaction is given up.
                self._reached = end
                return
            moved = await self._move(end, deleted.deleted_count, session)
            if moved and session is not None:
                await commit(
                    session,
                    deadline=time.monotonic() + self._mongo.timeout,
                    pause=_LONGEST_PAUSE,
                    retried=self._telemetry.command_retried,
                )
        if moved:
            self._place, self._reached = end, end or ""
        else:
            if session is None and deleted.deleted_count:
                await self._add(deleted.deleted_count)
            # Another process has done this piece, or at least the rest of it.
            found = await self._mongo.uploads.find_one({"_id": self._upload_id}, {"saved": 1, "takenBack": 1})
            self._read(found or {})

    async def _move(self, end: str | None, count: int, session: AsyncSession | None) -> bool:
        """Write down what was taken back, and up to where; False where the place is another by now."""
        change: dict[str, Any] = {
            "$inc": {"takenBack.count": count},
            "$set": {"takenBack.done": end is None},
            "$currentDate": {"takenBack.at": True, "updatedAt": True},
        }
        if end is None:
            change["$unset"] = {"takenBack.after": ""}
        else:
            change["$set"]["takenBack.after"] = end
        result = await self._mongo.uploads.update_one(
            {"_id": self._upload_id, "takenBack.done": False, "takenBack.after": self._place},
            change,
            session=session,
        )
        return bool(result.matched_count)

    async def _add(self, count: int) -> None:
        """Write down what was taken back where nothing undoes it, whoever moves the place."""
        await self._mongo.uploads.update_one(
            {"_id": self._upload_id},
            {
                "$inc": {"takenBack.count": count},
                "$currentDate": {"takenBack.at": True, "updatedAt": True},
            },
        )

    @asynccontextmanager
    async def _together(self) -> AsyncIterator[AsyncSession | None]:
        if not (await self._mongo.deployment()).transactions:
            yield None
            return
        async with transaction(self._mongo) as session:
            yield session

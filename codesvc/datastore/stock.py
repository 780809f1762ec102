"""The whole stock, sampled in the background by one process of the deployment at a time.

What was last counted of a campaign is kept in its document (collection ``campaigns``), so that a process that takes
over begins with all of it, and a campaign whose document is gone is out of the next sample:

    stock: {tm: {available, reserved, assigned}, external: {...},
            codes: 100000, reserved: 1000,      sums of the above
            touched: Date,                      that of the campaign when it was counted
            at: Date}                           when it was counted

A round of the one process whose turn it is:

1. It renews its lease, by the server's clock (collection ``duties``). Who has no lease shows nothing.
2. It counts the campaigns that were written to since they were counted, those with holds that may have expired since,
   and those not counted for a day: the longest ago first, for at most a twentieth of the time that passes. A count that
   takes longer is paid for by the rounds after it.
3. Once an hour it walks through the first keys of the index of codes, one search for each campaign, and makes documents
   for campaigns that have none, as after the collection was dropped. Those it does not meet have no codes any longer.
4. It asks the server for the sums, and for the campaigns with the fewest codes. The server reads every campaign's
   document for that; where there are so many that it takes long, rounds become rarer.
"""

import asyncio
import contextlib
import heapq
import logging
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import pymongo
from pymongo import ReturnDocument
from pymongo.errors import DuplicateKeyError, PyMongoError
from pymongo.write_concern import WriteConcern

from codesvc.datastore.client import CAMPAIGNS, Mongo
from codesvc.datastore.counting import Counting
from codesvc.datastore.indexes import BY_STATUS, INDEXES
from codesvc.datastore.telemetry import Samples
from codesvc.errors import CodesvcError
from codesvc.models import CodeType, Counts, Status

logger = logging.getLogger(__name__)

DUTIES: Final = "duties"
DUTY: Final = "stock"

RECENT_DAYS: Final = 3
"""A campaign is among the lowest while it was written to within so many days: those that ended, or were never used,
would hide those that somebody should refill. A weekend must not take one off the list."""

_SHARE: Final = 0.05
_FIRST_ALLOWANCE: Final = 1.0
_HOLDS_SECONDS: Final = 900
_COUNTED_SECONDS: Final = 86_400
_WALK_SECONDS: Final = 3_600.0
_DUE_AT_ONCE: Final = 500
_WALK_STEPS: Final = 200
_GOODBYE_SECONDS: Final = 1.0
_EPOCH: Final = datetime.fromtimestamp(0, UTC)
_CAMPAIGN_ID: Final = re.compile(r"[A-Za-z0-9._~-]{1,128}")
_NONE: Final = Counts(0, 0, 0)


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the stock is sampled.

    Attributes:
        interval: seconds between samples; 0 for none at all.
        lowest: campaigns and types that are shown one by one.
        reservation_ttl: how long a hold lasts.

    """

    interval: float
    lowest: int
    reservation_ttl: timedelta


class Stock:
    """Samples the stock while it is this process's turn; ``process`` is a name that no other process has."""

    def __init__(
        self,
        mongo: Mongo,
        counting: Counting,
        told: Samples,
        process: str,
        *,
        sampling: Sampling,
        clock: Callable[[], datetime],
    ) -> None:
        self._mongo = mongo
        self._counting = counting
        self._told = told
        self._process = process
        self._sampling = sampling
        self._clock = clock
        self._duties = mongo.database.get_collection(DUTIES, write_concern=WriteConcern(w="majority", j=True))
        # A process that died is replaced after three rounds at the latest.
        self._lease_seconds = 2 * sampling.interval + mongo.timeout
        self._allowance = _FIRST_ALLOWANCE
        self._walked = float("-inf")
        self._position = ""
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to take turns, unless there is no interval."""
        if self._sampling.interval and self._task is None:
            self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Cease, and leave the turn to another process."""
        if self._task is None:
            return
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._task = None
        self._told.forget()
        with contextlib.suppress(PyMongoError), pymongo.timeout(_GOODBYE_SECONDS):
            await self._duties.update_one({"_id": DUTY, "holder": self._process}, {"$set": {"until": _EPOCH}})

    async def _run(self) -> None:
        while True:
            began = time.monotonic()
            try:
                await self.round()
            except (PyMongoError, CodesvcError) as error:
                # The next round tries again; what was shown last is shown until the lease ends.
                logger.info("the stock was not sampled", extra={"reason": type(error).__name__})
            took = time.monotonic() - began
            interval = self._sampling.interval
            await asyncio.sleep(min(max(interval, took / _SHARE - took), 2 * interval))

    async def round(self) -> bool:
        """Sample once, if it is this process's turn; tell whether it is. Raises what the driver raises."""
        asked = time.monotonic()
        with pymongo.timeout(self._mongo.timeout):
            mine = await self._take_turn()
        if not mine:
            self._told.forget()
            self._position, self._walked = "", float("-inf")
            return False
        self._allowance = min(
            self._allowance + _SHARE * self._sampling.interval,
            max(_FIRST_ALLOWANCE, _SHARE * self._sampling.interval),
        )
        await self._walk()
        await self._count_due()
        with pymongo.timeout(self._mongo.timeout):
            await self._tell(asked + self._lease_seconds)
        return True

    async def _take_turn(self) -> bool:
        """Take the lease if it is free, or renew it; by the server's clock, so that no others have to agree."""
        free = {"$or": [{"$eq": ["$holder", self._process]}, {"$lte": ["$until", "$$NOW"]}]}
        until = {"$add": ["$$NOW", round(1000 * self._lease_seconds)]}
        change = {
            "holder": {"$cond": [free, self._process, "$holder"]},
            "until": {"$cond": [free, until, "$until"]},
        }
        try:
            found = await self._duties.find_one_and_update(
                {"_id": DUTY}, [{"$set": change}], upsert=True, return_document=ReturnDocument.AFTER
            )
        except DuplicateKeyError:
            return False  # another process has just made it
        return bool(found["holder"] == self._process)

    # Counting what may have changed.

    async def _count_due(self) -> None:
        if self._allowance <= 0:
            return
        with pymongo.timeout(self._mongo.timeout):
            due = await self._ask(_DUE, _DUE_AT_ONCE)
        for one in due:
            if self._allowance <= 0:
                return
            began = time.monotonic()
            try:
                with pymongo.timeout(self._mongo.timeout):
                    await self._count(one["_id"], one.get("touched"))
            except (PyMongoError, CodesvcError) as error:
                # To the end of the line: a campaign that takes too long must not keep the others from their turn.
                logger.info("a campaign was not counted", extra={"reason": type(error).__name__})
                with pymongo.timeout(self._mongo.timeout):
                    await self._mongo.campaigns.update_one(
                        {"_id": one["_id"]}, {"$currentDate": {"stock.at": True}}
                    )
            finally:
                self._allowance -= time.monotonic() - began

    async def _count(self, campaign_id: str, touched: datetime | None) -> None:
        cut_off = self._clock() - self._sampling.reservation_ttl
        counts = {
            code_type: await self._counting.count(campaign_id, code_type, cut_off) for code_type in CodeType
        }
        await self._mongo.campaigns.update_one(
            {"_id": campaign_id}, [{"$set": {"stock": _stock(counts) | {"touched": touched}}}]
        )

    # Finding campaigns without a document, and documents without codes.

    async def _walk(self) -> None:
        if not self._position and time.monotonic() - self._walked < _WALK_SECONDS:
            return
        while self._allowance > 0:
            began = time.monotonic()
            with pymongo.timeout(self._mongo.timeout):
                more = await self._walk_some()
            self._allowance -= time.monotonic() - began
            if not more:
                self._position, self._walked = "", time.monotonic()
                return

    async def _walk_some(self) -> bool:
        """Go on to the next campaigns; False after the last."""
        first = self._position
        found: list[str] = []
        order = [(name, 1) for name, _ in INDEXES[BY_STATUS]]
        while len(found) < _WALK_STEPS:
            # Strings only: whatever else there may be as a campaign's id is none of codesvc's.
            beyond = {"$gt": found[-1] if found else first, "$type": "string"}
            one = await self._mongo.codes.find_one(
                {"_id.campaign_id": beyond}, {"_id.campaign_id": 1}, sort=order, hint=BY_STATUS
            )
            if one is None:
                break
            found.append(one["_id"]["campaign_id"])
        full = len(found) == _WALK_STEPS
        passed = {"$gt": first, "$lte": found[-1]} if full else {"$gt": first, "$type": "string"}
        known = self._mongo.campaigns.find({"_id": {"$in": found}}, {"_id": 1})
        there = {one["_id"] for one in await known.to_list(None)}
        for campaign_id in found:
            if campaign_id not in there:
                await self._mongo.campaigns.update_one(
                    {"_id": campaign_id}, {"$setOnInsert": {"stock": {}}}, upsert=True
                )
        nothing = _stock(dict.fromkeys(CodeType, _NONE)) | {"touched": "$touched"}
        await self._mongo.campaigns.update_many(
            {"_id": passed | {"$nin": found}, "stock.codes": {"$gt": 0}}, [{"$set": {"stock": nothing}}]
        )
        self._position = found[-1] if full else ""
        return full

    # Telling.

    async def _tell(self, good_until: float) -> None:
        names = [(code_type.value, status.value) for code_type in CodeType for status in Status]
        sums = {f"{kind}_{status}": {"$sum": f"$stock.{kind}.{status}"} for kind, status in names}
        pipeline = [
            {"$match": {"stock.codes": {"$gt": 0}}},
            {"$group": {"_id": None, "campaigns": {"$sum": 1}, **sums}},
        ]
        found = await self._ask(pipeline, 1)
        totals = found[0] if found else {}
        self._told.show(
            {(kind, status): totals.get(f"{kind}_{status}", 0) for kind, status in names},
            totals.get("campaigns", 0),
            await self._lowest(),
            sampled=time.time(),
            good_until=good_until,
        )

    async def _lowest(self) -> Sequence[tuple[str, str, int]]:
        """Name the campaigns and types with the fewest available codes, of those that have or had any."""
        most = self._sampling.lowest
        found: list[tuple[int, str, str]] = []
        for code_type in CodeType if most else ():
            stock = f"stock.{code_type.value}"
            recent = {"$gte": ["$touched", {"$subtract": ["$$NOW", RECENT_DAYS * 86_400_000]}]}
            pipeline = [
                {
                    "$match": {
                        "$expr": recent,
                        "$or": [{f"{stock}.{one.value}": {"$gt": 0}} for one in Status],
                    }
                },
                {"$project": {"available": f"${stock}.available"}},
                {"$sort": {"available": 1, "_id": 1}},
                {"$limit": most},
            ]
            found += [
                (one["available"], one["_id"], code_type.value)
                for one in await self._ask(pipeline, most)
                # A label must not need to be escaped; codesvc makes no other campaigns.
                if isinstance(one["_id"], str) and _CAMPAIGN_ID.fullmatch(one["_id"])
            ]
        return [(campaign, kind, count) for count, campaign, kind in heapq.nsmallest(most, found)]

    async def _ask(self, pipeline: Sequence[Any], most: int) -> list[dict[str, Any]]:
        command = {"aggregate": CAMPAIGNS, "pipeline": list(pipeline), "cursor": {"batchSize": most + 1}}
        reply = await self._mongo.database.command(command)
        batch: list[dict[str, Any]] = reply["cursor"]["firstBatch"]
        return batch


def _stock(counts: dict[CodeType, Counts]) -> dict[str, Any]:
    """Make what is kept of a campaign."""
    figures = {
        code_type.value: {status.value: getattr(one, status.value) for status in Status}
        for code_type, one in counts.items()
    }
    return {
        **figures,
        "codes": sum(sum(one.values()) for one in figures.values()),
        "reserved": sum(one["reserved"] for one in figures.values()),
        "at": "$$NOW",
    }


def _missing(name: str) -> dict[str, Any]:
    return {"$eq": [{"$type": name}, "missing"]}


def _older(seconds: int) -> dict[str, Any]:
    return {"$lt": ["$stock.at", {"$subtract": ["$$NOW", 1000 * seconds]}]}


_DUE: Final[Sequence[Any]] = (
    {
        "$match": {
            "$expr": {
                "$or": [
                    _missing("$stock.codes"),
                    {"$gt": ["$touched", "$stock.touched"]},
                    # Also where nobody says when campaigns are written to: on a standalone server.
                    {
                        "$and": [
                            _older(_HOLDS_SECONDS),
                            {"$or": [{"$gt": ["$stock.reserved", 0]}, _missing("$touched")]},
                        ]
                    },
                    _older(_COUNTED_SECONDS),
                ]
            }
        }
    },
    {"$project": {"touched": 1, "at": "$stock.at"}},
    {"$sort": {"at": 1}},
    {"$limit": _DUE_AT_ONCE},
)

"""The collection of campaigns: which processes write to a campaign's codes at present, and counts that were kept.

    {_id: "<campaign id>",
     version: ObjectId,                    a new one whenever a process begins to write
     touched: Date,                        when the document was last written to, by the server's clock
     writers: [{id: "<process>", at: Date, lends: ["tm"]}],
     lending: ObjectId,                    a new one whenever a process begins to lend without a transaction
     scarce: ["tm"],                       types of which nobody may lend without one
     counts: {tm: {...}},                  see codesvc/datastore/counting.py
     stock: {tm: {...}, at: Date}}         what was last sampled for the metrics, see codesvc/datastore/stock.py

A process is in ``writers`` before its first write reaches the collection of codes, and leaves when its last one has
long been answered (codesvc/datastore/motion.py). Counts are kept only while there are no writers, and beginning to
write takes them away in the same step, so that they are those of the documents whenever they are there.

Nothing here is worth keeping: with the collection dropped while nobody writes, everything is counted anew.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from inspect import isawaitable
from typing import Any, Final

from bson import ObjectId
from bson.timestamp import Timestamp
from pymongo import ReturnDocument
from pymongo.errors import DuplicateKeyError, OperationFailure

from codesvc.datastore.client import COLLECTION, Mongo

EXPIRY_SECONDS: Final = 300
"""A process that has not renewed its entry for so long is gone; it writes nothing without having renewed it lately."""

LENDING_EXPIRY_SECONDS: Final = 12
"""Likewise for what it lends without transactions, which it renews more often."""

_NAMESPACE_NOT_FOUND: Final = 26
_EPOCH: Final = datetime.fromtimestamp(0, UTC)


@dataclass(frozen=True, slots=True)
class Writer:
    """A process that writes to a campaign, how many seconds ago it said so, and what it lends without transactions."""

    id: str
    age: float
    lends: frozenset[str]


@dataclass(frozen=True, slots=True)
class Campaign:
    """What is known of a campaign; everything is empty where nothing was written yet."""

    version: ObjectId | None = None
    writers: tuple[Writer, ...] = ()
    lending: ObjectId | None = None
    scarce: frozenset[str] = frozenset()
    counts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def is_lent(self, code_type: str, *, but: str) -> bool:
        """Tell whether another process lends codes of a type without transactions."""
        return any(
            code_type in one.lends and one.id != but and one.age < LENDING_EXPIRY_SECONDS
            for one in self.writers
        )

    @property
    def deserted(self) -> bool:
        """Whether every writer is gone without having said so."""
        return bool(self.writers) and all(one.age > EXPIRY_SECONDS for one in self.writers)


@dataclass(frozen=True, slots=True)
class Look:
    """A campaign, and the collection of codes around it, at one moment.

    Attributes:
        stamp: changes with every write to the collection of codes, whoever makes it, and with every new primary.
        instant: of the cluster's clock, not before anything that ``stamp`` tells of.

    """

    campaign: Campaign
    stamp: str
    instant: Timestamp


class Campaigns:
    """Reads and writes the collection; ``process`` names the one that does. Raises what the driver raises."""

    def __init__(self, mongo: Mongo, process: str) -> None:
        self._mongo = mongo
        self.process = process

    async def read(self, campaign_id: str) -> Campaign:
        """Read one campaign."""
        cursor = self._mongo.campaigns.aggregate(_read(campaign_id))
        # A coroutine in PyMongo's asyncio client, a cursor in Motor.
        found = await (await cursor if isawaitable(cursor) else cursor).to_list(1)
        return _campaign(found[0] if found else None)

    async def look(self, campaign_id: str) -> Look | None:
        """Read one campaign together with the stamp of the collection of codes; None if there is no collection.

        The server counts the write operations on a collection (``$collStats``, ``latencyStats``): each is in there
        before its caller is answered. Only writes within somebody else's transaction show before they take effect.
        """
        campaign, stamp = await asyncio.gather(self.read(campaign_id), self._stamp())
        return None if stamp is None else Look(campaign, *stamp)

    async def _stamp(self) -> tuple[str, Timestamp] | None:
        pipeline = [
            {"$collStats": {"latencyStats": {}, "count": {}}},
            {"$project": {"shard": 1, "host": 1, "count": 1, "writes": "$latencyStats.writes.ops"}},
        ]
        try:
            reply = await self._mongo.database.command(
                {"aggregate": COLLECTION, "pipeline": pipeline, "cursor": {}}
            )
        except OperationFailure as error:
            if error.code == _NAMESPACE_NOT_FOUND:
                return None
            raise
        members = sorted(
            f"{one.get('shard', '')}/{one['host']}:{one['count']}:{one['writes']}"
            for one in reply["cursor"]["firstBatch"]
        )
        return (" ".join(members), reply["operationTime"]) if members else None

    async def enter(self, campaign_id: str, lends: frozenset[str]) -> frozenset[str]:
        """Become one of the writers, before the first write; ``lends`` are types to be lent without transactions.

        Returns the types that are scarce.
        """
        change = self._entry(lends) | {"version": ObjectId(), "counts": "$$REMOVE"}
        if lends:
            change["lending"] = ObjectId()
        for _ in range(2):
            try:
                found = await self._mongo.campaigns.find_one_and_update(
                    {"_id": campaign_id},
                    [{"$set": change}],
                    {"scarce": 1},
                    upsert=True,
                    return_document=ReturnDocument.AFTER,
                )
                return frozenset(found.get("scarce", ()))
            except DuplicateKeyError:
                continue  # another process has just made the document
        raise RuntimeError("a document exists that cannot be found")

    async def renew(self, campaign_id: str, lends: frozenset[str]) -> frozenset[str] | None:
        """Say that this process still writes, and what it still lends.

        Returns the types that are scarce; None if this process was no longer among the writers.
        """
        found = await self._mongo.campaigns.find_one_and_update(
            {"_id": campaign_id, "writers.id": self.process}, [{"$set": self._entry(lends)}], {"scarce": 1}
        )
        return None if found is None else frozenset(found.get("scarce", ()))

    async def leave(self, campaign_id: str) -> None:
        """Be no longer one of the writers."""
        await self._take_out(campaign_id, self.process)

    async def sweep(self, campaign_id: str) -> None:
        """Take those from the writers who are gone without having said so."""
        await self._take_out(campaign_id, "")

    async def set_scarce(self, campaign_id: str, code_type: str, *, scarce: bool) -> None:
        """Say whether a type may be lent without transactions."""
        change = {
            "$addToSet" if scarce else "$pull": {"scarce": code_type},
            "$currentDate": {"touched": True},
        }
        await self._mongo.campaigns.update_one({"_id": campaign_id}, change)

    async def keep_counts(
        self, campaign_id: str, version: ObjectId | None, code_type: str, counts: Mapping[str, Any]
    ) -> None:
        """Keep counts, unless anybody has begun to write since ``version``."""
        try:
            await self._mongo.campaigns.update_one(
                {"_id": campaign_id, "version": version, "writers.id": {"$exists": False}},
                {"$set": {f"counts.{code_type}": dict(counts)}},
                upsert=version is None,
            )
        except DuplicateKeyError:
            return  # the first writer came in between

    async def with_counts(self) -> list[tuple[str, str]]:
        """Name the campaigns and types of which counts are kept."""
        cursor = self._mongo.campaigns.find({"counts": {"$exists": True}}, {"counts": 1}, sort=[("_id", 1)])
        return [(one["_id"], name) for one in await cursor.to_list(None) for name in sorted(one["counts"])]

    async def activity(self) -> tuple[bool, datetime]:
        """Tell whether codesvc writes to any campaign now, and when it last began, went on or ended to."""
        busy = await self._mongo.campaigns.find_one({"writers.id": {"$gt": ""}}, {"_id": 1})
        last = await self._mongo.campaigns.find_one(
            {"touched": {"$gt": _EPOCH}},
            {"touched": 1, "_id": 0},
            sort=[("touched", -1)],
        )
        return busy is not None, _EPOCH if last is None else last["touched"]

    def _entry(self, lends: frozenset[str]) -> dict[str, Any]:
        """Put this process's entry among the writers, as of now."""
        entry = {"id": self.process, "at": "$$NOW", "lends": sorted(lends)}
        return {"touched": "$$NOW", "writers": {"$concatArrays": [_others(self.process), [entry]]}}

    async def _take_out(self, campaign_id: str, process: str) -> None:
        """Take a process from the writers, and those that are gone."""
        change = {"touched": "$$NOW", "writers": _others(process)}
        await self._mongo.campaigns.update_one({"_id": campaign_id}, [{"$set": change}])


def _others(process: str) -> dict[str, Any]:
    """Select the entries of other processes that are not gone."""
    oldest = {"$subtract": ["$$NOW", 1000 * EXPIRY_SECONDS]}
    kept = {"$and": [{"$ne": ["$$this.id", process]}, {"$gt": ["$$this.at", oldest]}]}
    return {"$filter": {"input": {"$ifNull": ["$writers", []]}, "cond": kept}}


def _read(campaign_id: str) -> list[dict[str, Any]]:
    """Read a campaign; ages are told by the server, whose clock has written the dates."""
    entry = {
        "id": "$$this.id",
        "lends": "$$this.lends",
        "age": {"$divide": [{"$subtract": ["$$NOW", "$$this.at"]}, 1000]},
    }
    writers = {"$map": {"input": {"$ifNull": ["$writers", []]}, "in": entry}}
    return [{"$match": {"_id": campaign_id}}, {"$set": {"writers": writers}}]


def _campaign(document: Mapping[str, Any] | None) -> Campaign:
    if document is None:
        return Campaign()
    return Campaign(
        version=document.get("version"),
        writers=tuple(Writer(one["id"], one["age"], frozenset(one["lends"])) for one in document["writers"]),
        lending=document.get("lending"),
        scarce=frozenset(document.get("scarce", ())),
        counts=document.get("counts", {}),
    )

"""Counting the codes of a campaign in each status: from the index, or from counts that were kept and still hold.

The index ``codes_by_status`` has every code of a campaign and type in one range, the unassigned first, of those the
held ones in the order of their holds; so the three counts are the lengths of three ranges, read at one instant (read
concern ``snapshot``), side by side, without fetching a document:

    assigned = (assigned > epoch)     reserved = (unassigned, reserved > cut-off)     available = unassigned - reserved

That takes a time that grows with the campaign. So counts are kept in the campaign's document, and hold

* as long as no process of codesvc has begun to write to the campaign since (codesvc/datastore/motion.py), and
* as long as no other has: the stamp of the collection of codes is the same. Where it is not, and codesvc has written to
  other campaigns, that may be the reason. A campaign that takes long to count is then trusted, and checked in the
  background after a minute; any other is counted again.

Holds expire without a write. The codes whose holds ended since the counts were made are a short range of the same
index, which is counted each time.
"""

import asyncio
import contextvars
import logging
import time
from collections.abc import Awaitable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Final, Self

import pymongo
from bson.max_key import MaxKey
from bson.timestamp import Timestamp
from pymongo.errors import OperationFailure, PyMongoError

from codesvc.datastore.campaigns import Campaign, Campaigns, Look
from codesvc.datastore.client import COLLECTION, Mongo, transaction
from codesvc.datastore.failures import may_be_sent_again
from codesvc.datastore.motion import Motion
from codesvc.datastore.telemetry import Telemetry
from codesvc.models import CodeType, Counts, Status

logger = logging.getLogger(__name__)

EPOCH: Final = datetime.fromtimestamp(0, UTC)

_TRUSTED_SECONDS: Final = 60
_FAR: Final = 1_000
_PAUSE: Final = 0.005
_WRITING_SECONDS: Final = 1.0
_KEPT: Final = frozenset({*(status.value for status in Status), "cutOff", "stamp", "touched", "made"})

_NO_SNAPSHOT: Final = frozenset({239, 246})
"""SnapshotTooOld, SnapshotUnavailable: the server keeps less history than a count takes."""


@dataclass(frozen=True, slots=True)
class Keeping:
    """Which counts are kept and trusted.

    Attributes:
        keep_from: codes from which on counts are kept: fewer are counted by the index in less time than that takes.
        trust_from: codes from which on they are trusted while codesvc writes to other campaigns.
        quiet_seconds: for how long this process must not have written before a count says that it has ended to.

    """

    keep_from: int = 10_000
    trust_from: int = 200_000
    quiet_seconds: float = 0.25


@dataclass(frozen=True, slots=True)
class Kept:
    """Counts as they were at ``cut_off``, and what they rest on.

    Attributes:
        stamp: of the collection of codes, see ``Campaigns.look``.
        touched: when codesvc had last written to any campaign.
        made: when they were counted, in seconds of the cluster's clock.

    """

    counts: Counts
    cut_off: datetime
    stamp: str
    touched: datetime
    made: int

    @classmethod
    def read(cls, campaign: Campaign, code_type: CodeType) -> Self | None:
        """Read what :meth:`document` made; None where there is nothing that this version of codesvc understands."""
        document = campaign.counts.get(code_type.value)
        if document is None or not document.keys() >= _KEPT:
            return None
        counts = Counts(**{status.value: document[status.value] for status in Status})
        return cls(
            counts,
            document["cutOff"],
            document["stamp"],
            document["touched"],
            document["made"],
        )

    def document(self) -> dict[str, Any]:
        """Return the form in which they are stored."""
        return {
            **{status.value: getattr(self.counts, status.value) for status in Status},
            "cutOff": self.cut_off,
            "stamp": self.stamp,
            "touched": self.touched,
            "made": self.made,
        }


@dataclass(frozen=True, slots=True)
class Verdict:
    """Counts that were kept, and those that are right, at the same cut-off."""

    campaign_id: str
    code_type: CodeType
    kept: Counts
    right: Counts

    @property
    def equal(self) -> bool:
        """Whether they agree."""
        return self.kept == self.right


@dataclass(slots=True)
class _Run:
    """A count by the index that has not begun yet, and who waits for it."""

    cut_off: datetime
    callers: list[contextvars.Context] = field(default_factory=list)
    task: asyncio.Task[Counts] | None = None


class Counting:
    """Counts codes; raises what the driver raises."""

    def __init__(
        self, mongo: Mongo, campaigns: Campaigns, motion: Motion, telemetry: Telemetry, keeping: Keeping
    ) -> None:
        self._mongo = mongo
        self._campaigns = campaigns
        self._motion = motion
        self._telemetry = telemetry
        self._keeping = keeping
        self._waiting: dict[tuple[str, CodeType], _Run] = {}
        self._turns: dict[tuple[str, CodeType], asyncio.Lock] = {}
        self._checks: set[asyncio.Task[None]] = set()

    async def count(self, campaign_id: str, code_type: CodeType, cut_off: datetime) -> Counts:
        """Count the codes in each status, all three at one instant where the deployment knows transactions."""
        deadline = time.monotonic() + self._mongo.timeout
        while True:
            try:
                return await self._count(campaign_id, code_type, cut_off)
            except PyMongoError as error:
                if not may_be_sent_again(error) or time.monotonic() > deadline:
                    raise
            self._telemetry.command_retried()
            await asyncio.sleep(_PAUSE)

    async def _count(self, campaign_id: str, code_type: CodeType, cut_off: datetime) -> Counts:
        if not (await self._mongo.deployment()).transactions:
            return await self._by_index(campaign_id, code_type, cut_off, None)
        look = await self._campaigns.look(campaign_id)
        if look is None:
            return Counts(0, 0, 0)
        kept = Kept.read(look.campaign, code_type)
        if kept is not None:
            kept = await self._still_good(campaign_id, code_type, kept, look)
        if kept is not None:
            return (await self._at(campaign_id, code_type, kept, cut_off, look)).counts
        return await self._together(campaign_id, code_type, cut_off)

    async def close(self) -> None:
        """End the checks that are under way."""
        for check in self._checks:
            check.cancel()
        await asyncio.gather(*self._checks, return_exceptions=True)

    async def _still_good(self, campaign_id: str, code_type: CodeType, kept: Kept, look: Look) -> Kept | None:
        """Return what was kept if it holds."""
        if look.campaign.writers:
            return None
        if kept.stamp == look.stamp:
            return kept
        busy, touched = await self._campaigns.activity()
        if not busy and touched == kept.touched:
            return None  # whoever wrote, it was not codesvc
        if sum(_each(kept.counts)) < self._keeping.trust_from:
            return None
        if look.instant.time - kept.made > _TRUSTED_SECONDS:
            self._check_later(campaign_id, code_type)
        if busy:
            return kept
        kept = replace(kept, stamp=look.stamp, touched=touched)
        await self._keep(campaign_id, code_type, kept, look)
        return kept

    async def _at(
        self, campaign_id: str, code_type: CodeType, kept: Kept, cut_off: datetime, look: Look
    ) -> Kept:
        """Bring counts to ``cut_off``: the holds that began between the two moments have ended, or not yet."""
        if cut_off == kept.cut_off:
            return kept
        first, last = sorted((kept.cut_off, cut_off))
        unassigned = _unassigned(campaign_id, code_type)
        ended = await self._length(unassigned | {"date.reserved": {"$gt": first, "$lte": last}})
        far = ended >= _FAR
        if cut_off < kept.cut_off:
            ended = -ended
        counts = replace(
            kept.counts, available=kept.counts.available + ended, reserved=kept.counts.reserved - ended
        )
        kept = replace(kept, counts=counts, cut_off=cut_off)
        if far:
            await self._keep(campaign_id, code_type, kept, look)
        return kept

    async def _together(self, campaign_id: str, code_type: CodeType, cut_off: datetime) -> Counts:
        """Count by the index, once for all who ask while another count of the same codes is under way.

        A count that has begun already may miss what was written before its later callers asked; so they share the next.
        """
        key = (campaign_id, code_type)
        run = self._waiting.get(key)
        if run is None:
            run = self._waiting[key] = _Run(cut_off)
            run.task = asyncio.create_task(self._in_turn(key, run))
            # Also where everybody who waited for it has gone away.
            run.task.add_done_callback(lambda task: task.cancelled() or task.exception())
        run.cut_off = max(run.cut_off, cut_off)
        run.callers.append(contextvars.copy_context())
        assert run.task is not None  # noqa: S101
        return await asyncio.shield(run.task)

    async def _in_turn(self, key: tuple[str, CodeType], run: _Run) -> Counts:
        turn = self._turns.setdefault(key, asyncio.Lock())
        try:
            async with turn:
                del self._waiting[key]
                with self._telemetry.shared_operation("count_by_index", run.callers):
                    return await self._anew(*key, run.cut_off)
        finally:
            if self._waiting.get(key) is run:
                del self._waiting[key]
            if key not in self._waiting and not turn.locked():
                self._turns.pop(key, None)

    async def _anew(self, campaign_id: str, code_type: CodeType, cut_off: datetime) -> Counts:
        """Count by the index, and keep the counts if nobody writes."""
        await self._if_it_can_be(self._motion.settle(campaign_id, quiet=self._keeping.quiet_seconds))
        look = await self._campaigns.look(campaign_id)
        if look is None:
            return Counts(0, 0, 0)
        if look.campaign.deserted:
            await self._if_it_can_be(self._campaigns.sweep(campaign_id))
        counts = await self._by_index(campaign_id, code_type, cut_off, look.instant)
        if not look.campaign.writers and sum(_each(counts)) >= self._keeping.keep_from:
            # What codesvc has written elsewhere meanwhile can only make these be counted once more than need be.
            touched = (await self._campaigns.activity())[1]
            kept = Kept(counts, cut_off, look.stamp, touched, look.instant.time)
            await self._keep(campaign_id, code_type, kept, look)
        return counts

    async def _keep(self, campaign_id: str, code_type: CodeType, kept: Kept, look: Look) -> None:
        await self._if_it_can_be(
            self._campaigns.keep_counts(campaign_id, look.campaign.version, code_type.value, kept.document())
        )

    async def _if_it_can_be(self, written: Awaitable[None]) -> None:
        """Write what later counts gain from; this one is right without, as on a full disk."""
        with suppress(PyMongoError), pymongo.timeout(_WRITING_SECONDS):
            await written

    def _check_later(self, campaign_id: str, code_type: CodeType) -> None:
        if not self._checks:  # one at a time: it costs the server as much as a count
            check = asyncio.create_task(self._check(campaign_id, code_type), context=contextvars.Context())
            self._checks.add(check)
            check.add_done_callback(self._checks.discard)

    async def _check(self, campaign_id: str, code_type: CodeType) -> None:
        with suppress(PyMongoError), pymongo.timeout(self._mongo.timeout):
            await self.verify(campaign_id, code_type, documents=False)

    async def verify(self, campaign_id: str, code_type: CodeType, *, documents: bool) -> Verdict | None:
        """Compare what was kept with the index, or with all documents; None where nothing is kept, or somebody writes.

        Counts that do not agree are replaced by right ones.
        """
        look = await self._campaigns.look(campaign_id)
        kept = None if look is None else Kept.read(look.campaign, code_type)
        if look is None or kept is None:
            return None
        touched = (await self._campaigns.activity())[1]
        if documents:
            counts = await self._by_document(campaign_id, code_type, kept.cut_off)
        else:
            counts = await self._by_index(campaign_id, code_type, kept.cut_off, look.instant)
        again = await self._campaigns.look(campaign_id)
        if again is None or again.campaign.version != look.campaign.version:
            return None
        if documents and again.stamp != look.stamp:
            return None  # unlike the index, they are not read at one instant
        verdict = Verdict(campaign_id, code_type, kept.counts, counts)
        self._telemetry.counts_checked(equal=verdict.equal)
        if not verdict.equal:
            logger.error("counts that were kept were wrong", extra={"campaignId": campaign_id})
        kept = replace(kept, counts=counts, stamp=look.stamp, touched=touched, made=look.instant.time)
        await self._keep(campaign_id, code_type, kept, look)
        return verdict

    async def _by_document(self, campaign_id: str, code_type: CodeType, cut_off: datetime) -> Counts:
        """Count by reading every document of the campaign, in the order of ``_id``."""
        first, last = ({"campaign_id": campaign_id, "code": bound} for bound in ("", MaxKey()))
        conditions = {
            "assigned": {"$gt": ["$date.assigned", None]},
            "reserved": {"$and": [{"$lte": ["$date.assigned", None]}, {"$gt": ["$date.reserved", cut_off]}]},
            "unassigned": {"$lte": ["$date.assigned", None]},
        }
        sums = {name: {"$sum": {"$cond": [condition, 1, 0]}} for name, condition in conditions.items()}
        command = {
            "aggregate": COLLECTION,
            "pipeline": [
                {"$match": {"_id": {"$gte": first, "$lt": last}, "type": code_type.value}},
                {"$group": {"_id": None, **sums}},
            ],
            "hint": {"_id": 1},
            "cursor": {},
        }
        batch = (await self._mongo.database.command(command))["cursor"]["firstBatch"]
        if not batch:
            return Counts(0, 0, 0)
        return _counts(batch[0]["unassigned"], batch[0]["reserved"], batch[0]["assigned"])

    async def _by_index(
        self, campaign_id: str, code_type: CodeType, cut_off: datetime, instant: Timestamp | None
    ) -> Counts:
        """Count three ranges of the index, the assigned in two halves; at ``instant`` where there is one."""
        unassigned = _unassigned(campaign_id, code_type)
        reserved = unassigned | {"date.reserved": {"$gt": cut_off}}
        assigned = unassigned | {"date.assigned": {"$gt": EPOCH}}
        if instant is None:
            return _counts(*[await self._length(query) for query in (unassigned, reserved, assigned)])
        queries = (unassigned, reserved, *await self._halves(assigned))
        snapshot = {"readConcern": {"level": "snapshot", "atClusterTime": instant}}
        try:
            return _counts(*await asyncio.gather(*(self._length(query, **snapshot) for query in queries)))
        except OperationFailure as error:
            if error.code not in _NO_SNAPSHOT:
                raise
        return await self._in_transaction(queries)

    async def _halves(self, assigned: dict[str, Any]) -> list[dict[str, Any]]:
        """Cut the range of the assigned codes in two, to be counted side by side.

        The dates at its ends come from the index; that there are more on one side than on the other costs time only.
        """
        first, last = await asyncio.gather(*(self._end(assigned, direction) for direction in (1, -1)))
        if first is None or last is None or first == last:
            return [assigned]
        middle = first + (last - first) / 2
        return [
            assigned | {"date.assigned": span} for span in ({"$gt": EPOCH, "$lte": middle}, {"$gt": middle})
        ]

    async def _end(self, assigned: dict[str, Any], direction: int) -> datetime | None:
        found = await self._mongo.codes.find_one(
            assigned, {"_id": 0, "date.assigned": 1}, sort=[("date.assigned", direction)]
        )
        return None if found is None else found["date"]["assigned"]

    async def _in_transaction(self, queries: Sequence[dict[str, Any]]) -> Counts:
        async with transaction(self._mongo) as session:
            return _counts(*[await self._length(query, session) for query in queries])

    async def _length(self, query: dict[str, Any], session: Any = None, **options: Any) -> int:
        # An aggregate, since the count command knows no snapshot and counts orphans on shards. The server answers it
        # by a scan of the index without fetching a document.
        pipeline = [{"$match": query}, {"$count": "n"}]
        command = {"aggregate": COLLECTION, "pipeline": pipeline, "cursor": {}, **options}
        reply = await self._mongo.database.command(command, session=session)
        batch = reply["cursor"]["firstBatch"]
        return int(batch[0]["n"]) if batch else 0


def _unassigned(campaign_id: str, code_type: CodeType) -> dict[str, Any]:
    return {"_id.campaign_id": campaign_id, "type": code_type.value, "date.assigned": None}


def _counts(unassigned: int, reserved: int, *assigned: int) -> Counts:
    return Counts(available=unassigned - reserved, reserved=reserved, assigned=sum(assigned))


def _each(counts: Counts) -> tuple[int, int, int]:
    return counts.available, counts.reserved, counts.assigned

"""The collection of codes: counting, reserving, assigning, releasing, and the writers of uploads.

A document, as CONTRACT.md gives it (the fields of ``date`` but ``saved``, and ``reserveId``, are absent until set):

    {_id: {campaign_id, code}, type, reserveId, date: {saved, reserved, assigned}}

A code's status is not stored: it follows from two dates and the clock, so a hold expires without anybody writing.
:func:`status_query` is the one place that says so.
"""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from weakref import WeakValueDictionary

import pymongo
from pymongo.errors import PyMongoError

from codesvc.datastore.client import AsyncSession, Mongo, transaction
from codesvc.datastore.failures import translated
from codesvc.datastore.indexes import BY_STATUS, INDEXES, ensure_indexes
from codesvc.datastore.telemetry import Telemetry
from codesvc.datastore.wire import COMMAND_OVERHEAD, Wire, raw_encoding_works
from codesvc.datastore.writers import BatchWriter, InsertFirstWriter, UpsertWriter
from codesvc.errors import DatabaseUnavailableError
from codesvc.models import MAX_CODE_BYTES, CodeType, Counts, ReservedCode, Status
from codesvc.settings import WriteStrategy

EPOCH: Final = datetime.fromtimestamp(0, UTC)

# One `update` with an $in list of this many codes: 5,000 codes of 256 bytes stay far below the 16 MiB of a document,
# and encoding them keeps the event loop busy for a few milliseconds only.
_CODES_PER_STATEMENT: Final = 5_000
_TRANSIENT: Final = "TransientTransactionError"
_UNKNOWN_COMMIT: Final = "UnknownTransactionCommitResult"
_FIRST_PAUSE: Final = 0.002
_LONGEST_PAUSE: Final = 0.1

# The ends of the stock, from which random points are drawn, are looked up this often and for so many campaigns.
_RANGE_SECONDS: Final = 10.0
_REMEMBERED_RANGES: Final = 10_000
_ALPHABET: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def status_query(campaign_id: str, code_type: CodeType, status: Status, cut_off: datetime) -> dict[str, Any]:
    """Select the codes of one campaign and type that stand in ``status``.

    A hold lasts while ``date.reserved`` is after ``cut_off``. Each of the three reads a contiguous range, or two, of
    the index ``codes_by_status``, and is counted from the index alone.
    """
    query: dict[str, Any] = {"_id.campaign_id": campaign_id, "type": code_type.value}
    if status is Status.ASSIGNED:
        return query | {"date.assigned": {"$gt": EPOCH}}
    held = {"$gt": cut_off}
    return query | {
        "date.assigned": None,
        "date.reserved": held if status is Status.RESERVED else {"$not": held},
    }


class CodeStore:
    """Every query on the collection of codes. Instants are UTC with a resolution of a millisecond.

    Every method raises DatabaseUnavailableError when MongoDB gives no answer within the time limit of the settings,
    and DatabaseRefusedError when it will not do what was asked.
    """

    def __init__(self, mongo: Mongo, telemetry: Telemetry, strategy: WriteStrategy) -> None:
        self._mongo = mongo
        self._telemetry = telemetry
        self._strategy = strategy
        self._raw_encoding = raw_encoding_works()
        self._wire = Wire(mongo, telemetry, raw=self._raw_encoding)
        self._queues: WeakValueDictionary[tuple[str, CodeType], asyncio.Lock] = WeakValueDictionary()
        self._ranges: dict[tuple[str, CodeType], _KeyRange] = {}

    @property
    def raw_encoding(self) -> bool:
        """Whether the driver takes batches as they are; if not, uploads are slow."""
        return self._raw_encoding

    async def batch_limits(self) -> tuple[int, int]:
        """Tell how many codes, and how many bytes of payload, the server takes in one bulk write."""
        deployment = await self._mongo.deployment()
        return deployment.max_write_batch_size, deployment.max_document_bytes - COMMAND_OVERHEAD

    async def writer(self, *, campaign_id: str, code_type: CodeType, saved: datetime) -> BatchWriter:
        """Make the writer for one upload, all of whose new codes are saved at the same instant."""
        # A collection that was dropped behind a running service would otherwise grow without its index.
        await ensure_indexes(self._mongo, timeout=self._mongo.timeout)
        if self._strategy is WriteStrategy.UPSERT:
            return UpsertWriter(self._mongo, self._telemetry, campaign_id, code_type, saved)
        return InsertFirstWriter(self._wire, campaign_id, code_type)

    async def count(self, *, campaign_id: str, code_type: CodeType, cut_off: datetime) -> Counts:
        """Count the codes in each status, all three at one instant where the deployment knows transactions."""
        queries = {status: status_query(campaign_id, code_type, status, cut_off) for status in Status}
        with self._operation("count"):
            deadline = time.monotonic() + self._mongo.timeout
            if not (await self._mongo.deployment()).transactions:
                return await self._count_each(queries, None)
            while True:
                try:
                    async with transaction(self._mongo) as session:
                        return await self._count_each(queries, session)
                except PyMongoError as error:
                    if not error.has_error_label(_TRANSIENT) or time.monotonic() > deadline:
                        raise
                await asyncio.sleep(_FIRST_PAUSE)

    async def count_status(
        self, *, campaign_id: str, code_type: CodeType, status: Status, cut_off: datetime
    ) -> int:
        """Count the codes in one status."""
        with self._operation("count"):
            return await self._count(status_query(campaign_id, code_type, status, cut_off), None)

    async def reserve(
        self,
        *,
        campaign_id: str,
        code_type: CodeType,
        count: int,
        reserve_id: str,
        now: datetime,
        cut_off: datetime,
    ) -> list[ReservedCode]:
        """Hold ``count`` available codes, or all that are left if they are fewer.

        Where the deployment knows transactions, a reserve takes all of its codes at once or none of them, so two
        callers never split the last ones between them: each sees what the other left.
        """
        request = _Request(campaign_id, code_type, count, reserve_id, now, cut_off)
        with self._operation("reserve"):
            deployment = await self._mongo.deployment()
            take = self._reserve_in_transaction if deployment.transactions else self._reserve_in_turn
            found = await take(request)
        return [
            ReservedCode(
                code=document["_id"]["code"],
                type=code_type,
                reserve_id=reserve_id,
                saved=document["date"]["saved"],
                reserved=now,
            )
            for document in found
        ]

    async def assign(self, *, campaign_id: str, codes: Sequence[str], now: datetime) -> int:
        """Assign the codes that are not assigned yet; return how many those were."""
        with self._operation("assign"):
            return await self._change(
                campaign_id, codes, {"date.assigned": None}, {"$set": {"date.assigned": now}}
            )

    async def release(self, *, campaign_id: str, codes: Sequence[str], cut_off: datetime) -> int:
        """Make reserved codes available again; return how many there were."""
        with self._operation("release"):
            return await self._change(
                campaign_id,
                codes,
                {"date.assigned": None, "date.reserved": {"$gt": cut_off}},
                {"$unset": {"date.reserved": "", "reserveId": ""}},
            )

    @contextmanager
    def _operation(self, name: str) -> Iterator[None]:
        # pymongo.timeout bounds the whole operation, however many commands it takes.
        with self._telemetry.datastore_operation(name), translated(), pymongo.timeout(self._mongo.timeout):
            yield

    async def _count_each(
        self, queries: dict[Status, dict[str, Any]], session: AsyncSession | None
    ) -> Counts:
        return Counts(
            **{status.value: await self._count(query, session) for status, query in queries.items()}
        )

    async def _count(self, query: dict[str, Any], session: AsyncSession | None) -> int:
        # An aggregate, since the count command may not run in a transaction and counts orphans on shards. The server
        # answers it by a scan of the index without fetching a document.
        reply = await self._mongo.database.command(
            {
                "aggregate": self._mongo.codes.name,
                "pipeline": [{"$match": query}, {"$count": "n"}],
                "cursor": {},
            },
            session=session,
        )
        batch = reply["cursor"]["firstBatch"]
        return int(batch[0]["n"]) if batch else 0

    async def _change(
        self, campaign_id: str, codes: Sequence[str], condition: dict[str, Any], change: dict[str, Any]
    ) -> int:
        changed = 0
        # What is longer than a code can be is none, and might not fit into a statement.
        possible = [code for code in codes if len(code) <= MAX_CODE_BYTES]
        for chosen in _statements(campaign_id, possible):
            result = await self._mongo.codes.update_many(chosen | condition, change)
            changed += result.modified_count
        return changed

    async def _reserve_in_transaction(self, request: "_Request") -> list[dict[str, Any]]:
        deadline = time.monotonic() + self._mongo.timeout
        # Callers start at random points of the stock, so they seldom meet. Those who did meet queue up, in this
        # process; meetings of several processes are settled by the pauses.
        found = await self._try_to_reserve(request, deadline)
        if found is not None:
            return found
        pause = _FIRST_PAUSE
        async with self._turn(request, deadline):
            while time.monotonic() < deadline:
                found = await self._try_to_reserve(request, deadline)
                if found is not None:
                    return found
                await asyncio.sleep(random.uniform(0, pause))  # noqa: S311 - no secret
                pause = min(2 * pause, _LONGEST_PAUSE)
        raise DatabaseUnavailableError("The database did not settle a reservation in time.")

    async def _try_to_reserve(self, request: "_Request", deadline: float) -> list[dict[str, Any]] | None:
        """Reserve in one transaction; None when another writer was in the way, and nothing was held."""
        try:
            async with transaction(self._mongo) as session:
                found = await self._candidates(request, request.count, session)
                if not found:
                    return []
                for chosen in _statements(request.campaign_id, _codes(found)):
                    await self._mongo.codes.update_many(chosen, request.hold, session=session)
                await _commit(session, deadline)
                return found
        except PyMongoError as error:
            if error.has_error_label(_TRANSIENT):
                return None
            raise

    async def _reserve_in_turn(self, request: "_Request") -> list[dict[str, Any]]:
        """Reserve without transactions: one caller at a time in this process, each code held by a condition."""
        held: list[dict[str, Any]] = []
        available = {"date.assigned": None, "date.reserved": {"$not": {"$gt": request.cut_off}}}
        async with self._turn(request, time.monotonic() + self._mongo.timeout):
            while len(held) < request.count:
                found = await self._candidates(request, request.count - len(held), None)
                if not found:
                    break
                for chosen in _statements(request.campaign_id, _codes(found)):
                    await self._mongo.codes.update_many(chosen | available, request.hold)
                    mine = self._mongo.codes.find(chosen | {"reserveId": request.reserve_id})
                    held += await mine.to_list(_CODES_PER_STATEMENT)
        return held

    @asynccontextmanager
    async def _turn(self, request: "_Request", deadline: float) -> AsyncIterator[None]:
        key = (request.campaign_id, request.code_type)
        queue = self._queues.get(key)
        if queue is None:
            queue = self._queues[key] = asyncio.Lock()
        try:
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                await queue.acquire()
        except TimeoutError:
            raise DatabaseUnavailableError(
                "The database did not answer earlier reservations in time."
            ) from None
        try:
            yield
        finally:
            queue.release()

    async def _candidates(
        self, request: "_Request", count: int, session: AsyncSession | None
    ) -> list[dict[str, Any]]:
        """Find up to ``count`` available codes: never held ones from a random point on, then those whose hold ended."""
        pivot = await self._pivot(request)
        never_held = request.unassigned | {"date.reserved": None}
        found: list[dict[str, Any]] = []
        for query in (
            never_held | {"_id.code": {"$gte": pivot}},
            never_held | {"_id.code": {"$lt": pivot}},
            request.unassigned | {"date.reserved": {"$lte": request.cut_off}},
        ):
            missing = count - len(found)
            if missing == 0:
                break
            cursor = self._mongo.codes.find(
                query,
                {"date.saved": 1},
                limit=missing,
                batch_size=missing + 1,
                session=session,
            )
            found += await cursor.to_list(missing)
        return found

    async def _pivot(self, request: "_Request") -> str:
        key = (request.campaign_id, request.code_type)
        span = self._ranges.get(key)
        if span is None or span.expires < time.monotonic():
            first, last = await self._edge(request, 1), await self._edge(request, -1)
            if len(self._ranges) >= _REMEMBERED_RANGES:
                self._ranges.clear()
            span = self._ranges[key] = _KeyRange(first, last, time.monotonic() + _RANGE_SECONDS)
        return random_between(span.first, span.last)

    async def _edge(self, request: "_Request", direction: int) -> str:
        order = [(name, direction) for name, _ in INDEXES[BY_STATUS]]
        query = request.unassigned | {"date.reserved": None}
        cursor = self._mongo.codes.find(query, {"_id": 1}, sort=order, limit=1)
        found = await cursor.to_list(1)
        return str(found[0]["_id"]["code"]) if found else ""


def random_between(first: str, last: str) -> str:
    """Return a random string from ``first`` to ``last`` or near them, in the order of their code points.

    It shares what the two share at their start, so that it falls among codes that differ only late.
    """
    shared = 0
    while shared < min(len(first), len(last)) and first[shared] == last[shared]:
        shared += 1
    low = ord(first[shared]) if shared < len(first) else 0x20
    high = ord(last[shared]) if shared < len(last) else low
    point = random.randint(low, max(low, high))  # noqa: S311 - spreads load, guards nothing
    if 0xD800 <= point <= 0xDFFF:  # no text holds a surrogate
        point = 0xD7FF
    return first[:shared] + chr(point) + "".join(random.choices(_ALPHABET, k=8))  # noqa: S311


def _codes(documents: list[dict[str, Any]]) -> list[str]:
    return [document["_id"]["code"] for document in documents]


def _statements(campaign_id: str, codes: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield queries that together select the codes, each small enough for one statement."""
    for start in range(0, len(codes), _CODES_PER_STATEMENT):
        chosen = codes[start : start + _CODES_PER_STATEMENT]
        yield {"_id": {"$in": [{"campaign_id": campaign_id, "code": code} for code in chosen]}}


async def _commit(session: AsyncSession, deadline: float) -> None:
    """Commit, and ask again while it is unknown whether the commit took effect (a commit may be repeated)."""
    while True:
        try:
            await session.commit_transaction()
        except PyMongoError as error:
            if not error.has_error_label(_UNKNOWN_COMMIT) or time.monotonic() > deadline:
                raise
            await asyncio.sleep(_FIRST_PAUSE)
        else:
            return


@dataclass(frozen=True, slots=True)
class _KeyRange:
    first: str
    last: str
    expires: float


@dataclass(frozen=True, slots=True)
class _Request:
    campaign_id: str
    code_type: CodeType
    count: int
    reserve_id: str
    now: datetime
    cut_off: datetime

    @property
    def unassigned(self) -> dict[str, Any]:
        return {"_id.campaign_id": self.campaign_id, "type": self.code_type.value, "date.assigned": None}

    @property
    def hold(self) -> dict[str, Any]:
        return {"$set": {"reserveId": self.reserve_id, "date.reserved": self.now}}

"""Telling of a campaign's codes, in pages by code, however many there are and however few are wanted of them.

A page begins behind a code, not at a position of a cursor: nothing is kept at the server between two pages, so that a
reader may take its time, and a failover costs one page that is read again. There are two ways to find the next codes:

* The index ``codes_by_status``. Codes of one type and status are one or two stretches of it. Those that were never held
  are in the order of their codes, so the server reads just the page. In the others, codes come in the order of their
  dates, and the server has to look at all of them to find the page; so these serve where they are short.
* The index of ``_id``, where all codes of the campaign are in order, and the wanted ones may be far between. Documents
  are looked at in pieces of a bounded number; after some time the page ends with what was found, perhaps with nothing.

Whatever has kept its type and status while one page after the other was read is in exactly one of them.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import pymongo
from pymongo.errors import PyMongoError

from codesvc.datastore.candidates import ABSENT
from codesvc.datastore.client import COLLECTION, Mongo
from codesvc.datastore.counting import EPOCH
from codesvc.datastore.documents import read_code
from codesvc.datastore.failures import may_be_sent_again, translated
from codesvc.datastore.indexes import BY_STATUS
from codesvc.datastore.pieces import BY_ID, Pieces, stretch
from codesvc.datastore.telemetry import Telemetry
from codesvc.models import CodePage, CodeType, Status

_SHORT: Final = 20_000
"""Codes of a stretch that is searched for a page as a whole."""
_MEASURED_SECONDS: Final = 15.0
_PAUSE: Final = 0.05
# Documents that one command looks at.
_FIRST_PIECE: Final = 2_000
_LARGEST_PIECE: Final = 50_000
_PIECE_SECONDS: Final = 0.25

Documents = list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class _Lane:
    """Codes of one type and status that lie together in the index, and whether they do so in their order."""

    query: dict[str, Any]
    ordered: bool = False


class CodeListing:
    """Tells of the codes of one campaign; for one reader, who asks for one page after the other.

    Args:
        short: codes that are not in their order in the index of statuses, up to which they are looked for there.
        first_piece: documents that are looked at first where they are looked for by ``_id``.

    """

    def __init__(
        self,
        mongo: Mongo,
        telemetry: Telemetry,
        campaign_id: str,
        code_type: CodeType | None,
        status: Status | None,
        *,
        short: int = _SHORT,
        first_piece: int = _FIRST_PIECE,
    ) -> None:
        self._mongo = mongo
        self._telemetry = telemetry
        self._campaign_id = campaign_id
        self._type = code_type
        self._status = status
        self._pieces = Pieces(
            mongo.codes,
            campaign_id,
            first=first_piece,
            most=_LARGEST_PIECE,
            seconds=_PIECE_SECONDS,
        )
        self._most = short
        self._short = False
        self._measured = float("-inf")

    async def page(self, *, after: str, limit: int, cut_off: datetime, patience: float) -> CodePage:
        """Read at most ``limit`` codes behind ``after``, or those that ``patience`` seconds suffice to find.

        Raises:
            DatabaseUnavailableError: no answer in time.
            DatabaseRefusedError: the server refused.

        """
        deadline = time.monotonic() + self._mongo.timeout
        with (
            self._telemetry.datastore_operation("list"),
            translated(),
            pymongo.timeout(self._mongo.timeout),
        ):
            while True:
                try:
                    return await self._page(after, limit, cut_off, time.monotonic() + patience)
                except PyMongoError as error:
                    if not may_be_sent_again(error) or time.monotonic() > deadline:
                        raise
                self._telemetry.command_retried()
                await asyncio.sleep(_PAUSE)

    async def _page(self, after: str, limit: int, cut_off: datetime, until: float) -> CodePage:
        if self._type is None and self._status is None:
            found = await self._read(stretch(self._campaign_id, after), "_id", BY_ID, limit)
            return _page(found, cut_off, None if len(found) < limit else _last(found))
        lanes = self._lanes(cut_off)
        if await self._is_short(lanes):
            return await self._merge(lanes, after, limit, cut_off)
        return await self._walk(after, limit, cut_off, until)

    # By the index of statuses.

    def _lanes(self, cut_off: datetime) -> list[_Lane]:
        lanes = []
        for code_type in CodeType if self._type is None else (self._type,):
            base = {"_id.campaign_id": self._campaign_id, "type": code_type.value}
            unassigned = base | {"date.assigned": ABSENT}
            if self._status in {None, Status.AVAILABLE}:
                lanes.append(_Lane(unassigned | {"date.reserved": ABSENT}, ordered=True))
                lanes.append(_Lane(unassigned | {"date.reserved": {"$lte": cut_off}}))
            if self._status in {None, Status.RESERVED}:
                lanes.append(_Lane(unassigned | {"date.reserved": {"$gt": cut_off}}))
            if self._status in {None, Status.ASSIGNED}:
                lanes.append(_Lane(base | {"date.assigned": {"$gt": EPOCH}}))
        return lanes

    async def _is_short(self, lanes: Sequence[_Lane]) -> bool:
        """Tell whether the stretches without order are short, as was lately seen."""
        if time.monotonic() - self._measured > _MEASURED_SECONDS:
            left = self._most
            for lane in lanes:
                if not lane.ordered and left >= 0:
                    left -= await self._length(lane, left + 1)
            self._short = left >= 0
            self._measured = time.monotonic()
        return self._short

    async def _length(self, lane: _Lane, most: int) -> int:
        """Count the codes of a lane, up to ``most``, by keys of the index alone."""
        # A comparison with null, which keys can answer, where the lane asks whether a field is there.
        query = lane.query | ({"date.assigned": None} if lane.query["date.assigned"] == ABSENT else {})
        pipeline = [{"$match": query}, {"$limit": most}, {"$count": "n"}]
        command = {"aggregate": COLLECTION, "pipeline": pipeline, "cursor": {}, "hint": BY_STATUS}
        batch = (await self._mongo.database.command(command))["cursor"]["firstBatch"]
        return int(batch[0]["n"]) if batch else 0

    async def _merge(self, lanes: Sequence[_Lane], after: str, limit: int, cut_off: datetime) -> CodePage:
        """Read the next codes of each lane: all up to where the first of them was cut off by the limit."""
        found: Documents = []
        span = {"$gt": after}
        # Those in order first: of the others, no more is read than up to where they end.
        for lane in sorted(lanes, key=lambda one: not one.ordered):
            some = await self._read(lane.query | {"_id.code": span}, "_id.code", BY_STATUS, limit)
            found += some
            if len(some) == limit:
                # Text is in the order of its code points here and in that of its UTF-8 there, which is the same.
                span = {"$gt": after, "$lte": min(_last(some), span.get("$lte", _last(some)))}
        last = span.get("$lte")
        found = sorted((one for one in found if last is None or _code(one) <= last), key=_code)
        more = last is not None or len(found) > limit
        return _page(found[:limit], cut_off, _last(found[:limit]) if more else None)

    # By the index of _id.

    async def _walk(self, after: str, limit: int, cut_off: datetime, until: float) -> CodePage:
        found: Documents = []
        wanted = self._wanted(cut_off)
        while True:
            end = await self._pieces.end(after)
            query = stretch(self._campaign_id, after, end) | wanted
            found += await self._read(query, "_id", BY_ID, limit - len(found))
            if len(found) == limit:
                return _page(found, cut_off, _last(found))
            if end is None:
                return _page(found, cut_off, None)
            self._pieces.done()
            after = end
            if time.monotonic() > until:
                return _page(found, cut_off, after)

    def _wanted(self, cut_off: datetime) -> dict[str, Any]:
        """Select documents of the type and status."""
        wanted: dict[str, Any] = {} if self._type is None else {"type": self._type.value}
        if self._status is Status.ASSIGNED:
            wanted["date.assigned"] = {"$gt": EPOCH}
        elif self._status is not None:
            live = {"$gt": cut_off}
            wanted["date.assigned"] = None
            wanted["date.reserved"] = live if self._status is Status.RESERVED else {"$not": live}
        return wanted

    async def _read(self, query: dict[str, Any], order: str, index: Any, limit: int) -> Documents:
        # One more than the limit in a batch: the server then closes the cursor with it.
        cursor = self._mongo.codes.find(
            query, sort=[(order, 1)], limit=limit, batch_size=limit + 1, hint=index
        )
        found: Documents = await cursor.to_list(limit)
        return found


def _page(found: Documents, cut_off: datetime, following: str | None) -> CodePage:
    return CodePage(tuple([read_code(one, cut_off) for one in found]), following)


def _code(document: dict[str, Any]) -> str:
    code: str = document["_id"]["code"]
    return code


def _last(found: Documents) -> str:
    return _code(found[-1])

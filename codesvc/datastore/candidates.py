"""Codes that may be lent: read ahead from the index, a stretch at a time, and handed out once each.

The first stretch begins at a random point of the stock, each further one where the last one ended, so that processes
seldom meet. Never-held codes come first, then those whose hold has ended, from a random moment on. What is read ahead
is no promise: another process may take it first, and whoever lends it finds out.
"""

import asyncio
import random
import time
from collections import deque
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple

from codesvc.datastore.client import AsyncCollection, AsyncSession
from codesvc.datastore.indexes import BY_STATUS, INDEXES
from codesvc.models import CodeType

ABSENT: Final = {"$exists": False}
"""One point of an index, null, where a comparison with None is two, undefined and null. From the other one the server
would look for the next key from the first never-held code on, past each that was lent of late: a key that was removed
stays, and is passed over, for as long as the server keeps history. (Only a document can tell whether a field is absent,
and candidates are fetched in any case.)"""

# What was read ahead is dropped after so many seconds: by then others may have taken much of it.
_FRESH_SECONDS: Final = 2.0
_FIRST_AHEAD: Final = 64
_MOST_AHEAD: Final = 1_000
_OF_A_HOLD: Final = {"date.reserved": 1, "date.held": 1, "reserveId": 1}
_ALPHABET: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


class EndedHold(NamedTuple):
    """A hold that is over: what a document says of it until the next."""

    reserve_id: str | None
    reserved: datetime
    held: datetime | None = None


class Candidate(NamedTuple):
    """A code that was available when it was read; ``ended`` is the last hold on it, if there was one.

    A tuple, since ten thousand of them are made for one request, each in a third of the time of a frozen dataclass.
    """

    code: str
    saved: datetime
    ended: "EndedHold | None"


class Candidates:
    """The candidates of one campaign and type; raises what the driver raises.

    Attributes:
        never_held: selects the codes that were never held.

    """

    def __init__(self, codes: AsyncCollection, campaign_id: str, code_type: CodeType) -> None:
        self._codes = codes
        self._unassigned: dict[str, Any] = {
            "_id.campaign_id": campaign_id,
            "type": code_type.value,
            "date.assigned": ABSENT,
        }
        self.never_held = self._unassigned | {"date.reserved": ABSENT}
        self._found: deque[Candidate] = deque()
        self._out: set[str] = set()
        self._read = float("-inf")
        self._ahead = _FIRST_AHEAD
        self._position: str | None = None
        self._reading = asyncio.Lock()
        self._timer: asyncio.TimerHandle | None = None

    async def take(self, count: int, cut_off: datetime) -> list[Candidate]:
        """Hand out ``count`` candidates that nobody in this process has, or fewer where there are no more.

        They are out until they are given to :meth:`done`.
        """
        async with self._reading:
            if time.monotonic() - self._read > _FRESH_SECONDS:
                self._found.clear()
                self._ahead = _FIRST_AHEAD
            missing = count - len(self._found)
            if missing > 0:
                # Who asks again soon is going to ask for more.
                self._found.extend(await self._more(max(missing, self._ahead), cut_off))
                self._ahead = min(2 * self._ahead + missing, _MOST_AHEAD)
                self._read = time.monotonic()
            taken = [self._found.popleft() for _ in range(min(count, len(self._found)))]
        self._out.update(one.code for one in taken)
        return taken

    def done(self, taken: Sequence[Candidate]) -> None:
        """Take back what was handed out, whatever became of it."""
        self._out.difference_update(one.code for one in taken)

    def forget_later(self) -> None:
        """Give the memory of what was read ahead free once it is too old to be used."""
        if self._found and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_FRESH_SECONDS + 0.1, self._forget)

    def _forget(self) -> None:
        self._timer = None
        if time.monotonic() - self._read > _FRESH_SECONDS:
            self._found.clear()
        else:
            self.forget_later()

    async def find(self, count: int, cut_off: datetime, session: AsyncSession) -> list[Candidate]:
        """Find candidates within a transaction, from random points on, past all that was read ahead."""
        return await self._search(await self._random_code(session), count, cut_off, session)

    async def _more(self, count: int, cut_off: datetime) -> list[Candidate]:
        # What is out now may be held by the time it is done with, and may have been read just before that.
        known = set(self._out)
        if self._position is None:
            self._position = await self._random_code(None)
        found = await self._search(self._position, count, cut_off, None)
        fresh = [one for one in found if one.ended is None]
        if fresh:
            self._position = fresh[-1].code
        known.update(one.code for one in self._found)
        return [one for one in found if one.code not in known]

    async def _search(
        self, point: str, count: int, cut_off: datetime, session: AsyncSession | None
    ) -> list[Candidate]:
        """Go once round the stock: never-held codes from ``point`` on, and from the first to it, then ended holds."""
        found: list[Candidate] = []
        for beyond in ({"$gt": point}, {"$lte": point}) if point else ({"$gt": point},):
            if len(found) < count:
                query = self.never_held | {"_id.code": beyond}
                found += await self._read_some(query, count - len(found), session, held=False)
        if len(found) < count:
            moment = await self._random_moment(cut_off, session)
            for span in ({"$gt": moment, "$lte": cut_off}, {"$lte": min(moment, cut_off)}):
                if len(found) < count:
                    query = self._unassigned | {"date.reserved": span}
                    found += await self._read_some(query, count - len(found), session, held=True)
        return found

    async def _read_some(
        self, query: dict[str, Any], count: int, session: AsyncSession | None, *, held: bool
    ) -> list[Candidate]:
        projection = {"_id.code": 1, "date.saved": 1} | (_OF_A_HOLD if held else {})
        cursor = self._codes.find(query, projection, limit=count, batch_size=count + 1, session=session)
        found: list[Candidate] = []
        known: Any = None
        for one in await cursor.to_list(count):
            saved = one["date"]["saved"]
            # Neighbours often came with one upload. One object for one instant: it is told by identity further on.
            known = known if saved == known else saved
            ended = _ended_hold(one) if held else None
            found.append(Candidate(one["_id"]["code"], known, ended))
        return found

    async def _random_code(self, session: AsyncSession | None) -> str:
        query = self.never_held
        first = await self._edge(query, 1, session)
        last = None if first is None else await self._edge(query, -1, session)
        if first is None or last is None:
            return ""
        return random_between(first["_id"]["code"], last["_id"]["code"])

    async def _random_moment(self, cut_off: datetime, session: AsyncSession | None) -> datetime:
        query = self._unassigned | {"date.reserved": {"$lte": cut_off}}
        first = await self._edge(query, 1, session)
        if first is None:
            return cut_off
        earliest: datetime = first["date"]["reserved"]
        milliseconds = (cut_off - earliest) // timedelta(milliseconds=1)
        return earliest + timedelta(milliseconds=random.randint(0, milliseconds))  # noqa: S311 - spreads load

    async def _edge(
        self, query: dict[str, Any], direction: int, session: AsyncSession | None
    ) -> dict[str, Any] | None:
        order = [(name, direction) for name, _ in INDEXES[BY_STATUS]]
        projection = {"_id.code": 1, "date.reserved": 1}
        found: dict[str, Any] | None = await self._codes.find_one(
            query, projection, sort=order, session=session
        )
        return found


def _ended_hold(document: dict[str, Any]) -> EndedHold:
    date = document["date"]
    return EndedHold(document.get("reserveId"), date["reserved"], date.get("held"))


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

"""Campaigns in motion: a process says that it writes to a campaign before it does, and that it has ended long after.

What it says is one small write for a whole burst of them (codesvc/datastore/campaigns.py). Two things follow from it:

* Counts that were kept hold as long as nobody has begun to write since, so nobody has to keep them up to date, and no
  crash can leave them wrong: who dies while writing stays in the list, and the campaign is counted by its index, until
  the entry has expired.
* Whoever finds that codes run out can see whether another process may hold some of them for a moment only.

An entry holds for long (``EXPIRY_SECONDS``), and what stands on it for a part of that only, so that a write which was
begun under it has ended on the server, too, before anybody takes it for gone.
"""

import asyncio
import contextlib
import contextvars
import logging
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Final

import pymongo
from pymongo.errors import PyMongoError

from codesvc.datastore.campaigns import Campaigns
from codesvc.datastore.client import Mongo

logger = logging.getLogger(__name__)

_TEND_SECONDS: Final = 0.25
_QUIET_SECONDS: Final = 2.0
_RENEWAL_SECONDS: Final = 20.0
_LENDING_RENEWAL_SECONDS: Final = 0.5
# How long a process says that it lends without having done so.
_LENDING_SECONDS: Final = 5.0
_TENDED_AT_ONCE: Final = 8
# How long an entry is stood on without renewal; a server lets no operation of codesvc run for more than 28 s.
_GOOD_SECONDS: Final = 60.0
_LENDING_GOOD_SECONDS: Final = 4.0
# After a write without an answer, which the server may still carry out.
_DOUBT_SECONDS: Final = 45.0
_GOODBYE_SECONDS: Final = 1.0


class Mark:
    """What this process has said of one campaign.

    Attributes:
        scarce: types that are not to be lent without transactions, as far as was last heard.

    """

    def __init__(self) -> None:
        self.scarce: frozenset[str] = frozenset()
        self.lends: frozenset[str] = frozenset()
        self.active = 0
        self.lending: dict[str, int] = {}
        self.lent: dict[str, float] = {}
        self.used = time.monotonic()
        self.confirmed = float("-inf")
        self.doubt = float("-inf")
        self.lock = asyncio.Lock()

    def good(self, lends: str | None) -> bool:
        """Tell whether a write may begin."""
        age = time.monotonic() - self.confirmed
        if lends is None:
            return age < _GOOD_SECONDS
        return lends in self.lends and age < _LENDING_GOOD_SECONDS

    @property
    def wanted(self) -> frozenset[str]:
        """The types that are still lent: not those that became scarce or were not asked for lately."""
        now = time.monotonic()
        return frozenset(
            one
            for one in self.lends
            if self.lending.get(one)
            or (one not in self.scarce and now - self.lent.get(one, now) < _LENDING_SECONDS)
        )


class Motion:
    """Says when this process begins and ends to write to a campaign; raises what the driver raises."""

    def __init__(self, mongo: Mongo, campaigns: Campaigns) -> None:
        self._mongo = mongo
        self._campaigns = campaigns
        self._marks: dict[str, Mark] = {}
        self._tending: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def writing(self, campaign_id: str, *, lends: str | None = None) -> AsyncIterator[Mark]:
        """Cover writes to a campaign's codes; ``lends`` is a type of which codes are held without a transaction.

        Where that type turns out to be scarce, the block sees so in the mark, and must not lend.
        """
        if not (await self._mongo.deployment()).transactions:
            # A standalone server keeps no counts, and lends in turns.
            yield Mark()
            return
        mark = self._marks.get(campaign_id)
        if mark is None:
            mark = self._marks[campaign_id] = Mark()
        mark.active += 1
        if lends is not None:
            mark.lending[lends] = mark.lending.get(lends, 0) + 1
        try:
            if not mark.good(lends) and not (lends is not None and lends in mark.scarce and mark.good(None)):
                await self._enter(campaign_id, mark, lends)
            yield mark
        except BaseException:
            mark.doubt = time.monotonic() + _DOUBT_SECONDS
            raise
        finally:
            mark.active -= 1
            if lends is not None:
                mark.lending[lends] -= 1
                mark.lent[lends] = time.monotonic()
            mark.used = time.monotonic()

    async def stop_lending(self, campaign_id: str, code_type: str) -> None:
        """Say that no codes of a type are held without a transaction any longer; none may be, at this moment."""
        mark = self._marks.get(campaign_id)
        if mark is not None and code_type in mark.lends:
            mark.scarce |= {code_type}
            await self._renew(campaign_id, mark)

    async def confirm(self, campaign_id: str) -> None:
        """Wait until a majority has acknowledged a write that comes after all that this process has read."""
        mark = self._marks.get(campaign_id)
        if mark is not None:
            await self._renew(campaign_id, mark)

    async def settle(self, campaign_id: str, *, quiet: float) -> None:
        """Say that writing has ended, if nothing was written for ``quiet`` seconds and nothing is under way."""
        mark = self._marks.get(campaign_id)
        if mark is None or not self._quiet(mark, quiet) or mark.lock.locked():
            return
        async with mark.lock:
            if not self._quiet(mark, quiet):
                return
            # Whoever wants to write from here on has to say so first, which waits for the lock.
            mark.confirmed = float("-inf")
            await self._campaigns.leave(campaign_id)
            if not mark.active and self._marks.get(campaign_id) is mark:
                del self._marks[campaign_id]

    async def close(self) -> None:
        """Say of every campaign that nothing more will be written, as far as that is known."""
        if self._tending is not None:
            self._tending.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._tending
        with contextlib.suppress(PyMongoError), pymongo.timeout(_GOODBYE_SECONDS):
            for campaign_id in list(self._marks):
                await self.settle(campaign_id, quiet=0.0)

    async def _enter(self, campaign_id: str, mark: Mark, lends: str | None) -> None:
        async with mark.lock:
            if mark.good(lends):
                return
            wanted = mark.wanted if lends is None or lends in mark.scarce else mark.wanted | {lends}
            # Nobody lends from here on what the entry will not say any more, and nobody yet what it will say first.
            mark.lends &= wanted
            asked = time.monotonic()
            mark.scarce = await self._campaigns.enter(campaign_id, wanted)
            mark.lends, mark.confirmed = wanted, asked
        if self._tending is None or self._tending.done():
            # In a context of its own: neither the time limit nor the span of this request is the task's.
            self._tending = asyncio.create_task(self._tend(), context=contextvars.Context())

    def _quiet(self, mark: Mark, seconds: float) -> bool:
        now = time.monotonic()
        return not mark.active and now - mark.used >= seconds and now >= mark.doubt

    async def _tend(self) -> None:
        while self._marks:
            await asyncio.sleep(_TEND_SECONDS)
            marks = iter(list(self._marks.items()))
            await asyncio.gather(*(self._tend_some(marks) for _ in range(_TENDED_AT_ONCE)))

    async def _tend_some(self, marks: Iterator[tuple[str, Mark]]) -> None:
        for campaign_id, mark in marks:
            try:
                with pymongo.timeout(self._mongo.timeout):
                    await self._tend_one(campaign_id, mark)
            except PyMongoError as error:
                # The next round tries again; nobody writes on an entry that was not renewed.
                logger.info("a campaign's entry was not renewed", extra={"reason": type(error).__name__})

    async def _tend_one(self, campaign_id: str, mark: Mark) -> None:
        if self._quiet(mark, _QUIET_SECONDS):
            await self.settle(campaign_id, quiet=_QUIET_SECONDS)
            return
        age = time.monotonic() - mark.confirmed
        often = bool(mark.lends or mark.scarce)
        if age >= (_LENDING_RENEWAL_SECONDS if often else _RENEWAL_SECONDS) and not mark.lock.locked():
            await self._renew(campaign_id, mark)
            if mark.wanted != mark.lends:
                await self._renew(campaign_id, mark)  # somebody waits for that

    async def _renew(self, campaign_id: str, mark: Mark) -> None:
        async with mark.lock:
            if mark.confirmed == float("-inf"):
                return  # whoever wants to write enters anew
            wanted = mark.wanted
            mark.lends &= wanted
            asked = time.monotonic()
            scarce = await self._campaigns.renew(campaign_id, wanted)
            if scarce is None:
                # Taken for gone: this process stood still for minutes. What it writes now counts as a new burst.
                scarce = await self._campaigns.enter(campaign_id, wanted)
            mark.scarce, mark.lends, mark.confirmed = scarce, wanted, asked

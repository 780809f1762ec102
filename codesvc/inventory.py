"""The rules of counting, reserving, assigning and releasing codes."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Final, Protocol
from uuid import uuid4

from codesvc.errors import NotFoundError
from codesvc.models import ChangeCounts, Code, CodePage, CodeType, Counts, Reservation, ReservedCode, Status

Clock = Callable[[], datetime]

# How long a page is looked for before it is told as it is.
_PATIENCE_SECONDS: Final = 3.0
_EXPORTED_TOGETHER: Final = 2_000


class Listing(Protocol):
    """What tells of the codes of a campaign, a page after the other."""

    async def page(self, *, after: str, limit: int, cut_off: datetime, patience: float) -> CodePage:
        """Read at most ``limit`` codes behind ``after``, or those that ``patience`` seconds suffice to find."""


class Store(Protocol):
    """What the rules need of the collection of codes; a hold is live while it began after ``cut_off``."""

    async def count(self, *, campaign_id: str, code_type: CodeType, cut_off: datetime) -> Counts:
        """Count the codes in each status, at one instant."""

    async def count_status(
        self, *, campaign_id: str, code_type: CodeType, status: Status, cut_off: datetime
    ) -> int:
        """Count the codes in one status."""

    async def find(self, *, campaign_id: str, code: str, cut_off: datetime) -> Code | None:
        """Read one code."""

    def listing(self, *, campaign_id: str, code_type: CodeType | None, status: Status | None) -> Listing:
        """Make what tells of a campaign's codes, by code; of one type or status, or of all."""

    async def reserve(
        self,
        *,
        campaign_id: str,
        code_type: CodeType,
        count: int,
        reserve_id: str,
        now: datetime,
        cut_off: datetime,
        minimum: int = 0,
        shortened: timedelta = timedelta(0),
    ) -> list[ReservedCode]:
        """Hold ``count`` available codes, or all that are left; none if those are fewer than ``minimum``."""

    async def reservation(
        self, *, campaign_id: str, reserve_id: str, cut_off: datetime
    ) -> tuple[list[ReservedCode], datetime] | None:
        """Read what a live reservation holds, and from when on its end is reckoned."""

    async def assign(self, *, campaign_id: str, codes: Sequence[str], now: datetime) -> int:
        """Assign the codes not assigned yet; return how many."""

    async def release(self, *, campaign_id: str, codes: Sequence[str], cut_off: datetime) -> int:
        """End the live holds of the codes; return how many."""

    async def assign_reservation(
        self, *, campaign_id: str, reserve_id: str, now: datetime, cut_off: datetime
    ) -> ChangeCounts:
        """Assign all codes that a live reservation holds."""

    async def release_reservation(
        self, *, campaign_id: str, reserve_id: str, cut_off: datetime
    ) -> ChangeCounts:
        """End a live reservation."""


def utc_now() -> datetime:
    """Return the present instant in UTC, with the millisecond that MongoDB keeps (BSON's UTC datetime)."""
    now = datetime.now(UTC)
    return now.replace(microsecond=now.microsecond // 1000 * 1000)


class Inventory:
    """What callers may do with the codes of a campaign.

    Every method raises DatabaseUnavailableError while the store does not answer; sending it again is safe.
    """

    def __init__(self, store: Store, *, reservation_ttl: timedelta, clock: Clock = utc_now) -> None:
        self._store = store
        self._reservation_ttl = reservation_ttl
        self._clock = clock

    async def count(self, campaign_id: str, code_type: CodeType) -> Counts:
        """Count the codes of a campaign and type in each status."""
        return await self._store.count(
            campaign_id=campaign_id, code_type=code_type, cut_off=self._clock() - self._reservation_ttl
        )

    async def count_status(self, campaign_id: str, code_type: CodeType, status: Status) -> int:
        """Count the codes of a campaign and type in one status."""
        return await self._store.count_status(
            campaign_id=campaign_id,
            code_type=code_type,
            status=status,
            cut_off=self._clock() - self._reservation_ttl,
        )

    async def find(self, campaign_id: str, code: str) -> Code:
        """Tell where one code stands.

        Raises:
            NotFoundError: the campaign has no such code.

        """
        found = await self._store.find(
            campaign_id=campaign_id, code=code, cut_off=self._clock() - self._reservation_ttl
        )
        if found is None:
            raise NotFoundError("The campaign has no such code.")
        return self._shown(found)

    async def page(
        self,
        campaign_id: str,
        *,
        code_type: CodeType | None = None,
        status: Status | None = None,
        after: str = "",
        limit: int,
    ) -> CodePage:
        """Tell of the codes of a campaign behind ``after``, in their order, ``limit`` of them at the most.

        Where few of many codes are wanted, it may be fewer, or none: what was found before it took too long.
        """
        listing = self._store.listing(campaign_id=campaign_id, code_type=code_type, status=status)
        # One more than is shown tells whether there are more.
        found = await self._page(listing, after, limit + 1, _PATIENCE_SECONDS)
        if len(found.codes) <= limit:
            return found
        shown = found.codes[:limit]
        return CodePage(shown, shown[-1].code)

    async def export(
        self,
        campaign_id: str,
        *,
        code_type: CodeType | None = None,
        status: Status | None = None,
        after: str = "",
    ) -> AsyncGenerator[Sequence[Code], None]:
        """Yield all codes of a campaign behind ``after``, in their order, some at a time.

        While some are taken, the next are read, and no more than those. A code that exists all the while, and keeps its
        type and status, comes once; of one that does not, it tells what was so when it was read.
        """
        listing = self._store.listing(campaign_id=campaign_id, code_type=code_type, status=status)

        def reading(after: str) -> asyncio.Task[CodePage]:
            return asyncio.create_task(self._page(listing, after, _EXPORTED_TOGETHER, _PATIENCE_SECONDS))

        following: asyncio.Task[CodePage] | None = reading(after)
        try:
            while following is not None:
                page = await following
                following = None if page.next is None else reading(page.next)
                yield page.codes
        finally:
            if following is not None:
                following.cancel()
                await asyncio.gather(following, return_exceptions=True)

    async def _page(self, listing: Listing, after: str, limit: int, patience: float) -> CodePage:
        # Of now, page by page: holds end while others are read.
        cut_off = self._clock() - self._reservation_ttl
        found = await listing.page(after=after, limit=limit, cut_off=cut_off, patience=patience)
        return CodePage(tuple([self._shown(one) for one in found.codes]), found.next)

    def _shown(self, code: Code) -> Code:
        if code.assigned and code.reckoned and code.assigned - code.reckoned >= self._reservation_ttl:
            # It was assigned after that hold had ended.
            return replace(code, reserve_id=None, reserved=None, reckoned=None)
        return code

    async def reserve(
        self,
        campaign_id: str,
        code_type: CodeType,
        count: int,
        *,
        ttl: timedelta | None = None,
        minimum: int = 0,
        reserve_id: str | None = None,
    ) -> Reservation:
        """Lend ``count`` available codes under a new reservation, or all that are left if they are fewer.

        Arguments:
            ttl: how long the hold lasts, if not as long as others; never longer.
            minimum: with fewer codes than so many, none is lent.
            reserve_id: of the reservation, if it is not to be a new one: a UUID that no other has.

        Raises:
            NotEnoughCodesError: there are fewer than ``minimum``.

        """
        now = self._clock()
        lasting = min(ttl or self._reservation_ttl, self._reservation_ttl)
        reserve_id = reserve_id or str(uuid4())
        codes = await self._store.reserve(
            campaign_id=campaign_id,
            code_type=code_type,
            count=count,
            reserve_id=reserve_id,
            now=now,
            cut_off=now - self._reservation_ttl,
            minimum=minimum,
            shortened=self._reservation_ttl - lasting,
        )
        began = codes[0].reserved if codes else now
        return Reservation(reserve_id=reserve_id, codes=tuple(codes), expires=began + lasting)

    async def reservation(self, campaign_id: str, reserve_id: str) -> Reservation:
        """Tell what a live reservation still holds.

        Raises:
            NotFoundError: nothing (any more), or not in this campaign.

        """
        found = await self._store.reservation(
            campaign_id=campaign_id, reserve_id=reserve_id, cut_off=self._clock() - self._reservation_ttl
        )
        if found is None:
            raise NotFoundError("The campaign has no such reservation, or it holds nothing any more.")
        codes, reckoned = found
        return Reservation(reserve_id, tuple(codes), expires=reckoned + self._reservation_ttl)

    async def assign(self, campaign_id: str, codes: Sequence[str]) -> ChangeCounts:
        """Assign available and reserved codes; those assigned before keep their date and are not counted."""
        updated = await self._store.assign(campaign_id=campaign_id, codes=codes, now=self._clock())
        return ChangeCounts(total=len(codes), updated=updated)

    async def release(self, campaign_id: str, codes: Sequence[str]) -> ChangeCounts:
        """Make reserved codes available again; all others stay as they are and are not counted."""
        updated = await self._store.release(
            campaign_id=campaign_id, codes=codes, cut_off=self._clock() - self._reservation_ttl
        )
        return ChangeCounts(total=len(codes), updated=updated)

    async def assign_reservation(self, campaign_id: str, reserve_id: str) -> ChangeCounts:
        """Assign what a live reservation still holds; ``total`` is how many codes that were."""
        now = self._clock()
        return await self._store.assign_reservation(
            campaign_id=campaign_id, reserve_id=reserve_id, now=now, cut_off=now - self._reservation_ttl
        )

    async def release_reservation(self, campaign_id: str, reserve_id: str) -> ChangeCounts:
        """Make what a live reservation still holds available again; ``total`` is how many codes that were."""
        return await self._store.release_reservation(
            campaign_id=campaign_id, reserve_id=reserve_id, cut_off=self._clock() - self._reservation_ttl
        )

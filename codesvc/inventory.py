"""The rules of counting, reserving, assigning and releasing codes."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Protocol
from uuid import uuid4

from codesvc.errors import NotFoundError
from codesvc.models import ChangeCounts, Code, CodeType, Counts, Reservation, ReservedCode, Status

Clock = Callable[[], datetime]


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
        """Hold ``count`` available codes, or all that are left."""

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
        if found.assigned and found.reserved and found.assigned - found.reserved >= self._reservation_ttl:
            # It was assigned after that hold had ended.
            return replace(found, reserve_id=None, reserved=None)
        return found

    async def reserve(self, campaign_id: str, code_type: CodeType, count: int) -> Reservation:
        """Lend ``count`` available codes under a new reservation, or all that are left if they are fewer."""
        now = self._clock()
        reserve_id = str(uuid4())
        codes = await self._store.reserve(
            campaign_id=campaign_id,
            code_type=code_type,
            count=count,
            reserve_id=reserve_id,
            now=now,
            cut_off=now - self._reservation_ttl,
        )
        return Reservation(reserve_id=reserve_id, codes=tuple(codes))

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

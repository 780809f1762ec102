"""What a reservation still holds: its codes, and their assign and release by the reservation's id alone.

The index ``codes_by_reservation`` finds them. It has every code that was ever held, under the last hold on it; whether
that hold is live, the documents tell. Each change is one statement, whatever the size of the reservation: the server
walks along the index, gives way to others in between, and changes a document only while it is still held under this
id, so that nothing is touched that has gone to another. A statement that was cut off (a lost connection, the time
limit) has changed some of them, and sent again it changes the rest.
"""

from datetime import datetime
from typing import Any, Final

from codesvc.datastore.client import Mongo
from codesvc.datastore.documents import began
from codesvc.datastore.indexes import BY_RESERVATION
from codesvc.datastore.motion import Motion
from codesvc.models import ChangeCounts, CodeType, ReservedCode

_READ_AT_ONCE: Final = 1_000


def assigned(now: datetime) -> dict[str, Any]:
    """Return the change that assigns a code."""
    return {"$set": {"date.assigned": now}}


def held_since(cut_off: datetime) -> dict[str, Any]:
    """Select codes that are held: by a hold that is live, and not assigned."""
    return {"date.assigned": None, "date.reserved": {"$gt": cut_off}}


class Reservations:
    """Works on all that one live reservation holds; raises what the driver raises."""

    def __init__(self, mongo: Mongo, motion: Motion) -> None:
        self._mongo = mongo
        self._motion = motion

    async def read(
        self, campaign_id: str, reserve_id: str, *, cut_off: datetime
    ) -> tuple[list[ReservedCode], datetime] | None:
        """Read what is held under ``reserve_id``, by code, and from when on its end is reckoned; None for nothing."""
        query = self._held(campaign_id, reserve_id, cut_off)
        cursor = self._mongo.codes.find(query, {"type": 1, "date": 1}, hint=BY_RESERVATION)
        codes: list[ReservedCode] = []
        reckoned = cut_off
        while some := await cursor.to_list(_READ_AT_ONCE):
            for one in some:
                date = one["date"]
                reckoned = max(reckoned, date["reserved"])
                codes.append(
                    ReservedCode(
                        code=one["_id"]["code"],
                        type=CodeType(one["type"]),
                        reserve_id=reserve_id,
                        saved=date["saved"],
                        reserved=began(date) or date["reserved"],
                    )
                )
        codes.sort(key=lambda one: one.code)
        return (codes, reckoned) if codes else None

    async def change(
        self, campaign_id: str, reserve_id: str, change: dict[str, Any], *, cut_off: datetime
    ) -> ChangeCounts:
        """Change all codes that are held under ``reserve_id``: tell how many there were, and how many changed."""
        query = self._held(campaign_id, reserve_id, cut_off)
        async with self._motion.writing(campaign_id):
            result = await self._mongo.codes.update_many(query, change, hint=BY_RESERVATION)
        return ChangeCounts(total=result.matched_count, updated=result.modified_count)

    def _held(self, campaign_id: str, reserve_id: str, cut_off: datetime) -> dict[str, Any]:
        return {"_id.campaign_id": campaign_id, "reserveId": reserve_id} | held_since(cut_off)

"""What callers are promised of codes, in plain Python: the yardstick that test_model.py holds replies to.

Each method takes a reply, fails unless the promise allows it, and then holds what the reply says.
"""

import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Self

from codesvc.models import ChangeCounts, CodeType, Counts, Reservation, Status, UploadCounts

from .rig import TTL, document


@dataclass(frozen=True, slots=True)
class Code:
    """One code, as its document should be."""

    type: CodeType
    saved: datetime
    reserved: datetime | None = None
    reserve_id: str | None = None
    assigned: datetime | None = None
    held: datetime | None = None

    def status(self, now: datetime) -> Status:
        if self.assigned is not None:
            return Status.ASSIGNED
        if self.reserved is not None and now < self.reserved + TTL:
            return Status.RESERVED
        return Status.AVAILABLE


@dataclass(slots=True)
class Model:
    """The codes of one campaign; ``now`` is the clock of every process."""

    campaign_id: str
    now: datetime
    codes: dict[str, Code] = field(default_factory=dict)
    reserve_ids: frozenset[str] = frozenset()

    def copy(self) -> Self:
        return replace(self, codes=dict(self.codes))

    def count(self, code_type: CodeType, reply: Counts) -> None:
        expected = {status.value: self.count_of(code_type, status) for status in Status}
        assert reply == Counts(**expected), f"{code_type}: {reply} instead of {expected}"

    def count_status(self, code_type: CodeType, status: Status, reply: int) -> None:
        expected = self.count_of(code_type, status)
        assert reply == expected, f"{code_type}: {reply} instead of {expected} {status}"

    def count_of(self, code_type: CodeType, status: Status) -> int:
        return len(self.standing(status, code_type))

    def standing(self, status: Status, *types: CodeType) -> list[str]:
        """The codes in a status, of one type or of all."""
        return [
            code
            for code, one in self.codes.items()
            if one.status(self.now) is status and one.type in (types or CodeType)
        ]

    def upload(self, codes: Sequence[str], code_type: CodeType, reply: UploadCounts) -> None:
        new = set(codes) - self.codes.keys()
        expected = UploadCounts(inserted=len(new), updated=len(codes) - len(new))
        assert reply == expected, f"{reply} instead of {expected}"
        for code in codes:
            known = self.codes.get(code, Code(code_type, saved=self.now))
            self.codes[code] = replace(known, type=code_type)

    def reserve(
        self,
        code_type: CodeType,
        count: int,
        reply: Reservation | None,
        *,
        minimum: int = 0,
        ttl: timedelta = TTL,
    ) -> None:
        """None is a refusal: fewer than ``minimum`` are available."""
        available = self.standing(Status.AVAILABLE, code_type)
        if reply is None:
            assert len(available) < minimum, f"refused {minimum} codes of {len(available)} available ones"
            return
        assert min(count, len(available)) >= minimum, f"fewer than {minimum} codes"
        assert reply.expires == self.now + ttl, f"until {reply.expires} instead of {self.now + ttl}"
        told = [one.code for one in reply.codes]
        size = min(count, len(available))
        assert len(told) == size, f"{len(told)} codes instead of {size}, of {len(available)} available ones"
        assert len(set(told)) == len(told), f"a code twice in one reply: {sorted(told)}"
        assert set(told) <= set(available), f"not available: {sorted(set(told) - set(available))}"
        assert str(uuid.UUID(reply.reserve_id, version=4)) == reply.reserve_id
        assert reply.reserve_id not in self.reserve_ids, "a reservation's id came twice"
        self.reserve_ids |= {reply.reserve_id}
        for one in reply.codes:
            known = self.codes[one.code]
            said = (one.type, one.reserve_id, one.saved, one.reserved)
            expected = (code_type, reply.reserve_id, known.saved, self.now)
            assert said == expected, f"{one.code}: {said} instead of {expected}"
            self.codes[one.code] = replace(
                known,
                reserved=self.now - (TTL - ttl),
                reserve_id=reply.reserve_id,
                held=self.now if ttl < TTL else None,
            )

    def assign(self, codes: Sequence[str], reply: ChangeCounts) -> None:
        given = self._known(codes, Status.AVAILABLE, Status.RESERVED)
        assert reply == ChangeCounts(len(codes), len(given)), f"{reply}, while {len(given)} could be assigned"
        for code in given:
            self.codes[code] = replace(self.codes[code], assigned=self.now)

    def release(self, codes: Sequence[str], reply: ChangeCounts) -> None:
        held = self._known(codes, Status.RESERVED)
        assert reply == ChangeCounts(len(codes), len(held)), f"{reply}, while {len(held)} were held"
        for code in held:
            self.codes[code] = replace(self.codes[code], reserved=None, reserve_id=None, held=None)

    def reservation(self, reserve_id: str, reply: Reservation | None) -> None:
        """None: there is no such reservation (any more)."""
        held = self.held_under(reserve_id)
        told = [] if reply is None else [one.code for one in reply.codes]
        assert told == sorted(held), f"{told} instead of {sorted(held)}"
        for one in () if reply is None else reply.codes:
            known = self.codes[one.code]
            said = (one.type, one.reserve_id, one.saved, one.reserved)
            # What a foreign writer has left of an earlier hold is none of this one.
            began = max(instant for instant in (known.held, known.reserved) if instant is not None)
            expected = (known.type, reserve_id, known.saved, began)
            assert said == expected, f"{one.code}: {said} instead of {expected}"
        if reply is not None:
            ends = [known.reserved + TTL for code in held if (known := self.codes[code]).reserved is not None]
            assert reply.expires == max(ends)

    def held_under(self, reserve_id: str) -> list[str]:
        """The codes that a live reservation holds."""
        return [code for code in self.standing(Status.RESERVED) if self.codes[code].reserve_id == reserve_id]

    def documents(self) -> dict[str, dict[str, Any]]:
        """What the campaign's documents must be, by code."""
        return {
            code: document(
                code,
                campaign_id=self.campaign_id,
                code_type=one.type.value,
                saved=one.saved,
                reserved=one.reserved,
                held=one.held,
                reserve_id=one.reserve_id,
                assigned=one.assigned,
            )
            for code, one in self.codes.items()
        }

    def _known(self, codes: Iterable[str], *statuses: Status) -> set[str]:
        return {
            code for code in codes if code in self.codes and self.codes[code].status(self.now) in statuses
        }

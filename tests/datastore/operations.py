"""What callers ask of a process, so that a history can be written down, and several asked at once be explained."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol

from codesvc.errors import NotEnoughCodesError, NotFoundError
from codesvc.models import ChangeCounts, CodeType, Counts, Reservation, Status, UploadCounts

from .model import Code, Model
from .rig import TTL, Rig


class Operation(Protocol):
    """One request; ``explain`` fails unless the model, as it stands, allows the reply, and takes the reply in."""

    async def ask(self, rig: Rig, campaign_id: str) -> Any: ...

    def explain(self, model: Model, reply: Any) -> None: ...


@dataclass(frozen=True, slots=True)
class Count:
    type: CodeType

    async def ask(self, rig: Rig, campaign_id: str) -> Counts:
        return await rig.inventory.count(campaign_id, self.type)

    def explain(self, model: Model, reply: Counts) -> None:
        model.count(self.type, reply)

    def explain_amid(self, reserves: Sequence["Reserve"], model: Model, reply: Counts) -> None:
        """Fail unless the reply may be had while the reserves are under way; the model is as before them.

        It is of one instant, but they hold codes one after the other, some of which they may give back.
        """
        before = {status: model.count_of(self.type, status) for status in Status}
        wanted = sum(one.count for one in reserves if one.type is self.type)
        held = reply.reserved - before[Status.RESERVED]
        most = min(wanted, before[Status.AVAILABLE])
        assert 0 <= held <= most, f"{self.type}: {reply}, {held} held of {most} that may be"
        assert reply.available == before[Status.AVAILABLE] - held, (
            f"{self.type}: {reply} is of no one instant"
        )
        assert reply.assigned == before[Status.ASSIGNED], f"{self.type}: {reply}, and nobody assigns"


@dataclass(frozen=True, slots=True)
class CountStatus:
    type: CodeType
    status: Status

    async def ask(self, rig: Rig, campaign_id: str) -> int:
        return await rig.inventory.count_status(campaign_id, self.type, self.status)

    def explain(self, model: Model, reply: int) -> None:
        model.count_status(self.type, self.status, reply)


@dataclass(frozen=True, slots=True)
class Upload:
    codes: Sequence[str]
    type: CodeType
    batch_size: int | None = None

    async def ask(self, rig: Rig, campaign_id: str) -> UploadCounts:
        return await rig.upload(
            self.codes, campaign_id=campaign_id, code_type=self.type, batch_size=self.batch_size
        )

    def explain(self, model: Model, reply: UploadCounts) -> None:
        model.upload(self.codes, self.type, reply)


@dataclass(frozen=True, slots=True)
class Reserve:
    type: CodeType
    count: int
    minimum: int = 0
    ttl: timedelta = TTL

    async def ask(self, rig: Rig, campaign_id: str) -> Reservation | None:
        try:
            return await rig.inventory.reserve(
                campaign_id, self.type, self.count, minimum=self.minimum, ttl=self.ttl
            )
        except NotEnoughCodesError:
            return None

    def explain(self, model: Model, reply: Reservation | None) -> None:
        model.reserve(self.type, self.count, reply, minimum=self.minimum, ttl=self.ttl)


@dataclass(frozen=True, slots=True)
class Look:
    """At what a reservation still holds."""

    reserve_id: str

    async def ask(self, rig: Rig, campaign_id: str) -> Reservation | None:
        try:
            return await rig.inventory.reservation(campaign_id, self.reserve_id)
        except NotFoundError:
            return None

    def explain(self, model: Model, reply: Reservation | None) -> None:
        model.reservation(self.reserve_id, reply)


@dataclass(frozen=True, slots=True)
class Assign:
    codes: Sequence[str]

    async def ask(self, rig: Rig, campaign_id: str) -> ChangeCounts:
        return await rig.inventory.assign(campaign_id, self.codes)

    def explain(self, model: Model, reply: ChangeCounts) -> None:
        model.assign(self.codes, reply)


@dataclass(frozen=True, slots=True)
class Release:
    codes: Sequence[str]

    async def ask(self, rig: Rig, campaign_id: str) -> ChangeCounts:
        return await rig.inventory.release(campaign_id, self.codes)

    def explain(self, model: Model, reply: ChangeCounts) -> None:
        model.release(self.codes, reply)


@dataclass(frozen=True, slots=True)
class AssignHeld:
    """All that a reservation holds."""

    reserve_id: str

    async def ask(self, rig: Rig, campaign_id: str) -> ChangeCounts:
        return await rig.inventory.assign_reservation(campaign_id, self.reserve_id)

    def explain(self, model: Model, reply: ChangeCounts) -> None:
        model.assign(model.held_under(self.reserve_id), reply)


@dataclass(frozen=True, slots=True)
class ReleaseHeld:
    """All that a reservation holds."""

    reserve_id: str

    async def ask(self, rig: Rig, campaign_id: str) -> ChangeCounts:
        return await rig.inventory.release_reservation(campaign_id, self.reserve_id)

    def explain(self, model: Model, reply: ChangeCounts) -> None:
        model.release(model.held_under(self.reserve_id), reply)


Told = tuple[Operation, Any]
"""An operation and its reply."""


def explained(before: Model, told: Sequence[Told], documents: dict[str, dict[str, Any]]) -> Model | None:
    """Find an order in which the operations, one after the other, give just these replies and documents.

    Returns what the model is after them, or None: what was asked at once did not happen in any order. Counts beside
    reserves are in none: they may see a part of one.

    Raises:
        AssertionError: a count that may not be seen at any moment of the reserves.

    """
    reserves = [operation for operation, _ in told if isinstance(operation, Reserve)]
    for operation, reply in told:
        if isinstance(operation, Count):
            operation.explain_amid(reserves, before, reply)
    told = [one for one in told if not isinstance(one[0], Count)]
    dead: set[tuple[frozenset[int], frozenset[tuple[str, Code]]]] = set()

    def search(model: Model, left: frozenset[int]) -> Model | None:
        if not left:
            return model if model.documents() == documents else None
        # What follows depends on what is left and on the codes only, whatever the way there.
        place = (left, frozenset(model.codes.items()))
        if place in dead:
            return None
        for index in sorted(left):
            operation, reply = told[index]
            after = model.copy()
            try:
                operation.explain(after, reply)
            except AssertionError:
                continue
            if (found := search(after, left - {index})) is not None:
                return found
        dead.add(place)
        return None

    return search(before, frozenset(range(len(told))))


def written(operation: Operation, reply: Any) -> str:
    """Write an operation and its reply out; a reservation does not show its codes by itself."""
    if isinstance(reply, Reservation):
        return f"{operation} got {sorted(one.code for one in reply.codes)} as {reply.reserve_id}"
    return f"{operation} got {reply}"

"""Callers who wait for codes, and what is held for each of them so far."""

import asyncio
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextvars import Context
from dataclasses import dataclass, field
from datetime import datetime

from codesvc.datastore.candidates import Candidate
from codesvc.models import CodeType


@dataclass(frozen=True, slots=True)
class Request:
    """What a caller wants: ``count`` codes held from ``now`` on; a hold is live while it began after ``cut_off``."""

    campaign_id: str
    code_type: CodeType
    count: int
    reserve_id: str
    now: datetime
    cut_off: datetime


@dataclass(slots=True)
class Order:
    """A request under way; ``deadline`` is of the monotonic clock, ``context`` a copy of the caller's."""

    request: Request
    result: "asyncio.Future[list[Candidate]]"
    deadline: float
    context: Context
    held: list[Candidate] = field(default_factory=list)

    @property
    def missing(self) -> int:
        """How many codes are not held yet."""
        return self.request.count - len(self.held)

    @property
    def deserted(self) -> bool:
        """Whether codes are held for a caller who has gone away."""
        return self.result.cancelled() and bool(self.held)

    def finish(self) -> None:
        """Let the caller go with what is held."""
        if not self.result.done():
            self.result.set_result(self.held)

    def fail(self, error: BaseException) -> None:
        """Let the caller go with an error."""
        if not self.result.done():
            self.result.set_exception(error)


@dataclass(frozen=True, slots=True)
class Share:
    """Candidates that are to be held for an order."""

    order: Order
    candidates: list[Candidate]

    def held(self) -> None:
        """Note that all of them are."""
        self.order.held += self.candidates


class Dealer:
    """Deals candidates to orders, the first first, each up to what it misses; goes on where it ended."""

    def __init__(self, orders: Sequence[Order]) -> None:
        self._missing = deque((order, order.missing) for order in orders if order.missing)

    def deal(self, candidates: Sequence[Candidate]) -> Iterator[Share]:
        """Yield shares; there must not be more candidates than are missing."""
        start = 0
        while start < len(candidates):
            order, missing = self._missing.popleft()
            share = list(candidates[start : start + missing])
            if len(share) < missing:
                self._missing.appendleft((order, missing - len(share)))
            yield Share(order, share)
            start += len(share)


def unfilled(orders: Iterable[Order]) -> list[Order]:
    """Select those to whom something is missing."""
    return [order for order in orders if order.missing]


def missing(orders: Iterable[Order]) -> int:
    """Tell how many codes are missing to all of them together."""
    return sum(order.missing for order in orders)

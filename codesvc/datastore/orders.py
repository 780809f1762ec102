"""Callers who wait for codes, and what is held for each of them so far."""

import asyncio
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextvars import Context
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import NamedTuple

from codesvc.datastore.candidates import Candidate
from codesvc.models import CodeType


@dataclass(frozen=True, slots=True)
class Request:
    """What a caller wants: ``count`` codes held from ``now`` on; a hold is live while it began after ``cut_off``.

    With fewer than ``minimum``, it would rather have none. The hold ends so much earlier than others as ``shortened``.
    """

    campaign_id: str
    code_type: CodeType
    count: int
    reserve_id: str
    now: datetime
    cut_off: datetime
    minimum: int = 0
    shortened: timedelta = timedelta(0)


class Lent(NamedTuple):
    """What came of a request: the codes that are held since ``began``, or ``refused``, and none are."""

    codes: list[Candidate]
    began: datetime
    refused: bool = False


@dataclass(slots=True)
class Order:
    """A request under way; ``deadline`` is of the monotonic clock, ``context`` a copy of the caller's.

    It is ``refused`` if there are fewer codes than its minimum; then nothing is held for it.
    """

    request: Request
    result: "asyncio.Future[Lent]"
    deadline: float
    context: Context
    held: list[Candidate] = field(default_factory=list)
    refused: bool = False

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
            self.result.set_result(Lent(self.held, self.request.now, self.refused))

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


def deal_the_last(
    orders: Sequence[Order], candidates: Sequence[Candidate]
) -> tuple[list[Share], list[Order]]:
    """Deal all that is left to orders that hold nothing yet; also tell whose minimum it does not reach.

    Those get none, and what they leave goes to those behind them.
    """
    shares: list[Share] = []
    refused: list[Order] = []
    start = 0
    for order in orders:
        share = list(candidates[start : start + order.missing])
        if len(share) < order.request.minimum:
            refused.append(order)
        elif share:
            shares.append(Share(order, share))
            start += len(share)
    return shares, refused


def date_alike(orders: Sequence[Order]) -> None:
    """Let orders that are served together hold from one instant on, that of the last of them.

    A hold that had not ended when the first of them came may have by then, and is looked for once for all of them.
    """
    last = max((order.request for order in orders), key=lambda request: request.now)
    for order in orders:
        if order.request.now != last.now:
            order.request = replace(order.request, now=last.now, cut_off=last.cut_off)


def unfilled(orders: Iterable[Order]) -> list[Order]:
    """Select those to whom something is missing."""
    return [order for order in orders if order.missing]


def missing(orders: Iterable[Order]) -> int:
    """Tell how many codes are missing to all of them together."""
    return sum(order.missing for order in orders)

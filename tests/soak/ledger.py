"""What callers were told, and what follows from it whatever else happens."""

import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum

SAMPLES = 5

Key = tuple[str, str]
"""A campaign and a code of it."""


class Fault(StrEnum):
    """What must never happen, in the order of the report."""

    LENT_TWICE = "codes lent twice"
    ASSIGN_LOST = "acknowledged assigns lost"
    RELEASE_LOST = "acknowledged releases lost"
    CHANGE_WRONG = "counts of acknowledged assigns and releases wrong"
    UPLOAD_LOST = "accepted uploads that came to no end"
    UPLOAD_WRONG = "acknowledged uploads wrong"
    COUNT_WRONG = "counts wrong"
    HOLD_MISSING = "codes lent whose document says another"
    HOLD_UNTOLD = "codes held that no reply named"
    SHORT = "reservations short while there was enough"
    MISFIT = "replies that do not fit their request"
    STATUS = "statuses other than 200 and 503"
    SLOW = "replies slower than 31 s"

    @property
    def group(self) -> str:
        """What kind of a fault it is, for who wants to know no more."""
        return _GROUPS.get(self, "otherwise wrong")


_GROUPS = {
    Fault.LENT_TWICE: "double",
    Fault.ASSIGN_LOST: "lost",
    Fault.RELEASE_LOST: "lost",
    Fault.HOLD_MISSING: "lost",
    Fault.UPLOAD_LOST: "lost",
    Fault.CHANGE_WRONG: "wrong counts",
    Fault.UPLOAD_WRONG: "wrong counts",
    Fault.COUNT_WRONG: "wrong counts",
}
GROUPS = ("lost", "double", "wrong counts", "otherwise wrong")


@dataclass(slots=True)
class Held:
    """One code in one acknowledged reservation. Instants are ``time.monotonic()``; a date is the service's."""

    reserve_id: str
    reserved: datetime
    asked: float
    told: float
    release_sent: float | None = None
    released: bool = False
    assign_sent: float | None = None
    assigned: float | None = None

    def may_have_ended_before(self, later: "Held", ttl: timedelta) -> bool:
        """Whether the code could be lent anew, to ``later``."""
        if self.assigned is not None and self.assigned < later.asked:
            return False
        if self.release_sent is not None and self.release_sent < later.told:
            return True
        return later.reserved - self.reserved >= ttl


@dataclass(slots=True)
class Stock:
    """The codes of one campaign and type that no other type shares."""

    sent: set[str] = field(default_factory=set)
    stored: set[str] = field(default_factory=set)
    out: int = 0
    """Lent, or perhaps lent: what came back later is not taken off, see ``returned``."""
    returned: int = 0


@dataclass(slots=True)
class Asked:
    """A reservation under way, and what was known when it was sent."""

    campaign: str
    code_type: str
    count: int
    at: float
    least_available: int


class Ledger:
    """Kept by all callers together, on one event loop."""

    def __init__(self, ttl: timedelta) -> None:
        self.ttl = ttl
        self.held: dict[Key, list[Held]] = {}
        self.reservations: dict[str, frozenset[Key]] = {}
        self.unknown_reserves: Counter[str] = Counter()
        self.assigned: Counter[str] = Counter()
        self.types: dict[Key, set[str]] = {}
        # An upload whose caller was told nothing may still be under way, with another process.
        self.lingering: dict[Key, set[str]] = {}
        self.stored: set[Key] = set()
        self.stocks: dict[tuple[str, str], Stock] = {}
        self.short = 0
        self.expired = 0
        self.faults: Counter[Fault] = Counter()
        self.samples: dict[Fault, list[str]] = {}

    def fault(self, kind: Fault, what: str, *, times: int = 1) -> None:
        self.faults[kind] += times
        samples = self.samples.setdefault(kind, [])
        if len(samples) < SAMPLES:
            samples.append(what)
            # A run is long, and who watches it may want to look while all is still there.
            print(f"{datetime.now(UTC):%H:%M:%S} {kind}: {what}", file=sys.stderr, flush=True)

    def stock(self, campaign: str, code_type: str) -> Stock:
        return self.stocks.setdefault((campaign, code_type), Stock())

    # Reservations.

    def reserve_sent(self, campaign: str, code_type: str, count: int, at: float) -> Asked:
        stock = self.stock(campaign, code_type)
        least = len(stock.stored) + stock.returned
        stock.out += count
        return Asked(campaign, code_type, count, at, least)

    def refused(self, asked: Asked, minimum: int, *, moving: bool) -> None:
        """Take in that there were fewer codes than the least that was asked for, and that nothing is held."""
        stock = self.stock(asked.campaign, asked.code_type)
        if minimum <= asked.least_available - (stock.out - asked.count) and not moving:
            self.fault(
                Fault.SHORT, f"{asked.campaign}/{asked.code_type}: refused {minimum}, though there were more"
            )
        self.short += 1
        stock.out -= asked.count

    def reserve_unknown(self, asked: Asked) -> None:
        self.unknown_reserves[asked.campaign] += asked.count

    def reserved(
        self, asked: Asked, reserve_id: str, dates: dict[str, datetime], told: float, *, moving: bool
    ) -> None:
        """Take in a reply; ``moving``: uploads change the types of codes of this campaign."""
        stock = self.stock(asked.campaign, asked.code_type)
        # Of the codes that were there at its start, all that anybody was lent since may have gone before it.
        least = min(asked.count, asked.least_available - (stock.out - asked.count))
        if len(dates) < least and not moving:
            self.fault(
                Fault.SHORT,
                f"{asked.campaign}/{asked.code_type}: {len(dates)} instead of {asked.count}, at least {least}",
            )
        self.short += len(dates) < asked.count
        stock.out -= asked.count - len(dates)
        if reserve_id in self.reservations:
            self.fault(Fault.MISFIT, f"reservation {reserve_id} was told twice")
        self.reservations[reserve_id] = frozenset((asked.campaign, code) for code in dates)
        for code, reserved in dates.items():
            self.add_hold((asked.campaign, code), Held(reserve_id, reserved, asked.at, told))

    def add_hold(self, key: Key, hold: Held) -> None:
        """Note who was told that he holds a code; whoever holds it next is told later."""
        holds = self.held.setdefault(key, [])
        if holds:
            self.expired += hold.reserved - holds[-1].reserved >= self.ttl
            if not holds[-1].may_have_ended_before(hold, self.ttl):
                self.fault(Fault.LENT_TWICE, f"{key}: {holds[-1]} and {hold}")
        holds.append(hold)

    def hold(self, campaign: str, code: str, reserve_id: str) -> Held:
        return next(one for one in reversed(self.held[campaign, code]) if one.reserve_id == reserve_id)

    def released(self, campaign: str, code_type: str, count: int) -> None:
        self.stock(campaign, code_type).returned += count

    # Uploads.

    def upload_sent(self, campaign: str, code_type: str, codes: Iterable[str]) -> None:
        self.stock(campaign, code_type).sent.update(codes)
        for code in codes:
            self.types.setdefault((campaign, code), set()).add(code_type)

    def upload_unknown(self, campaign: str, code_type: str, codes: Iterable[str]) -> None:
        for code in codes:
            self.lingering.setdefault((campaign, code), set()).add(code_type)

    def uploaded(self, campaign: str, code_type: str, codes: Sequence[str]) -> None:
        self.stock(campaign, code_type).stored.update(codes)
        for code in codes:
            self.stored.add((campaign, code))
            self.types[campaign, code] = {code_type}

"""Compares what callers were told with what MongoDB holds, once everything is up and at rest."""

import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from api.harness import Document, Service

from .campaigns import CAMPAIGNS
from .client import Kind
from .disturber import Disturbance
from .ledger import GROUPS, Fault, Held, Key, Ledger

STATUSES = ("available", "reserved", "assigned")
# Both clocks are this machine's.
_TOLERANCE = timedelta(seconds=2)
_PATIENCE = 60.0

Documents = dict[Key, Document]


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome of a run."""

    seconds: float
    outcomes: Counter[tuple[Kind, str]]
    slowest: float
    disturbances: Counter[Disturbance]
    disturbing: tuple[Disturbance, ...]
    """The kinds that there were to be in a run of this length."""
    long_uploads: int
    taken_over: int
    codes: int
    short: int
    expired: int
    faults: Counter[Fault]
    samples: dict[Fault, list[str]]

    @property
    def failed(self) -> bool:
        return bool(self.faults.total() or self.untried())

    def untried(self) -> list[str]:
        """What did not happen at all, so that the run says nothing of it."""
        kinds = [f"{kind}, acknowledged" for kind in Kind if not self.outcomes[kind, "200"]]
        others: dict[str, int] = {
            **{kind: self.disturbances[kind] for kind in self.disturbing},
            "a reservation with nothing left for it": self.short,
            "a hold that expired and whose code was lent again": self.expired,
        }
        return [*kinds, *(what for what, times in others.items() if not times)]

    def table(self) -> str:
        names = ["200", "503", "lost", "other"]
        lines = [
            f"{'seconds':<52}{self.seconds:>9.1f}",
            f"{'disturbances':<52}{self.disturbances.total():>9,}",
        ]
        lines += [f"  {kind:<50}{self.disturbances[kind]:>9,}" for kind in Disturbance]
        lines.append(f"{'operations':<25}" + _cells(names))
        for kind in Kind:
            of_kind = Counter[str]()
            for (one, outcome), times in self.outcomes.items():
                if one is kind:
                    of_kind[outcome if outcome in names else "other"] += times
            lines.append(f"  {kind:<23}" + _cells(f"{of_kind[name]:,}" for name in names))
        lines.append(f"{'slowest reply, seconds':<52}{self.slowest:>9.1f}")
        lines.append(f"{'long uploads, followed to their end':<52}{self.long_uploads:>9,}")
        lines.append(f"{'times that one process took a long upload over':<52}{self.taken_over:>9,}")
        lines.append(f"{'reservations that got less than they asked for':<52}{self.short:>9,}")
        lines.append(f"{'codes lent again after their hold expired':<52}{self.expired:>9,}")
        lines.append(f"{'codes in documents':<52}{self.codes:>9,}")
        lines.append("must be 0:")
        for group in GROUPS:
            faults = [fault for fault in Fault if fault.group == group]
            lines.append(f"  {group:<50}{sum(self.faults[fault] for fault in faults):>9,}")
            lines += [f"    {fault:<48}{self.faults[fault]:>9,}" for fault in faults]
        lines += [f"never happened: {what}" for what in self.untried()]
        return "\n".join(lines)


def _cells(values: Iterable[str]) -> str:
    return "".join(f"{value:>9}" for value in values)


def check(ledger: Ledger, found: Iterable[Document]) -> Documents:
    """Add to the ledger's faults what the documents do not bear out; return them by campaign and code."""
    documents = {(one["_id"]["campaign_id"], one["_id"]["code"]): one for one in found}
    _check_uploads(ledger, documents)
    for key, holds in ledger.held.items():
        if key in documents:
            _check_holds(ledger, key, holds, documents[key])
    _check_holders(ledger, documents)
    return documents


def _check_uploads(ledger: Ledger, documents: Documents) -> None:
    for key in ledger.stored:
        document = documents.get(key)
        if document is None:
            ledger.fault(Fault.UPLOAD_WRONG, f"{key} is missing")
        elif document["type"] not in ledger.types[key] | ledger.lingering.get(key, set()):
            ledger.fault(Fault.UPLOAD_WRONG, f"{key} is of type {document['type']}")
    for key in documents.keys() - ledger.types.keys():
        ledger.fault(Fault.UPLOAD_WRONG, f"{key} is in no file")


def _check_holds(ledger: Ledger, key: Key, holds: list[Held], document: Document) -> None:
    date = document["date"]
    began = _began(date)
    for hold in holds:
        if hold.assigned is not None and not _assigned_by(hold, document):
            ledger.fault(Fault.ASSIGN_LOST, f"{key}: {hold}, {document}")
    last = holds[-1]
    mine = (document.get("reserveId"), began) == (last.reserve_id, last.reserved)
    if last.released and document.get("reserveId") == last.reserve_id:
        ledger.fault(Fault.RELEASE_LOST, f"{key}: {last}, {document}")
    elif last.release_sent is None and not mine:
        # Somebody who was told nothing may hold it since the last hold expired.
        since = began
        if last.assigned is not None or since is None or since - last.reserved < ledger.ttl:
            ledger.fault(Fault.HOLD_MISSING, f"{key}: {last}, {document}")


def _began(date: Document) -> datetime | None:
    """Return what a reply says of the beginning of a hold: a shorter one is dated back in ``reserved``."""
    began: datetime | None = date.get("held", date.get("reserved"))
    return began


def _assigned_by(hold: Held, document: Document) -> bool:
    assigned = document["date"].get("assigned")
    if assigned is None or hold.assign_sent is None or hold.assigned is None:
        return False
    told = datetime.now(UTC) - timedelta(seconds=time.monotonic() - hold.assigned)
    sent = told - timedelta(seconds=hold.assigned - hold.assign_sent)
    return bool(sent - _TOLERANCE <= assigned <= told + _TOLERANCE)


def _check_holders(ledger: Ledger, documents: Documents) -> None:
    untold: Counter[str] = Counter()
    for key, document in documents.items():
        reserve_id = document.get("reserveId")
        if reserve_id in ledger.reservations:
            if key not in ledger.reservations[reserve_id]:
                ledger.fault(Fault.HOLD_UNTOLD, f"{key}: {document}")
        elif reserve_id is not None:
            untold[key[0]] += 1
    for campaign, number in untold.items():
        explained = ledger.unknown_reserves[campaign]
        if number > explained:
            what = f"{campaign}: {number} codes, at most {explained} by replies that nobody saw"
            ledger.fault(Fault.HOLD_UNTOLD, what, times=number - explained)


def check_counts(ledger: Ledger, documents: Documents, services: Iterable[Service]) -> None:
    """Ask every process for every count."""
    for campaign in CAMPAIGNS:
        for code_type in campaign.stock:
            expected = _Expected(
                ledger.ttl,
                [
                    one
                    for (name, _), one in documents.items()
                    if name == campaign.name and one["type"] == code_type
                ],
            )
            path = f"/v1/{campaign.name}/codes/count?type={code_type}"
            for service in services:
                for target in (path, *(f"{path}&status={status}" for status in STATUSES)):
                    _check_count(ledger, expected, service, target)


def _check_count(ledger: Ledger, expected: "_Expected", service: Service, target: str) -> None:
    deadline = time.monotonic() + _PATIENCE
    while True:
        before = expected.now()
        reply = service.get(target)
        # Where a hold expired meanwhile, or MongoDB has just come back, it is asked again.
        if reply.status == 200 and before == expected.now():
            break
        if time.monotonic() > deadline:
            ledger.fault(Fault.COUNT_WRONG, f"{target}: no reply but {reply}")
            return
        time.sleep(0.05)
    counts: dict[str, int] = reply.json()
    if not counts or counts != {status: before.get(status) for status in counts}:
        ledger.fault(Fault.COUNT_WRONG, f"{target} on port {service.port}: {counts}, not {before}")


class _Expected:
    """The counts of documents that nobody changes any more; holds expire all the same."""

    def __init__(self, ttl: timedelta, documents: Sequence[Document]) -> None:
        self._ttl = ttl
        dates = [one["date"] for one in documents]
        self._number = len(dates)
        self._assigned = sum("assigned" in date for date in dates)
        self._held = sorted(
            date["reserved"] for date in dates if "reserved" in date and "assigned" not in date
        )

    def now(self) -> dict[str, int]:
        reserved = len(self._held) - bisect_right(self._held, datetime.now(UTC) - self._ttl)
        available = self._number - self._assigned - reserved
        return dict(zip(STATUSES, (available, reserved, self._assigned), strict=True))

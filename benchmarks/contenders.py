"""Services with the routes of an inventory, each on a database of its own that is filled from the same stock.

What a call replied, and what the database holds after it, are checked against the stock that the contender began with.
"""

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from benchmarks.bench import CAMPAIGN, Bench, Run
from benchmarks.callers import Lent, Load, call, request, tally
from benchmarks.documents import State
from benchmarks.processes import ServiceUnderTest, usage
from benchmarks.stock import Stock

CODESVC: Final = "codesvc"
TEXTBOOK: Final = "textbook"
STOCK: Final[dict[str, Any]] = {"_id.campaign_id": CAMPAIGN, "type": "tm"}
"""Selects the whole stock."""

# As many as codesvc takes in one request.
_RELEASED_TOGETHER: Final = 100_000


@dataclass(frozen=True, slots=True)
class Round:
    """What a contender did in one round of reserving: the figures, and how they came about."""

    run: Run
    load: Load
    lent: Lent

    @property
    def short(self) -> float:
        """The share of the callers who got fewer codes than they asked for."""
        return self.lent.short / len(self.lent.sizes)


@dataclass(frozen=True, slots=True)
class Contender:
    """A running service, its database, and what that holds."""

    name: str
    bench: Bench
    server: ServiceUnderTest
    database: str
    stock: Stock

    @property
    def codes(self) -> Any:
        """The collection, as the benchmark's own client sees it."""
        return self.bench.client[self.database].codes

    def send(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        callers: int = 1,
        seconds: float = 0.0,
        requests: int | None = None,
        pause: float = 0.0,
    ) -> Load:
        """Let callers send a request: see benchmarks.callers.call."""
        message = request(method, f"/v1/{CAMPAIGN}/{path}", token=self.server.token, body=body)
        return call(
            self.server.port, message, callers=callers, seconds=seconds, requests=requests, pause=pause
        )

    def count(self, *, requests: int = 1) -> Load:
        """Count the codes in each status."""
        return self.send("GET", "codes/count?type=tm", requests=requests)

    def reserve(self, count: int, *, requests: int = 1, callers: int = 1) -> tuple[Load, Lent]:
        """Reserve, and leave it at that."""
        load = self.send("POST", f"reserve?type=tm&count={count}", requests=requests, callers=callers)
        return load, tally(load, wanted=count)

    def reserving(
        self, count: int, *, callers: int = 1, seconds: float = 0.0, requests: int | None = None
    ) -> Round:
        """Reserve for a round, check what was lent, and put it back.

        The textbook may come away short, which is a part of what is measured; codesvc may not.
        """
        since = _now()
        client, mongod = usage(self.server.pid), self.bench.server_cpu()
        load = self.send(
            "POST", f"reserve?type=tm&count={count}", callers=callers, seconds=seconds, requests=requests
        )
        used, served = usage(self.server.pid), self.bench.server_cpu()
        lent = tally(load, wanted=count)
        right = lent.consistent and not lent.twice and self.stock.all_available(lent.codes)
        right &= self._held_since(since) == len(lent.codes)
        right &= not (lent.short and self.name == CODESVC)
        right &= self._put_back(lent.codes)
        return Round(
            Run(
                rate=len(lent.codes) / load.seconds if right else None,
                client_cpu=used.cpu - client.cpu,
                server_cpu=served - mongod,
                peak_memory=used.peak_memory,
            ),
            load,
            lent,
        )

    def changing(self, route: str, codes: Sequence[str], *, becomes: State) -> Run:
        """Assign or release codes that are all fit for it, and check that every one has changed."""
        client, mongod = usage(self.server.pid), self.bench.server_cpu()
        load = self.send("POST", route, {"codes": codes}, requests=1)
        used, served = usage(self.server.pid), self.bench.server_cpu()
        self.stock.mark(codes, becomes)
        right = _changed(load, len(codes)) and self._sample_is(codes[:1000], becomes)
        return Run(
            rate=len(codes) / load.seconds if right else None,
            client_cpu=used.cpu - client.cpu,
            server_cpu=served - mongod,
            peak_memory=used.peak_memory,
        )

    def _put_back(self, codes: Sequence[str]) -> bool:
        """Release what was lent, as any caller would; what had been held long ago comes back as never held."""
        changed = True
        for start in range(0, len(codes), _RELEASED_TOGETHER):
            some = codes[start : start + _RELEASED_TOGETHER]
            changed &= _changed(self.send("POST", "release", {"codes": some}, requests=1), len(some))
        self.stock.mark(codes, State.NEVER_HELD)
        return changed

    def _held_since(self, instant: datetime) -> int:
        held = {"date.assigned": None, "date.reserved": {"$gte": instant}}
        return int(self.codes.count_documents(STOCK | held))

    def _sample_is(self, codes: Sequence[str], state: State) -> bool:
        ids = [{"campaign_id": CAMPAIGN, "code": code} for code in codes]
        assigned = {"date.assigned": {"$exists": state is State.ASSIGNED}}
        free = {"date.reserved": {"$exists": False}, "reserveId": {"$exists": False}}
        found = assigned if state is State.ASSIGNED else assigned | free
        return bool(self.codes.count_documents({"_id": {"$in": ids}} | found) == len(codes))


@contextmanager
def filled(bench: Bench, stock: Stock) -> Iterator[str]:
    """A database with the indexes and this stock."""
    with bench.database() as name:
        started = time.perf_counter()
        stock.fill(bench.client, name, campaign_id=CAMPAIGN)
        seconds = time.perf_counter() - started
        sys.stderr.write(f"stock of {len(stock.codes):,} codes: filled in {seconds:.1f} s\n")
        yield name


@contextmanager
def contenders(bench: Bench, stock: Stock, *, together: bool = False) -> Iterator[dict[str, Contender]]:
    """Run codesvc and the textbook, each on a database of its own, or ``together`` on one."""
    with ExitStack() as stack:
        databases = [stack.enter_context(filled(bench, stock)) for _ in range(1 if together else 2)]
        copies = [stock.copy() for _ in databases]
        yield {
            name: Contender(name, bench, stack.enter_context(serve(database)), database, copy)
            for name, serve, database, copy in zip(
                (CODESVC, TEXTBOOK),
                (bench.service, bench.textbook),
                databases * (2 if together else 1),
                copies * (2 if together else 1),
                strict=True,
            )
        }


def _changed(load: Load, codes: int) -> bool:
    reply = load.replies[0]
    return reply.status == 200 and reply.body == {"count": {"in": codes, "updated": codes}}


def _now() -> datetime:
    """The present, with the millisecond that MongoDB keeps."""
    now = datetime.now(UTC)
    return now.replace(microsecond=now.microsecond // 1000 * 1000)

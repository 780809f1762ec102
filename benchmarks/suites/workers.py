"""Requests per second of one worker and of two, by many callers at once.

Callers, MongoDB and workers share this machine's cores: with two of them, a second worker takes from the others what it
gives. What the ratio shows there is that it costs nothing, not what it is worth on a machine with cores to spare.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from statistics import median
from typing import Final

from benchmarks.bench import Bench, Run, Series, rate_cells, take_turns
from benchmarks.contenders import CODESVC, Contender, filled
from benchmarks.report import Report, Table
from benchmarks.stock import Stock
from benchmarks.suites.sizes import Sizes

_TEN: Final = 10
_WORKERS: Final = (1, 2)
_START_SECONDS: Final = 60.0


def run(bench: Bench, report: Report, sizes: Sizes, rounds: int) -> None:
    """Let services of one and of two workers take turns on one database."""
    stock = Stock.make(sizes.stock())
    series: dict[tuple[str, str], Series] = {}
    with _services(bench, stock) as services:
        # A count takes longer while somebody writes: all of them come first.
        time.sleep(sizes.settle)
        for turn in (_count, _reserve):
            turns = {
                name: partial(turn, service, callers=sizes.callers, seconds=sizes.seconds)
                for name, service in services.items()
            }
            series |= take_turns("workers, in requests", 1, turns, rounds=rounds)
    one, *_ = services
    rows = [
        [f"{case}: {name}", *rate_cells(each), _times(each, series[one, case])]
        for (name, case), each in series.items()
    ]
    title = f"Workers: {sizes.callers} callers"
    head = ("case: workers", "requests/s, median", "of all rounds", "times one worker")
    note = "The callers and MongoDB run on the same cores as the workers, which limits what a second one can add."
    report.tables.append(Table(title, head, rows, note))
    report.figures[title] = list(series.values())


@contextmanager
def _services(bench: Bench, stock: Stock) -> Iterator[Mapping[str, Contender]]:
    """Run a service of each number of workers, all of which serve, on one database."""
    with filled(bench, stock) as database, ExitStack() as stack:
        services = {}
        for workers in _WORKERS:
            server = stack.enter_context(bench.service(database, {"CODESVC_WORKERS": str(workers)}))
            deadline = time.monotonic() + _START_SECONDS
            while server.metric("codesvc_workers") < workers:
                if time.monotonic() > deadline:
                    raise RuntimeError(f"{workers} workers did not come to serve")
                time.sleep(0.1)
            name = f"{workers} worker{'s' * (workers > 1)}"
            services[name] = Contender(CODESVC, bench, server, database, stock)
        yield services


def _count(service: Contender, *, callers: int, seconds: float) -> dict[str, Run]:
    load = service.send("GET", "codes/count?type=tm", callers=callers, seconds=seconds)
    right = all(reply.status == 200 for reply in load.replies)
    return {"count": _run(len(load.replies) / load.seconds if right else None)}


def _reserve(service: Contender, *, callers: int, seconds: float) -> dict[str, Run]:
    lent = service.reserving(_TEN, callers=callers, seconds=seconds)
    rate = lent.run.rate and len(lent.load.replies) / lent.load.seconds
    return {f"reserve {_TEN} codes": _run(rate)}


def _run(rate: float | None) -> Run:
    # What the service used is not told: its process is the supervisor, which serves nothing.
    return Run(rate=rate, client_cpu=0.0, server_cpu=0.0, peak_memory=0)


def _times(series: Series, base: Series) -> str:
    if not series.right or not base.right:
        return "N/A"
    return f"{median(one / other for one, other in zip(series.rates, base.rates, strict=True)):.2f}"

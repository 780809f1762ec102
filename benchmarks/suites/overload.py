"""Five times as many requests as can be served: what the served ones wait for, and what the process grows by."""

from pathlib import Path
from resource import getpagesize
from statistics import median
from typing import Final

from benchmarks.bench import Bench
from benchmarks.callers import Load, Reply
from benchmarks.contenders import CODESVC, Contender, filled
from benchmarks.documents import State
from benchmarks.report import Report, Table, Target
from benchmarks.stock import Stock

_TIMES: Final = 5


def run(bench: Bench, report: Report, rounds: int) -> None:
    """Let as many callers as there are places, and five times as many, take turns at reserving."""
    codes, places, seconds = (50_000, 8, 0.5) if report.quick else (2_000_000, 64, 4.0)
    stock = Stock.make({State.NEVER_HELD: codes})
    usual: list[Load] = []
    crowded: list[Load] = []
    with filled(bench, stock) as name, bench.service(name, {"CODESVC_MAX_REQUESTS": str(places)}) as server:
        contender = Contender(CODESVC, bench, server, name, stock)
        _reserve(contender, places, seconds)
        before = _resident(server.pid)
        for _ in range(rounds):
            usual.append(_reserve(contender, places, seconds))
            # Those who are refused make up for the other four parts: each of them asks again as often as each of those
            # who are served.
            pause = places * usual[-1].seconds / len(usual[-1].replies)
            crowded.append(_reserve(contender, _TIMES * places, seconds, pause))
        growth = (_resident(server.pid) - before) / 1e6
    right = not any(load.failures for load in usual) and all(_right(load) for load in crowded)
    ratio = median(_slowest(b) / _slowest(a) for a, b in zip(usual, crowded, strict=True)) if right else None
    rows = [
        [
            f"{callers} callers",
            f"{median(len(_served(one)) / one.seconds for one in loads):,.0f}",
            f"{median(one.failures / one.seconds for one in loads):,.0f}",
            f"{1000 * median(_slowest(one) for one in loads):.1f}" if right else "N/A",
        ]
        for callers, loads in ((places, usual), (_TIMES * places, crowded))
    ]
    head = ("at once", "served/s, median", "refused/s, median", "p99 of those served, ms, median")
    note = (
        f"Reserves of one code by a process that takes {places} requests at a time. Whoever is refused asks again "
        "after as long as a request usually takes, not after the second of Retry-After: the crowd sends five times as "
        "much as can be served."
    )
    report.tables.append(Table(f"Overload: {_TIMES} times as many callers as places", head, rows, note))
    report.measured.append("Overload: what those who are served wait for while five times as many ask.")
    report.targets += [
        Target(
            "overload: p99 of those served, times the usual",
            "< 3.00",
            f"{ratio:.2f}" if ratio is not None else "N/A",
            ratio < 3 if ratio is not None else None,
        ),
        Target(
            "overload: memory that the process grows by",
            "< 32 MB",
            f"{growth:.1f} MB" if right else "N/A",
            growth < 32 if right else None,
        ),
    ]


def _reserve(contender: Contender, callers: int, seconds: float, pause: float = 0.0) -> Load:
    return contender.send("POST", "reserve?type=tm&count=1", callers=callers, seconds=seconds, pause=pause)


def _served(load: Load) -> list[Reply]:
    return [reply for reply in load.replies if reply.status == 200]


def _slowest(load: Load) -> float:
    """Return the 99th percentile of those served, in seconds."""
    return Load(_served(load), load.seconds).percentile(99)


def _right(load: Load) -> bool:
    """Tell whether some were served, some refused, and nothing else happened."""
    refused = [reply for reply in load.replies if reply.status != 200]
    told = all(reply.status == 503 and b'"overloaded"' in reply.raw for reply in refused)
    return bool(refused) and told and len(refused) < len(load.replies)


def _resident(pid: int) -> int:
    """Read the bytes of memory that a process has (proc(5))."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * getpagesize()

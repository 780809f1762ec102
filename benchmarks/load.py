"""How fast codes come in, from the request to the reply: codesvc, its readable reference, and the wire ceiling.

Every contender runs in a process of its own against the same mongod (a replica set of one, on the same machine), with
the same indexes and the same write concern, on an empty database each time. Contenders take turns, so that a change
of the machine's speed meets all of them. A run whose result is wrong has no figure.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Final

from pymongo import MongoClient

from benchmarks.data import Profile, write_file
from benchmarks.processes import file_server, service, usage
from benchmarks.report import Report, Table, Target
from codesvc.datastore.indexes import INDEXES
from codesvc.local.mongod import Mongod, MongodOptions

_CASES: Final = ("new", "known")
_KEY: Final = "codes/1/tm/load.csv"
_CONCERN: Final = {"w": "majority", "j": True}


@dataclass(slots=True)
class Run:
    """What one contender did in one round; ``rate`` is None when the result was wrong."""

    rate: float | None
    seconds: float
    client_cpu: float
    server_cpu: float
    peak_memory: int


@dataclass(slots=True)
class Series:
    """All rounds of one contender on one case."""

    contender: str
    case: str
    codes: int
    runs: list[Run] = field(default_factory=list)

    @property
    def rate(self) -> float | None:
        """The median of codes per second, or None if any round went wrong."""
        rates = [run.rate for run in self.runs]
        return None if None in rates or not rates else median(rate for rate in rates if rate is not None)


class Bench:
    """A mongod, a file server, and the files in between."""

    def __init__(self, mongod: Mongod, endpoint: str, files: Path, logs: Path) -> None:
        self.mongod = mongod
        self.endpoint = endpoint
        self.files = files
        self.logs = logs
        self.client: MongoClient[dict[str, Any]] = MongoClient(mongod.uri)

    def file(self, count: int, profile: Profile = Profile.NARROW) -> Path:
        """Make the file of a case where the service finds it, and return its path."""
        path = write_file(self.files / f"{profile}-{count}.csv", count, profile)
        link = self.files / _KEY
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.hardlink_to(path)
        return path

    @contextmanager
    def database(self) -> Iterator[str]:
        """An empty database with the indexes, dropped afterwards."""
        name = f"bench-{time.time_ns()}"
        for index, keys in INDEXES.items():
            self.client[name].codes.create_index(keys, name=index)
        try:
            yield name
        finally:
            self.client.drop_database(name)

    def upload(self, count: int, settings: dict[str, str], *, times: int = 1) -> list[Run]:
        """Upload the current file ``times`` times through HTTP and S3, and check what is in the database."""
        runs = []
        with (
            self.database() as name,
            service(
                mongo_uri=self.mongod.uri,
                database=name,
                endpoint=self.endpoint,
                log=self.logs / "codesvc.log",
                settings=settings,
            ) as codesvc,
        ):
            for number in range(times):
                before, server = usage(codesvc.pid), usage(self.mongod.pid)
                started = time.perf_counter()
                reply = codesvc.call("POST", "/v1/1/codes", {"fileKey": _KEY})
                seconds = time.perf_counter() - started
                after = usage(codesvc.pid)
                expected = {
                    "in": count,
                    "inserted": 0 if number else count,
                    "updated": count if number else 0,
                }
                right = reply == {"count": expected} and self.client[name].codes.count_documents({}) == count
                runs.append(
                    Run(
                        rate=count / seconds if right else None,
                        seconds=seconds,
                        client_cpu=after.cpu - before.cpu,
                        server_cpu=usage(self.mongod.pid).cpu - server.cpu,
                        peak_memory=after.peak_memory,
                    )
                )
        return runs

    def ceiling(self, count: int, path: Path, connections: int) -> Run:
        """Blast the current file over ``connections`` connections."""
        with self.database() as name:
            server = usage(self.mongod.pid)
            command = [sys.executable, "-m", "benchmarks.ceiling", self.mongod.address, name, str(path)]
            done = subprocess.run(
                [*command, str(connections), json.dumps(_CONCERN)], check=True, capture_output=True, text=True
            )
            result = json.loads(done.stdout)
            right = result["codes"] == count and self.client[name].codes.count_documents({}) == count
            return Run(
                rate=count / result["seconds"] if right else None,
                seconds=result["seconds"],
                client_cpu=result["cpu"],
                server_cpu=usage(self.mongod.pid).cpu - server.cpu,
                peak_memory=0,
            )


@contextmanager
def bench(directory: Path, files: Path) -> Iterator[Bench]:
    """Start what every run needs."""
    files.mkdir(parents=True, exist_ok=True)
    options = MongodOptions(cache_gb=2, oplog_mb=4096)
    with (
        Mongod(directory / "mongod", options=options) as mongod,
        file_server(files, directory / "file-server.log") as endpoint,
    ):
        yield Bench(mongod, endpoint, files, directory)


def compare(
    name: str, codes: int, contenders: dict[str, Callable[[], list[Run]]], *, rounds: int
) -> dict[str, list[Series]]:
    """Let the contenders take turns for so many rounds; each call gives the runs of its cases, in order."""
    table: dict[str, list[Series]] = {}
    for number in range(rounds):
        for contender, run in contenders.items():
            runs = run()
            series = table.setdefault(
                contender, [Series(contender, f"{name}, {_CASES[case]}", codes) for case in range(len(runs))]
            )
            for one, done in zip(series, runs, strict=True):
                one.runs.append(done)
            shown = ", ".join(f"{done.rate:,.0f}/s" if done.rate else "N/A" for done in runs)
            sys.stderr.write(f"{name}: round {number + 1} of {rounds}: {contender}: {shown}\n")
    return table


def load_suite(bench: Bench, report: Report, rounds: int) -> None:
    """New codes and known ones, against the reference and the ceiling."""
    count = 100_000 if report.quick else 2_000_000
    path = bench.file(count)
    connections = _best_connections(bench, count, path)
    table = compare(
        "narrow",
        count,
        {
            f"wire ceiling ({connections} connections)": lambda: [bench.ceiling(count, path, connections)],
            "codesvc": lambda: bench.upload(count, {}, times=2),
            "upsert, 4 in flight": lambda: bench.upload(count, _REFERENCE, times=2),
        },
        rounds=rounds,
    )
    (ceiling,), (new, again), (slow_new, slow_again) = table.values()
    report.tables.append(_table(f"Load {count:,} codes, one column", table))
    report.figures["load"] = table
    report.targets += [
        _target("new codes, of the wire ceiling", new, ceiling, 0.90),
        _target("new codes, times the reference", new, slow_new, 5.0),
        _target("known codes, times the reference", again, slow_again, 4.0),
    ]


def memory_suite(bench: Bench, report: Report, rounds: int) -> None:  # noqa: ARG001 - one round shows a peak
    """A long file: the rate holds, and memory does not grow with it. The reference, on a shorter one, beside it."""
    count, reference = (200_000, 50_000) if report.quick else (5_000_000, 1_000_000)
    bench.file(count)
    long = Series("codesvc", f"new, {count:,} codes", count, bench.upload(count, {}))
    bench.file(reference)
    short = Series("codesvc", f"new, {reference:,} codes", reference, bench.upload(reference, {}))
    slow = Series("upsert", f"new, {reference:,} codes", reference, bench.upload(reference, _REFERENCE))
    table = {"long": [long], "short": [short], "reference": [slow]}
    report.tables.append(_table("Memory", table))
    report.figures["memory"] = table
    peak = long.runs[0].peak_memory / 1e6
    report.targets.append(
        Target(
            f"peak memory, {count:,} codes",
            "< 300 MB",
            f"{peak:.0f} MB",
            None if long.rate is None else peak < 300,
        )
    )


SUITES: Final[dict[str, Callable[[Bench, Report, int], None]]] = {"load": load_suite, "memory": memory_suite}

_REFERENCE: Final = {"CODESVC_WRITE_STRATEGY": "upsert", "CODESVC_WRITE_CONCURRENCY": "4"}


def _best_connections(bench: Bench, count: int, path: Path) -> int:
    rates = {connections: bench.ceiling(count, path, connections).rate or 0.0 for connections in (1, 2, 3, 4)}
    return max(rates, key=lambda connections: rates[connections])


def _target(name: str, series: Series, base: Series, wanted: float) -> Target:
    if series.rate is None or base.rate is None:
        return Target(name, f">= {wanted:.2f}", "N/A", None)
    ratio = median(
        one.rate / other.rate
        for one, other in zip(series.runs, base.runs, strict=True)
        if one.rate and other.rate
    )
    return Target(name, f">= {wanted:.2f}", f"{ratio:.2f}", ratio >= wanted)


def _table(title: str, table: dict[str, list[Series]]) -> Table:
    rows = []
    for all_series in table.values():
        for series in all_series:
            rate = "N/A" if series.rate is None else f"{series.rate:,.0f}"
            client = median(run.client_cpu for run in series.runs) / series.codes * 1e6
            server = median(run.server_cpu for run in series.runs) / series.codes * 1e6
            peak = max(run.peak_memory for run in series.runs) / 1e6
            rows.append(
                [f"{series.contender}: {series.case}", rate, f"{client:.2f}", f"{server:.2f}", f"{peak:.0f}"]
            )
    head = ("contender", "codes/s", "client CPU, µs/code", "mongod CPU, µs/code", "peak memory, MB")
    return Table(title, head, rows)

"""What every suite of whole services needs: a MongoDB, a file server, contenders in processes of their own, turns.

A run whose result is wrong has no figure: what a reply said and what the database holds are checked first.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Final

from pymongo import MongoClient
from pymongo.write_concern import WriteConcern

from benchmarks.data import Profile, write_file
from benchmarks.processes import RequestError, ServiceUnderTest, file_server, service, textbook, usage
from benchmarks.report import Report, Table, Target
from codesvc.datastore.indexes import CODE_INDEXES
from codesvc.local.mongod import Mongod, MongodOptions, ReplicaSet, start_replica_set

CAMPAIGN: Final = "1"
REFERENCE: Final = {
    "CODESVC_WRITE_STRATEGY": "upsert",
    "CODESVC_WRITE_CONCURRENCY": "4",
    "CODESVC_MONGO_TIMEOUT": "28",
}
"""The readable strategy, with 4 bulk writes in flight; each takes seconds, and on a slow machine more than the default
time limit."""

_SAFE: Final = {"w": "majority", "j": True}
_OPTIONS: Final = MongodOptions(cache_gb=4, oplog_mb=4096)
_MEMBER_OPTIONS: Final = MongodOptions(cache_gb=2, oplog_mb=4096)


@dataclass(frozen=True, slots=True)
class File:
    """An object as the service finds it: its key, where it lies, and how many codes it holds."""

    key: str
    path: Path
    codes: int


@dataclass(frozen=True, slots=True)
class Step:
    """One upload of a sequence into the same database: the file, and how many of its codes are there already."""

    case: str
    file: File
    known: int = 0
    timed: bool = True


@dataclass(frozen=True, slots=True)
class Run:
    """What one contender did in one round; ``rate`` (codes per second) is None when the result was wrong."""

    rate: float | None
    client_cpu: float
    server_cpu: float
    peak_memory: int


@dataclass(slots=True)
class Series:
    """All rounds of one contender in one case."""

    contender: str
    case: str
    codes: int
    runs: list[Run] = field(default_factory=list)

    @property
    def right(self) -> bool:
        """Whether every round's result was right."""
        return bool(self.runs) and all(run.rate is not None for run in self.runs)

    @property
    def rates(self) -> list[float]:
        """Codes per second, round by round."""
        return [run.rate for run in self.runs if run.rate is not None]

    @property
    def values(self) -> list[float] | None:
        """The rates, or None if any round went wrong: what a chart takes."""
        return self.rates if self.right else None

    @property
    def rate(self) -> float | None:
        """The median of the rates, or None if any round went wrong."""
        return median(self.rates) if self.right else None


class Bench:
    """A MongoDB, a file server, and the files in between."""

    def __init__(self, server: Mongod | ReplicaSet, endpoint: str, files: Path, logs: Path) -> None:
        self._server = server
        self._endpoint = endpoint
        self._files = files
        self._logs = logs
        self.client: MongoClient[dict[str, Any]] = MongoClient(server.uri)

    def close(self) -> None:
        """Close the connections."""
        self.client.close()

    def file(
        self,
        count: int,
        profile: Profile = Profile.NARROW,
        *,
        first: int = 0,
        seed: int = 0,
        shuffled: bool = False,
    ) -> File:
        """Make a file of the codes of so many numbers from ``first`` on."""
        name = f"{profile}-{first}-{count}-{seed}{'-shuffled' * shuffled}.csv"
        key = f"codes/{CAMPAIGN}/tm/{name}"
        path = write_file(self._files / key, count, profile, first=first, seed=seed, shuffled=shuffled)
        return File(key, path, count)

    @contextmanager
    def database(self, indexes: Mapping[str, Mapping[str, Any]] = CODE_INDEXES) -> Iterator[str]:
        """An empty database with the indexes, the keys and options of each by its name, dropped afterwards."""
        name = f"bench-{time.time_ns()}"
        if indexes:
            specified = [{"name": index, **options} for index, options in indexes.items()]
            self.client[name].command("createIndexes", "codes", indexes=specified)
        # What the run before has left to the secondaries is not this one's.
        self._barrier(name, self._members)
        try:
            yield name
        finally:
            self.client.drop_database(name)

    @contextmanager
    def service(self, database: str, settings: Mapping[str, str] | None = None) -> Iterator[ServiceUnderTest]:
        """Run the service on a database."""
        with service(
            mongo_uri=self._server.uri,
            database=database,
            endpoint=self._endpoint,
            log=self._logs / "codesvc.log",
            settings=settings,
        ) as running:
            yield running

    @contextmanager
    def textbook(self, database: str) -> Iterator[ServiceUnderTest]:
        """Run the textbook's service on a database."""
        log = self._logs / "textbook.log"
        with textbook(mongo_uri=self._server.uri, database=database, log=log) as running:
            yield running

    def uploads(
        self, steps: Sequence[Step], settings: Mapping[str, str] | None = None, *, barrier: bool = False
    ) -> dict[str, Run]:
        """Upload one file after the other into a new database, through HTTP and S3; return the timed runs by case.

        A step that is not timed only fills the database: the ceiling's client does it. With ``barrier``, the time goes
        on until a majority of the replica set has everything.
        """
        runs = {}
        with self.database() as name, self.service(name, settings) as running:
            stored = 0
            for step in steps:
                if step.timed:
                    runs[step.case] = self.upload(running, name, step, stored=stored, barrier=barrier)
                else:
                    self.fill(name, step.file)
                stored += step.file.codes - step.known
        return runs

    def upload(
        self, running: ServiceUnderTest, database: str, step: Step, *, stored: int, barrier: bool = False
    ) -> Run:
        """Upload one file and check the reply, and that the database then holds ``stored`` codes and the new ones."""
        client, server = usage(running.pid), self.server_cpu()
        started = time.perf_counter()
        try:
            reply = running.call("POST", f"/v1/{CAMPAIGN}/codes", {"fileKey": step.file.key})
        except RequestError as error:
            # No result is a wrong result: the others go on.
            sys.stderr.write(f"{step.case}: {error}\n")
            reply = {}
        if barrier:
            self._barrier(database, "majority")
        seconds = time.perf_counter() - started
        used, served = usage(running.pid), self.server_cpu()
        codes = step.file.codes
        expected = {"count": {"in": codes, "inserted": codes - step.known, "updated": step.known}}
        right = reply == expected and self._documents(database) == stored + codes - step.known
        return Run(
            rate=codes / seconds if right else None,
            client_cpu=used.cpu - client.cpu,
            server_cpu=served - server,
            peak_memory=used.peak_memory,
        )

    def ceiling(
        self,
        file: File,
        connections: int,
        *,
        concern: Mapping[str, Any] | None = None,
        sort_codes: int = 0,
    ) -> Run:
        """Blast a file into a new database over so many connections: see benchmarks/ceiling.py."""
        with self.database() as name:
            server = self.server_cpu()
            result = self._blast(name, file, connections, concern or _SAFE, sort_codes)
            right = result["codes"] == file.codes == self._documents(name)
            return Run(
                rate=file.codes / result["seconds"] if right else None,
                client_cpu=result["cpu"],
                server_cpu=self.server_cpu() - server,
                peak_memory=0,
            )

    def fill(self, database: str, file: File) -> Run:
        """Write a file's codes, sorted beforehand, by the ceiling's client."""
        server = self.server_cpu()
        result = self._blast(database, file, 2, _SAFE, sort_codes=file.codes)
        return Run(
            rate=file.codes / result["seconds"] if result["codes"] == file.codes else None,
            client_cpu=result["cpu"],
            server_cpu=self.server_cpu() - server,
            peak_memory=0,
        )

    def _blast(
        self, database: str, file: File, connections: int, concern: Mapping[str, Any], sort_codes: int
    ) -> dict[str, Any]:
        """Run the ceiling's client and return what it printed."""
        primary = self._server if isinstance(self._server, Mongod) else self._server.primary()
        command = [sys.executable, "-m", "benchmarks.ceiling", primary.address, database, str(file.path)]
        command += [str(connections), json.dumps(concern), str(sort_codes)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        result: dict[str, Any] = json.loads(done.stdout)
        return result

    def best_connections(self, file: File) -> int:
        """Find the number of connections over which MongoDB takes most."""
        rates = {connections: self.ceiling(file, connections).rate or 0.0 for connections in (1, 2, 3, 4)}
        return max(rates, key=lambda connections: rates[connections])

    def server_cpu(self) -> float:
        """CPU seconds that MongoDB has used, all members together."""
        members = [self._server] if isinstance(self._server, Mongod) else self._server.members
        return sum(usage(member.pid).cpu for member in members)

    def _barrier(self, database: str, members: int | str) -> None:
        """Wait until so many members have everything that was written before."""
        concern = WriteConcern(members, j=True)
        self.client[database].get_collection("barrier", write_concern=concern).insert_one({})

    @property
    def _members(self) -> int:
        return 1 if isinstance(self._server, Mongod) else len(self._server.members)

    def _documents(self, database: str) -> int:
        return self.client[database].codes.count_documents({})


@contextmanager
def single(scratch: Path, files: Path) -> Iterator[Bench]:
    """A replica set of one node, as `make run` has it."""
    with (
        Mongod(scratch / "mongod", options=_OPTIONS) as mongod,
        _files(scratch, files) as endpoint,
        closing(Bench(mongod, endpoint, files, scratch)) as bench,
    ):
        yield bench


@contextmanager
def three(scratch: Path, files: Path) -> Iterator[Bench]:
    """A replica set of three mongod processes on this one machine."""
    replica_set = start_replica_set(scratch / "members", options=_MEMBER_OPTIONS)
    with (
        replica_set,
        _files(scratch, files) as endpoint,
        closing(Bench(replica_set, endpoint, files, scratch)) as bench,
    ):
        yield bench


@contextmanager
def _files(scratch: Path, files: Path) -> Iterator[str]:
    files.mkdir(parents=True, exist_ok=True)
    with file_server(files, scratch / "file-server.log") as endpoint:
        yield endpoint


def take_turns(
    title: str, codes: int, contenders: Mapping[str, Callable[[], Mapping[str, Run]]], *, rounds: int
) -> dict[tuple[str, str], Series]:
    """Let contenders take turns for so many rounds, so that a change of the machine's speed meets all of them.

    Each call returns its runs by case; so does this, by contender and case.
    """
    table: dict[tuple[str, str], Series] = {}
    for number in range(rounds):
        for contender, call in contenders.items():
            runs = call()
            for case, run in runs.items():
                table.setdefault((contender, case), Series(contender, case, codes)).runs.append(run)
            shown = ", ".join(
                f"{case} {run.rate:,.0f}" if run.rate else f"{case} N/A" for case, run in runs.items()
            )
            sys.stderr.write(f"{title}, round {number + 1} of {rounds}: {contender}: {shown} codes/s\n")
            sys.stderr.flush()
    return table


def at_least(name: str, series: Series, base: Series, wanted: float) -> Target:
    """Make a target of a ratio of rates: the median over the rounds of the ratio within each round."""
    if not series.right or not base.right:
        return Target(name, f">= {wanted:.2f}", "N/A", None)
    ratio = median(one / other for one, other in zip(series.rates, base.rates, strict=True))
    return Target(name, f">= {wanted:.2f}", f"{ratio:.2f}", ratio >= wanted)


def shown(rate: float | None) -> str:
    """Write a rate for a table; a wrong result has none."""
    return "N/A" if rate is None else f"{rate:,.0f}"


def rate_cells(series: Series) -> tuple[str, str]:
    """Write the median of a series for a table, and between what the rounds lie."""
    spread = f"{min(series.rates):,.0f} to {max(series.rates):,.0f}" if series.rates else "N/A"
    return shown(series.rate), spread


def add_table(report: Report, title: str, table: Mapping[tuple[str, str], Series], note: str = "") -> None:
    """Add a table of all series, and their figures, to the report."""
    rows = []
    for series in table.values():
        client = median(run.client_cpu for run in series.runs) / series.codes * 1e6
        server = median(run.server_cpu for run in series.runs) / series.codes * 1e6
        peak = max(run.peak_memory for run in series.runs) / 1e6
        rows.append(
            [
                f"{series.case}: {series.contender}",
                *rate_cells(series),
                f"{client:.2f}",
                f"{server:.2f}",
                f"{peak:.0f}" if peak else "",
            ]
        )
    head = (
        "case: contender",
        "codes/s, median",
        "of all rounds",
        "client µs/code",
        "mongod µs/code",
        "peak MB",
    )
    report.tables.append(Table(title, head, rows, note))
    report.figures[title] = list(table.values())

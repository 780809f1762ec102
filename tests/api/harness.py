"""A `codesvc serve` child process, and a plain HTTP client that hides nothing of its replies."""

import contextlib
import http.client
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import EllipsisType
from typing import Any, Final, Self

import jwt

from codesvc.local.process import ChildProcess, free_port

ROOT: Final = Path(__file__).parents[2]
SECRET: Final = "tests/api: a secret of more than thirty-two bytes"

CODE_MARK: Final = "zQx7"
"""Every code of this suite that a helper makes holds it, so that a code in a log is found."""

RFC3339_MILLISECONDS: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")

_START_SECONDS: Final = 40.0
_STOP_SECONDS: Final = 40.0
_JWT_LIKE: Final = re.compile(r"eyJ[A-Za-z0-9_-]{8}")
_QUERY_LIKE: Final = re.compile(r"[?&](count|type|status|after|limit|access_token|secretly)=")

Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Reply:
    """One reply, its headers in the order of the wire."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def header(self, name: str) -> str | None:
        """Return the value of a header, or None; a header sent twice is a failure."""
        values = [value for key, value in self.headers if key.lower() == name.lower()]
        assert len(values) < 2, f"{name} came {len(values)} times: {values}"
        return values[0] if values else None

    def json(self) -> Any:
        """Return the body, which must be what its Content-Type says: JSON."""
        assert self.media_type in {"application/json", "application/problem+json"}, self
        return json.loads(self.body)

    @property
    def media_type(self) -> str:
        """The Content-Type without its parameters."""
        return (self.header("Content-Type") or "").partition(";")[0].strip()


def token(secret: str | Any = SECRET, algorithm: str = "HS256", **claims: Any) -> str:
    """Mint a token that is good for an hour; a claim of None is left out."""
    now = int(time.time())
    every = {"iat": now, "exp": now + 3600, "isSupreme": True, **claims}
    headers = every.pop("headers", None)
    payload = {name: value for name, value in every.items() if value is not None}
    return jwt.encode(payload, secret, algorithm=algorithm, headers=headers)


def base_environment(settings: Mapping[str, str | None]) -> dict[str, str]:
    """Return this process's environment with the settings; None takes one away."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CODESVC_")}
    environment.update({name: value for name, value in settings.items() if value is not None})
    for name, value in settings.items():
        if value is None:
            environment.pop(name, None)
    return environment


def run_command(
    *arguments: str, settings: Mapping[str, str | None], timeout: float = 60.0
) -> subprocess.CompletedProcess[str]:
    """Run `codesvc ARGUMENTS` to its end."""
    return subprocess.run(
        [sys.executable, "-m", "codesvc", *arguments],
        cwd=ROOT,
        env=base_environment(settings),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


class Service:
    """One `codesvc serve`, from its start until its log has been looked through."""

    def __init__(self, log: Path, **settings: str | None) -> None:
        self.log = log
        self.settings: Mapping[str, str | None] = {"CODESVC_HOST": "127.0.0.1", **settings}
        self.port = 0
        self.token = token()
        self._process: ChildProcess | None = None

    def start(self) -> Self:
        """Start it, and wait until /readyz says 200."""
        self.launch()
        self.wait_until_ready()
        return self

    def launch(self) -> None:
        """Start it and return at once."""
        self.port = free_port()
        environment = base_environment({**self.settings, "CODESVC_PORT": str(self.port)})
        # The child runs where the tests run: an installed package or the source tree, whichever they import.
        # What a test adds to the path comes after it.
        environment["PYTHONPATH"] = os.pathsep.join(
            filter(None, [str(ROOT), self.settings.get("PYTHONPATH")])
        )
        self._process = ChildProcess(
            [sys.executable, "-m", "codesvc", "serve"], name="codesvc", log=self.log, env=environment
        )
        self._process.start()

    def wait_until_ready(self, *, path: str = "/readyz") -> None:
        """Poll until the path answers 200."""
        deadline = time.monotonic() + _START_SECONDS
        while True:
            assert self.process.running, f"codesvc serve ended at its start:\n{self.log.read_text()}"
            with contextlib.suppress(OSError, http.client.HTTPException):
                if self.request("GET", path, auth=None, timeout=5).status == 200:
                    return
            assert time.monotonic() < deadline, f"codesvc serve is not ready:\n{self.log.read_text()}"
            time.sleep(0.02)

    @property
    def process(self) -> ChildProcess:
        """The child process."""
        assert self._process is not None
        return self._process

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        os.kill(self.process.pid, number)

    def wait(self, *, limit: float) -> int:
        """Wait for its end; return the exit code."""
        deadline = time.monotonic() + limit
        while self.process.running:
            assert time.monotonic() < deadline, f"codesvc serve did not end in {limit} s"
            time.sleep(0.02)
        assert self.process.returncode is not None
        return self.process.returncode

    def stop(self) -> None:
        """End it by SIGTERM; it must end well, and its whole output must be clean."""
        code = self.process.returncode
        if code is None:
            self.signal(signal.SIGTERM)
            try:
                code = self.wait(limit=_STOP_SECONDS)
            finally:
                self.process.kill()
        assert code in {0, -signal.SIGKILL, 128 + signal.SIGTERM, 130}, (
            f"exit code {code}:\n{self.log.read_text()[-4000:]}"
        )
        self.check_log()

    def log_lines(self) -> list[Document]:
        """Return its output, each line of which must be one JSON object."""
        lines = []
        for line in self.log.read_text().splitlines():
            value = json.loads(line)
            assert isinstance(value, dict), line
            lines.append(value)
        return lines

    def log_lines_of(self, correlation_id: str) -> list[Document]:
        """Return the lines of one request, as soon as there is one."""
        deadline = time.monotonic() + 5
        while True:
            found = [line for line in self.log_lines() if correlation_id in line.values()]
            if found or time.monotonic() > deadline:
                return found
            time.sleep(0.05)

    def check_log(self) -> None:
        """Fail if its output holds anything but JSON objects, or a code, a token or a query string."""
        text = self.log.read_text()
        for number, line in enumerate(text.splitlines(), 1):
            value = json.loads(line)
            assert isinstance(value, dict), f"log line {number} is not an object: {line}"
            for what, found in (
                ("a code", CODE_MARK in line),
                ("a token", _JWT_LIKE.search(line) is not None),
                ("the secret", SECRET in line),
                ("a query string", _QUERY_LIKE.search(line) is not None),
                ("a stack trace of asyncio", "was never retrieved" in line),
            ):
                assert not found, f"log line {number} holds {what}: {line}"

    def request(
        self,
        method: str,
        target: str,
        *,
        body: bytes | Iterable[bytes] | None = None,
        json_body: Any = ...,
        headers: Mapping[str, str] | None = None,
        auth: str | EllipsisType | None = ...,
        timeout: float = 60.0,
    ) -> Reply:
        """Send one request on a connection of its own; auth is the whole header, None sends none."""
        sent = dict(headers or {})
        if isinstance(auth, EllipsisType):
            auth = f"Bearer {self.token}"
        if auth is not None:
            sent["Authorization"] = auth
        if json_body is not ...:
            body = json.dumps(json_body).encode()
            sent.setdefault("Content-Type", "application/json")
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                # A server may reply before it has read the whole of a body it refuses.
                connection.request(method, target, body=body, headers=sent)
            response = connection.getresponse()
            return Reply(response.status, tuple(response.getheaders()), response.read())
        finally:
            connection.close()

    def get(self, target: str, **options: Any) -> Reply:
        """GET it."""
        return self.request("GET", target, **options)

    def post(self, target: str, json_body: Any = ..., **options: Any) -> Reply:
        """POST JSON to it."""
        return self.request("POST", target, json_body=json_body, **options)

    def upload(self, file_key: str, **options: Any) -> Reply:
        """Upload a file, whose campaign is the one in its key."""
        campaign_id = file_key.split("/")[1]
        timeout = options.pop("timeout", 60.0)
        return self.post(f"/v1/{campaign_id}/codes", {"fileKey": file_key, **options}, timeout=timeout)

    def count(self, campaign_id: str, code_type: str = "tm") -> dict[str, int]:
        """Return the three counts."""
        reply = self.get(f"/v1/{campaign_id}/codes/count?type={code_type}")
        assert reply.status == 200, reply
        counts: dict[str, int] = reply.json()
        return counts

    def reserve(self, campaign_id: str, count: int, code_type: str = "tm") -> Document:
        """Reserve codes; return the reply's JSON."""
        reply = self.get(f"/v1/{campaign_id}/reserve?count={count}&type={code_type}")
        assert reply.status == 200, reply
        reservation: Document = reply.json()
        return reservation

    def change(self, campaign_id: str, action: str, codes: list[str]) -> dict[str, int]:
        """Assign or release codes; return the counts of the reply, which holds nothing else."""
        reply = self.post(f"/v1/{campaign_id}/{action}", {"codes": codes})
        assert reply.status == 200, reply
        assert set(reply.json()) == {"count"}
        counts: dict[str, int] = reply.json()["count"]
        return counts


def new_campaign() -> str:
    """Return a campaign that no other test knows."""
    return f"c-{uuid.uuid4().hex}"


def make_codes(count: int, tag: str = "") -> list[str]:
    """Return distinct codes that no other call returns, in no particular order."""
    batch = secrets.token_hex(4)
    codes = [f"{CODE_MARK}{tag}{batch}-{index:06x}" for index in range(count)]
    secrets.SystemRandom().shuffle(codes)
    return codes


def csv_of(codes: Iterable[str]) -> bytes:
    """Return the codes as lines."""
    return "".join(f"{code}\n" for code in codes).encode()


def assert_counts(reply: Reply, count_in: int, inserted: int, updated: int) -> None:
    """Check that an upload's reply is exactly these counts, and that no row was invalid."""
    assert reply.status == 200, reply
    assert reply.json() == {"count": {"in": count_in, "inserted": inserted, "updated": updated}}


def assert_problem(reply: Reply, status: int, code: str | set[str]) -> Document:
    """Check a problem by RFC 9457 and the contract; return it."""
    assert reply.status == status, reply
    assert reply.media_type == "application/problem+json", reply
    problem: Document = reply.json()
    assert {"type", "title", "status", "detail", "code", "correlationId"} <= set(problem), problem
    assert problem["status"] == status
    assert problem["code"] in ({code} if isinstance(code, str) else code), problem
    for name in ("type", "title", "detail", "code", "correlationId"):
        assert isinstance(problem[name], str), name
        assert problem[name], name
    assert "Traceback" not in problem["detail"]
    assert "{{" not in problem["detail"], "a template that nobody filled in"
    assert problem["correlationId"] == reply.header("X-Correlation-ID"), reply
    if status == 401:
        assert (reply.header("WWW-Authenticate") or "").lower().startswith("bearer"), reply
    if status == 405:
        assert reply.header("Allow"), reply
    if status == 503:
        assert re.fullmatch(r"\d+", reply.header("Retry-After") or ""), reply
    return problem


def in_parallel(calls: Iterable[Callable[[], Any]], *, workers: int = 32) -> list[Any]:
    """Make all calls, ``workers`` at a time, and return what they return, in order."""
    with ThreadPoolExecutor(workers) as pool:
        return [future.result() for future in [pool.submit(call) for call in calls]]


def eventually(check: Callable[[], Any], *, limit: float, every: float = 0.05) -> Any:
    """Return the first true value of the check."""
    deadline = time.monotonic() + limit
    while not (value := check()):
        assert time.monotonic() < deadline, f"it did not come true in {limit} s"
        time.sleep(every)
    return value


@contextlib.contextmanager
def running(service: Service) -> Iterator[Service]:
    """Start a service, and end it at the end of the block, whatever happens in it."""
    try:
        yield service.start()
    finally:
        service.stop()

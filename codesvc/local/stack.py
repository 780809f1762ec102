"""mongod, S3 and the API as one: started, watched and stopped together."""

import http.client
import os
import secrets
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from codesvc.local.mongod import Mongod, MongodOptions
from codesvc.local.process import (
    LOOPBACK,
    ChildProcess,
    LocalStackError,
    ProcessDiedError,
    check_port,
    check_room,
    free_port,
    make_directory,
)
from codesvc.local.s3 import ENVIRONMENT, S3Endpoint

MONGO_URI_VARIABLE: Final = "CODESVC_MONGO_URI"
KEY_VARIABLE: Final = "CODESVC_JWT_SECRET"
BUCKET: Final = "codesvc-dev"

_READY_SECONDS: Final = 60.0
_DRAIN_SECONDS: Final = 40.0
_BROKEN_SECONDS: Final = 5.0
_POLL_SECONDS: Final = 0.05
_ROOM_BYTES: Final = 32 << 20

# By default mongod keeps five minutes of history for reads in the past, which nobody here asks for, and which a bulk
# load pushes out of the cache: https://www.mongodb.com/docs/manual/reference/parameters/
_LOADING: Final = {"minSnapshotHistoryWindowInSeconds": 5}

# A key set or a public key would compete with the stack's own secret.
_OTHER_KEYS: Final = ("CODESVC_JWT_JWKS_URL", "CODESVC_JWT_PUBLIC_KEY", "CODESVC_JWT_ALGORITHMS")


@dataclass(frozen=True, slots=True, kw_only=True)
class StackOptions:
    """Where the stack keeps its data and listens; port 0 takes a free one."""

    directory: Path
    host: str = LOOPBACK
    port: int = 8080


class _Part(Protocol):
    @property
    def running(self) -> bool: ...
    def check(self) -> None: ...
    def stop(self, *, limit: float) -> object: ...
    def kill(self) -> object: ...


class Stack:
    """The three processes; ``told`` hears what each step of the start and the stop came to."""

    def __init__(self, options: StackOptions, *, told: Callable[[str], None]) -> None:
        self.directory = options.directory.absolute()
        self.host = options.host
        self.port = options.port or free_port()
        self.secret = ""
        self.mongo_uri = os.environ.get(MONGO_URI_VARIABLE, "")
        self.s3 = S3Endpoint(self.directory / "s3.log", directory=self.directory / "s3")
        self._told = told
        self._parts: list[tuple[_Part, str]] = []

    @property
    def url(self) -> str:
        """The API's address, as a browser on this machine can open it."""
        host = LOOPBACK if self.host in {"0.0.0.0", "::"} else self.host  # noqa: S104 - compared, not bound
        return f"http://{host}:{self.port}"

    def start(self) -> None:
        """Start mongod (unless CODESVC_MONGO_URI names another), S3 and the API, each ready before the next.

        Raises:
            LocalStackError: one line that says which part cannot start, and why.

        """
        check_port(self.port, host=self.host, wanted_by="the API")
        make_directory(self.directory)
        if not self.mongo_uri:
            self._start_mongod()
        self._start_s3()
        self.secret = os.environ.get(KEY_VARIABLE) or _kept_secret(self.directory / "jwt-secret")
        self._start_api()

    def check(self) -> None:
        """Raise LocalStackError if a process died or the disk is full."""
        for part, _ in self._parts:
            part.check()
        check_room(self.directory, least=_ROOM_BYTES)

    def stop(self, *, broken: bool = False) -> None:
        """End every process in the order in which they need each other: API, S3, mongod.

        ``broken`` says that one is gone already, so that what the API has under way cannot end well.
        """
        limit = _BROKEN_SECONDS if broken else _DRAIN_SECONDS
        while self._parts:
            part, farewell = self._parts[-1]
            lived = part.running
            part.stop(limit=limit)
            self._parts.pop()
            if lived:
                self._told(farewell)

    def kill(self) -> None:
        """End every process at once."""
        while self._parts:
            self._parts.pop()[0].kill()

    def _start_mongod(self) -> None:
        started = time.monotonic()
        options = MongodOptions(cache_gb=_cache_gb(), set_parameters=_LOADING)
        mongod = Mongod(self.directory / "mongod", options=options)
        self._parts.append((mongod, "mongod has shut down"))
        mongod.start()
        self.mongo_uri = mongod.uri
        with mongod.client() as client:
            version = client.server_info()["version"]
        self._told(f"MongoDB {version}, a replica set of one, on {mongod.address} ({_since(started)})")

    def _start_s3(self) -> None:
        started = time.monotonic()
        self._parts.append((self.s3, "S3 has saved its objects"))
        self.s3.start()
        self.s3.ensure_bucket(BUCKET)
        self._told(f"S3 (moto) on {self.s3.url} ({_since(started)})")

    def _start_api(self) -> None:
        started = time.monotonic()
        log = self.directory / "api.log"
        with suppress(FileNotFoundError):
            log.replace(log.with_suffix(".log.1"))
        api = ChildProcess(
            [sys.executable, "-m", "codesvc", "serve"], name="the API", log=log, env=self._environment()
        )
        self._parts.append((api, "the API has drained"))
        api.start()
        self._wait_until_ready(api)
        self._told(f"codesvc on {self.url} ({_since(started)})")

    def _environment(self) -> Mapping[str, str]:
        inherited = {name: value for name, value in os.environ.items() if name not in _OTHER_KEYS}
        return {
            **inherited,
            **ENVIRONMENT,
            "CODESVC_DEV": "1",
            "CODESVC_HOST": self.host,
            "CODESVC_PORT": str(self.port),
            MONGO_URI_VARIABLE: self.mongo_uri,
            "CODESVC_S3_BUCKET": BUCKET,
            "CODESVC_S3_ENDPOINT_URL": self.s3.url,
            KEY_VARIABLE: self.secret,
            # A proxy of the machine does not know what listens on its loopback.
            "NO_PROXY": f"{os.environ.get('NO_PROXY', '')},{LOOPBACK}".lstrip(","),
        }

    def _wait_until_ready(self, api: ChildProcess) -> None:
        deadline = time.monotonic() + _READY_SECONDS
        while time.monotonic() < deadline:
            self.check()
            if self._ready():
                return
            time.sleep(_POLL_SECONDS)
        raise ProcessDiedError(f"the API was not ready within {_READY_SECONDS:.0f} s", api.last_log_lines())

    def _ready(self) -> bool:
        host = self.url.removeprefix("http://").rpartition(":")[0]
        connection = http.client.HTTPConnection(host, self.port, timeout=5.0)
        try:
            connection.request("GET", "/readyz")
            return connection.getresponse().status == http.HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()


def _kept_secret(file: Path) -> str:
    """Return the secret that a file holds, made on the first call; only the owner may read it."""
    try:
        handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        secret = file.read_text(encoding="ascii").strip()
        if secret:
            return secret
        handle = os.open(file, os.O_WRONLY | os.O_TRUNC)
    except OSError as error:
        raise LocalStackError(f"{file} cannot be written: {error.strerror}") from None
    with os.fdopen(handle, "w", encoding="ascii") as out:
        secret = secrets.token_urlsafe(48)
        out.write(secret)
    return secret


def _cache_gb() -> float:
    """Return a quarter of the memory for mongod's cache: a load of random keys slows down once they outgrow it."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with suppress(OSError, ValueError):
        memory = min(memory, int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii")))
    return round(min(4.0, max(0.5, memory / 4 / (1 << 30))), 2)


def _since(started: float) -> str:
    return f"{time.monotonic() - started:.1f} s"

"""An S3 endpoint for development and tests: moto in a process of its own, its objects kept in a directory.

``python -m codesvc.local.s3 --port PORT [--directory DIR]`` is that process; S3Endpoint starts and stops it.

DIR/index.json      bucket → key → {file, etag, size, metadata, modified}, replaced atomically
DIR/objects/FILE    the bytes of one object; FILE is a digest of bucket, key and ETag
"""

import argparse
import hashlib
import json
import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from codesvc.local.process import (
    LOOPBACK,
    ChildProcess,
    LocalStackError,
    ProcessDiedError,
    check_port,
    free_port,
    make_directory,
    wait_for_port,
)

if TYPE_CHECKING:
    from moto.s3.models import FakeKey

ENVIRONMENT: Final[Mapping[str, str]] = {
    "AWS_ACCESS_KEY_ID": "local",
    "AWS_SECRET_ACCESS_KEY": "local",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}
"""What a client of the endpoint needs; moto takes any credentials."""

_START_SECONDS: Final = 60.0
_STOP_SECONDS: Final = 30.0
_SAVE_EVERY_SECONDS: Final = 2.0
_PORT_ATTEMPTS: Final = 5


class S3Endpoint:
    """The process, on 127.0.0.1; without a directory its objects end with it."""

    def __init__(self, log: Path, *, directory: Path | None = None, port: int | None = None) -> None:
        self.log = log
        self.directory = directory
        self._port = port or 0
        self._process: ChildProcess | None = None

    @property
    def port(self) -> int:
        """The port it listens on; 0 before the first start, if none was given."""
        return self._port

    @property
    def url(self) -> str:
        """What CODESVC_S3_ENDPOINT_URL has to say."""
        return f"http://{LOOPBACK}:{self._port}"

    @property
    def pid(self) -> int:
        """The id of the process."""
        return self._started().pid

    @property
    def running(self) -> bool:
        """Whether the process lives."""
        return self._process is not None and self._process.running

    def start(self) -> Self:
        """Start it, load what its directory holds, and wait until it answers.

        Raises:
            LocalStackError: one line that says why it cannot start.

        """
        if find_spec("moto") is None or find_spec("flask") is None:
            raise LocalStackError("S3 needs moto: pip install 'codesvc[local]'")
        make_directory(self.log.parent)
        if self.directory is not None:
            make_directory(self.directory)
        attempts = 1 if self._port else _PORT_ATTEMPTS
        for attempt in range(1, attempts + 1):
            port = self._port or free_port()
            check_port(port, wanted_by="S3")
            try:
                self._run(port)
            except ProcessDiedError as error:
                self.kill()
                if attempt == attempts or "in use" not in "".join(error.log_lines):
                    raise
            else:
                self._port = port
                break
        return self

    def check(self) -> None:
        """Raise ProcessDiedError unless the process lives."""
        self._started().check()

    def stop(self, *, limit: float = _STOP_SECONDS) -> int:
        """Let it save what changed and end, kill it after ``limit`` seconds, and return its exit code."""
        return 0 if self._process is None else self._process.stop(limit=limit)

    def kill(self) -> None:
        """End it with SIGKILL, as a crash would."""
        if self._process is not None:
            self._process.kill()

    def client(self) -> Any:
        """Return botocore's blocking client of this endpoint; the caller closes it."""
        return botocore.session.get_session().create_client(
            "s3",
            endpoint_url=self.url,
            region_name=ENVIRONMENT["AWS_REGION"],
            aws_access_key_id=ENVIRONMENT["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=ENVIRONMENT["AWS_SECRET_ACCESS_KEY"],
            # A proxy of the machine does not know what listens on its loopback.
            config=Config(read_timeout=600, proxies={}, s3={"addressing_style": "path"}),
        )

    def ensure_bucket(self, name: str) -> None:
        """Create a bucket unless it exists."""
        try:
            with closing(self.client()) as client:
                if name not in {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}:
                    client.create_bucket(Bucket=name)
        except (BotoCoreError, ClientError) as error:
            self.check()
            raise LocalStackError(f"S3 did not make the bucket {name}: {type(error).__name__}") from None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _started(self) -> ChildProcess:
        if self._process is None:
            raise LocalStackError("S3 was never started")
        return self._process

    def _run(self, port: int) -> None:
        command = [sys.executable, "-m", "codesvc.local.s3", "--port", str(port)]
        if self.directory is not None:
            command += ["--directory", str(self.directory)]
        self._process = ChildProcess(command, name="S3", log=self.log, env={**os.environ, **ENVIRONMENT})
        self._process.start()
        wait_for_port(self._process, port, limit=_START_SECONDS)


@dataclass(frozen=True, slots=True)
class _Stored:
    """One object as the index describes it."""

    file: str
    etag: str
    size: int
    metadata: dict[str, str]
    modified: str


class _Mirror:
    """Keeps the objects of the running moto in a directory."""

    def __init__(self, directory: Path) -> None:
        self._index = directory / "index.json"
        self._objects = directory / "objects"
        self._saved: dict[str, dict[str, _Stored]] = {}
        self._objects.mkdir(parents=True, exist_ok=True)

    def load(self) -> None:
        if not self._index.exists():
            return
        from moto.s3.models import s3_backends  # noqa: PLC0415 - moto takes a second to import

        backend = s3_backends[_account()]["aws"]
        for bucket, keys in json.loads(self._index.read_bytes()).items():
            backend.create_bucket(bucket, ENVIRONMENT["AWS_DEFAULT_REGION"])
            self._saved[bucket] = {}
            for name, fields in keys.items():
                stored = _Stored(**fields)
                value = (self._objects / stored.file).read_bytes()
                key = backend.put_object(bucket, name, value, etag=stored.etag)
                key.set_metadata(dict(stored.metadata))
                key.last_modified = datetime.fromisoformat(stored.modified)
                self._saved[bucket][name] = stored

    def save(self) -> None:
        """Write what changed since the last time: first the bytes, then the index, then the removals."""
        found: dict[str, dict[str, _Stored]] = {}
        for bucket, name, key in _objects():
            keys = found.setdefault(bucket, {})
            if key is not None:
                keys[name] = self._store(bucket, name, key)
        if found == self._saved:
            return
        index = {
            bucket: {
                name: {slot: getattr(one, slot) for slot in _Stored.__slots__} for name, one in keys.items()
            }
            for bucket, keys in found.items()
        }
        _write(self._index, json.dumps(index, indent=1).encode())
        self._saved = found
        kept = {stored.file for keys in found.values() for stored in keys.values()}
        for file in self._objects.iterdir():
            if file.name not in kept:
                file.unlink()

    def _store(self, bucket: str, name: str, key: "FakeKey") -> _Stored:
        etag = key.etag.strip('"')
        file = hashlib.sha256(f"{bucket}\0{name}\0{etag}".encode()).hexdigest()[:40]
        if not (self._objects / file).exists():
            _write(self._objects / file, key.value)
        return _Stored(file, etag, key.size, dict(key.metadata), key.last_modified.isoformat())


def _objects() -> "Iterator[tuple[str, str, FakeKey | None]]":
    """Yield every bucket once without a key, then its objects' latest versions."""
    from moto.s3.models import FakeKey, s3_backends  # noqa: PLC0415

    for bucket in list(s3_backends[_account()]["aws"].buckets.values()):
        yield bucket.name, "", None
        for name in list(bucket.keys):
            # A request may delete it meanwhile.
            with suppress(KeyError):
                key = bucket.keys[name]
                if isinstance(key, FakeKey):
                    yield bucket.name, name, key


def _account() -> str:
    from moto.core.models import DEFAULT_ACCOUNT_ID  # noqa: PLC0415

    return DEFAULT_ACCOUNT_ID


def _write(file: Path, content: bytes) -> None:
    partial = file.with_suffix(".partial")
    partial.write_bytes(content)
    partial.replace(file)


def main() -> int:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(
        prog="python -m codesvc.local.s3", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--directory", type=Path)
    arguments = parser.parse_args()

    stop = threading.Event()

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, on_signal)
    try:
        _serve(arguments.port, arguments.directory, stop)
    except OSError as error:
        sys.stderr.write(f"S3: {error.strerror}\n")
        return 1
    return 0


def _serve(port: int, directory: Path | None, stop: threading.Event) -> None:
    from moto.moto_server.werkzeug_app import (  # noqa: PLC0415
        DomainDispatcherApplication,
        MotoRequestHandler,
        create_backend_app,
    )
    from werkzeug.serving import make_server  # noqa: PLC0415

    class Handler(MotoRequestHandler):
        def log(self, type: str, message: str, *args: Any) -> None:  # noqa: A002 - werkzeug's name
            """Say nothing: one line a request would hide the line that matters."""

    mirror = None if directory is None else _Mirror(directory)
    if mirror is not None:
        mirror.load()
    application = DomainDispatcherApplication(create_backend_app)
    server = make_server(LOOPBACK, port, application, threaded=True, request_handler=Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        while not stop.wait(_SAVE_EVERY_SECONDS):
            if mirror is not None:
                mirror.save()
    finally:
        server.shutdown()
        server.server_close()
    if mirror is not None:
        mirror.save()


if __name__ == "__main__":
    raise SystemExit(main())

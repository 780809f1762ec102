"""What a soak runs against: three mongod, an S3 endpoint behind a proxy, and services in front of them."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import botocore.session
from api.harness import SECRET, Document, Service, running
from api.proxy import Proxy
from pymongo import MongoClient
from pymongo.read_concern import ReadConcern

from codesvc.local.mongod import ReplicaSet, start_replica_set
from codesvc.local.s3 import ENVIRONMENT, S3Endpoint

BUCKET = "soak"
_DATABASE = "soak"


@dataclass(frozen=True, slots=True)
class Fleet:
    members: ReplicaSet
    services: tuple[Service, ...]
    documents: Any
    """The collection of codes, seen from outside: what a majority has."""
    uploads: Any
    """The collection of uploads, seen so as well."""
    s3: Any
    storage: Proxy
    """What the services have between them and S3."""
    _still: list[tuple[float, float | None]] = field(default_factory=list)

    @property
    def ports(self) -> list[int]:
        """Where the services listen, those that are just away included."""
        return [service.port for service in self.services]

    @contextmanager
    def standing_still(self, pid: int) -> Iterator[None]:
        """Have a process stopped for the time of a block."""
        self._still.append((time.monotonic(), None))
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)
            self._still[-1] = (self._still[-1][0], time.monotonic())

    def stood_still(self) -> float:
        """Tell for how many seconds in all a process has been stopped: of those, none can be held to answer."""
        return sum((end or time.monotonic()) - begin for begin, end in list(self._still))

    def put(self, key: str, body: bytes) -> None:
        self.s3.put_object(Bucket=BUCKET, Key=key, Body=body)


@contextmanager
def fleet(directory: Path, *, services: int, ttl_seconds: int) -> Iterator[Fleet]:
    """Start all of it below ``directory``, and end all of it whatever happens.

    Child processes die with the thread that starts them, so this is for the main thread.
    """
    with ExitStack() as stack:
        members = stack.enter_context(start_replica_set(directory))
        endpoint = stack.enter_context(S3Endpoint(directory / "s3.log"))
        s3: Any = botocore.session.get_session().create_client(
            "s3",
            endpoint_url=endpoint.url,
            region_name=ENVIRONMENT["AWS_DEFAULT_REGION"],
            aws_access_key_id=ENVIRONMENT["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=ENVIRONMENT["AWS_SECRET_ACCESS_KEY"],
        )
        stack.enter_context(closing(s3))
        s3.create_bucket(Bucket=BUCKET)
        storage = stack.enter_context(Proxy(int(endpoint.url.rpartition(":")[2])))
        settings: dict[str, str | None] = {
            **ENVIRONMENT,
            "CODESVC_MONGO_URI": members.uri,
            "CODESVC_MONGO_DATABASE": _DATABASE,
            "CODESVC_S3_BUCKET": BUCKET,
            "CODESVC_S3_ENDPOINT_URL": f"http://127.0.0.1:{storage.port}",
            "CODESVC_JWT_SECRET": SECRET,
            "CODESVC_RESERVATION_TTL": str(ttl_seconds),
            # Small, so that a kill finds an upload between its batches.
            "CODESVC_BATCH_SIZE": "250",
            "CODESVC_READ_PART_SIZE": "65536",
            # An upload that is under way then goes to another process.
            "CODESVC_DRAIN_SECONDS": "4",
        }
        started = tuple(
            stack.enter_context(running(Service(directory / f"service-{number}.log", **settings)))
            for number in range(services)
        )
        client = stack.enter_context(MongoClient[Document](members.uri, tz_aware=True, w="majority"))
        database = client.get_database(_DATABASE, read_concern=ReadConcern("majority"))
        yield Fleet(members, started, database["codes"], database["uploads"], s3, storage)

"""What a soak runs against: three mongod, an S3 endpoint, and services in front of them."""

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import botocore.session
from api.harness import SECRET, Document, Service, running
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
    s3: Any

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
        settings: dict[str, str | None] = {
            **ENVIRONMENT,
            "CODESVC_MONGO_URI": members.uri,
            "CODESVC_MONGO_DATABASE": _DATABASE,
            "CODESVC_S3_BUCKET": BUCKET,
            "CODESVC_S3_ENDPOINT_URL": endpoint.url,
            "CODESVC_JWT_SECRET": SECRET,
            "CODESVC_RESERVATION_TTL": str(ttl_seconds),
            # Small, so that a kill finds an upload between its batches.
            "CODESVC_BATCH_SIZE": "250",
        }
        started = tuple(
            stack.enter_context(running(Service(directory / f"service-{number}.log", **settings)))
            for number in range(services)
        )
        client = stack.enter_context(MongoClient[Document](members.uri, tz_aware=True, w="majority"))
        documents = client.get_database(_DATABASE, read_concern=ReadConcern("majority"))["codes"]
        yield Fleet(members, started, documents, s3)

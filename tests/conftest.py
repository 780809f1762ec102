"""What every test may use: a real mongod, a real S3 endpoint, and no failure that stays unseen."""

import gc
import inspect
import logging
import os
import shutil
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import botocore.session
import pytest
from pymongo import MongoClient

# The native core has no stand-in: without it, the suite must not start.
import codesvc._fastcsv
from codesvc.local.mongod import BINARY_VARIABLE, Mongod, MongodOptions, find_mongod
from codesvc.local.process import LocalStackError
from codesvc.local.s3 import ENVIRONMENT, S3Endpoint

assert codesvc._fastcsv.__file__.endswith(".so"), "codesvc._fastcsv is not the built extension"

MONGO_URI_VARIABLE = "CODESVC_MONGO_URI"

_EXTERNAL_MONGO_URI = os.environ.get(MONGO_URI_VARIABLE, "")

# Settings of the shell that runs the tests must not reach them.
for _name in [name for name in os.environ if name.startswith(("CODESVC_", "AWS_", "OTEL_"))]:
    if _name not in {BINARY_VARIABLE, "AWS_CA_BUNDLE"}:
        del os.environ[_name]
os.environ.update(ENVIRONMENT)


def pytest_collection_finish() -> None:
    """Leave the imported modules out of the collections that follow every test: they took longer than the tests."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def program() -> Callable[..., Path]:
    """Finds a program by the first of its names that is there: see .ci/tools.py. Not to find it is to fail."""
    unpacked = Path(__file__).parents[1] / "build" / "tools" / "usr" / "bin"
    path = os.pathsep.join(
        [str(Path(sys.executable).parent), str(unpacked), os.environ.get("PATH", os.defpath)]
    )

    def find(*names: str) -> Path:
        for name in names:
            found = shutil.which(name, path=path)
            if found is not None:
                return Path(found)
        pytest.fail(f"there is no {names[0]}: make test gets it, or says how to")

    return find


@pytest.fixture(scope="session")
def mongod(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mongod]:
    """One mongod, a replica set of one node, with fail points; not to start is to fail."""
    try:
        find_mongod()
    except LocalStackError as error:
        # One line instead of as many errors as there are tests.
        pytest.exit(str(error), returncode=1)
    options = MongodOptions(set_parameters={"enableTestCommands": 1})
    with Mongod(tmp_path_factory.mktemp("mongod"), options=options) as server:
        yield server


@pytest.fixture(scope="session")
def mongo_uri(request: pytest.FixtureRequest) -> str:
    """The MongoDB of the tests: that of CODESVC_MONGO_URI, or our own."""
    if _EXTERNAL_MONGO_URI:
        return _EXTERNAL_MONGO_URI
    server: Mongod = request.getfixturevalue("mongod")
    return server.uri


@pytest.fixture(scope="session")
def mongo(mongo_uri: str) -> Iterator[MongoClient[dict[str, Any]]]:
    """A blocking client, to arrange and to look from outside."""
    with MongoClient[dict[str, Any]](mongo_uri, tz_aware=True) as client:
        yield client


@pytest.fixture
def database_name(mongo: MongoClient[dict[str, Any]]) -> Iterator[str]:
    """The name of a database that nobody else uses, dropped afterwards."""
    name = f"test-{uuid.uuid4().hex}"
    yield name
    mongo.drop_database(name)


@pytest.fixture(scope="session")
def s3_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an S3 endpoint; the AWS_* variables fit it."""
    with S3Endpoint(tmp_path_factory.mktemp("s3") / "s3.log") as endpoint:
        yield endpoint.url


@pytest.fixture(scope="session")
def s3(s3_endpoint: str) -> Iterator[Any]:
    """A blocking S3 client, to put objects where the code under test looks for them."""
    client = botocore.session.get_session().create_client("s3", endpoint_url=s3_endpoint)
    yield client
    client.close()


@pytest.fixture
def bucket(s3: Any) -> Iterator[str]:
    """The name of a new bucket, emptied and deleted afterwards."""
    name = f"test-{uuid.uuid4().hex}"
    s3.create_bucket(Bucket=name)
    yield name
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=name):
        for entry in page.get("Contents", ()):
            s3.delete_object(Bucket=name, Key=entry["Key"])
    s3.delete_bucket(Bucket=name)


class _Records(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(self.format(record))


@pytest.fixture(autouse=True)
def no_unhandled_exception(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test during which an exception reached the event loop's handler, which only logs it."""
    if not inspect.iscoroutinefunction(getattr(request.node, "obj", None)):
        yield
        return
    records = _Records()
    logger = logging.getLogger("asyncio")
    logger.addHandler(records)
    try:
        yield
        # A task whose exception nobody fetched says so when it is collected.
        gc.collect()
    finally:
        logger.removeHandler(records)
    assert not records.messages, "\n".join(
        ["the event loop's exception handler was called:", *records.messages]
    )

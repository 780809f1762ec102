"""Faults: fail points of the server, a proxy in between, and members of a replica set that die."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from api.conftest import (
    api_bucket,
    api_settings,
    campaign,
    fragile,
    fragile_session,
    fragile_settings,
    hosting,
    logs,
    mongo_proxy,
    new_database,
    s3_proxy,
)
from datastore.fixtures import database_name, documents, driver, frozen, rig, rig_database
from datastore.rig import Rigs
from pymongo import MongoClient

from codesvc.local.mongod import Mongod

from .proxy import Proxy

pytest.register_assert_rewrite("faults.operations", "faults.bulk_operations")

__all__ = [
    "api_bucket",
    "api_settings",
    "campaign",
    "database_name",
    "documents",
    "driver",
    "fragile",
    "fragile_session",
    "fragile_settings",
    "frozen",
    "hosting",
    "logs",
    "mongo_proxy",
    "new_database",
    "rig",
    "rig_database",
    "s3_proxy",
]

HOOKS = Path(__file__).parent / "hooks"
"""On the PYTHONPATH of a service, lets a test set its clock; see sitecustomize.py there."""

FailPoint = Callable[..., AbstractContextManager[None]]


@pytest.fixture(scope="session")
def mongo_uri(mongod: Mongod) -> str:
    """Our own mongod: another need not have fail points.

    A server that fails on command has nothing new to say of itself, so the driver must look often to find it again.
    """
    return f"{mongod.uri}&heartbeatFrequencyMS=500"


@pytest.fixture
def failing(mongo: MongoClient[dict[str, Any]]) -> FailPoint:
    """Let codesvc's next commands fail.

    ``failing("insert", times=2, errorCode=91)``; what else there is: https://github.com/mongodb/mongo/wiki/The-failCommand-fail-point.
    """

    @contextmanager
    def fail(*commands: str, times: int = 1, skip: int = 0, **data: Any) -> Iterator[None]:
        mode: Any = {"skip": skip} if skip else {"times": times}
        data |= {"failCommands": list(commands), "appName": "codesvc"}
        mongo.admin.command("configureFailPoint", "failCommand", mode=mode, data=data)
        try:
            yield
        finally:
            mongo.admin.command("configureFailPoint", "failCommand", mode="off")

    return fail


@pytest.fixture
async def proxy(mongod: Mongod) -> AsyncIterator[Proxy]:
    """A proxy in front of the mongod; ``directConnection`` keeps clients from going round it."""
    async with Proxy(mongod.port) as running:
        yield running


@pytest.fixture
def proxy_uri(proxy: Proxy) -> str:
    """The address of the mongod through the proxy."""
    return f"mongodb://127.0.0.1:{proxy.port}/?directConnection=true&heartbeatFrequencyMS=500"


@pytest.fixture
async def rigs(mongo_uri: str, database_name: str, proxy: Proxy) -> AsyncIterator[Rigs]:
    """Open rigs on an empty database, and close them before the proxy goes away."""
    async with AsyncExitStack() as stack:
        yield Rigs(mongo_uri, database_name, stack)


@pytest.fixture(scope="module")
def short_lived_transactions(mongod: Mongod) -> Iterator[None]:
    """Let the server end transactions that their client gave up after 2 s instead of 60 s."""
    name = "transactionLifetimeLimitSeconds"
    with mongod.client() as client:
        client.admin.command({"setParameter": 1, name: 2})
        yield
        client.admin.command({"setParameter": 1, name: 60})

"""Fixtures around rigs, for every room whose tests need a store."""

import gc
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from pymongo import MongoClient

from .rig import Documents, Rig, Rigs

__all__ = ["campaigns", "database_name", "documents", "driver", "frozen", "rig", "rig_database", "rigs"]

_DATABASE = "test-rigs"


@pytest.fixture(scope="module", autouse=True)
def frozen() -> Iterator[None]:
    """Spare the collection after each test what was there before, which would take most of its time."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="session")
def rig_database(mongo: MongoClient[dict[str, Any]]) -> Iterator[str]:
    """One database for all: to make and to drop one costs more than a test."""
    yield _DATABASE
    mongo.drop_database(_DATABASE)


@pytest.fixture
def database_name(mongo: MongoClient[dict[str, Any]], rig_database: str) -> str:
    """The name of a database whose collections are empty."""
    for collection in ("codes", "campaigns", "duties", "uploads", "invalid_rows"):
        mongo[rig_database][collection].delete_many({})
    return rig_database


@pytest.fixture
def documents(mongo: MongoClient[dict[str, Any]], database_name: str) -> Documents:
    """The collection of codes, seen from outside."""
    return mongo[database_name]["codes"]


@pytest.fixture
def campaigns(mongo: MongoClient[dict[str, Any]], database_name: str) -> Documents:
    """The collection of campaigns, seen from outside."""
    return mongo[database_name]["campaigns"]


@pytest.fixture
async def rigs(mongo_uri: str, database_name: str) -> AsyncIterator[Rigs]:
    """Open rigs on an empty database."""
    async with AsyncExitStack() as stack:
        yield Rigs(mongo_uri, database_name, stack)


@pytest.fixture(params=["motor", "pymongo"])
def driver(request: pytest.FixtureRequest) -> str:
    """Each of the two drivers."""
    return str(request.param)


@pytest.fixture
async def rig(rigs: Rigs, driver: str) -> Rig:
    """A rig on each driver."""
    return await rigs(mongo_driver=driver)

"""Every command that the service sends, failing in every way that a command can fail, before and after it took effect.

Which commands a request sends is not written down here: the server's profiler tells, so that none is left out.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import pytest
from api.harness import Document
from api.proxy import Proxy
from api.world import Hosting, World
from pymongo import MongoClient

from codesvc.datastore.failures import RETRYABLE_CODES

from .bulk_operations import BULK_OPERATIONS
from .conftest import HOOKS
from .operations import CUT, OPERATIONS, Case, Operation
from .proxy import command

READ_CODE = 134
"""ReadConcernMajorityNotAvailableYet."""

# Passing: another try may succeed, so the caller is told to try again, or the service has done so.
PASSING_CODES = (18, 24, 46, 50, 64, 112, 133, 202, 225, 251, 11601, 14031)
# Nothing that would pass: not allowed, unknown, bad, too large, not a replica set, internal.
REFUSING_CODES = (1, 2, 8, 13, 59, 96, 10334)
# A write that was done, whose durability is not known: leaving, failing over, not met in time, or never to be met.
CONCERN_CODES = (91, 189, 11600, 64, 79, 100)

SHARE = 1 if os.environ.get("FAULTS") == "all" else 5
"""Of the faults of a command, the tests have one in so many, another one of each command; `make soak` has them all."""

WRITES = ("insert", "update", "findAndModify", "delete", "commitTransaction")

EVERY = [*OPERATIONS, *BULK_OPERATIONS]

# MongoDB does not retry an update of many documents: the caller is told to ask again, and that is exact.
MANY = ("assign", "release", "assign-reservation", "release-reservation")


@dataclass(frozen=True, slots=True)
class Command:
    """A command, and the collection that it is about; None for those that are about a transaction."""

    name: str
    collection: str | None

    def __str__(self) -> str:
        return f"{self.name} {self.collection}"


@pytest.fixture(scope="module")
def world(
    hosting: Hosting,
    api_settings: dict[str, str | None],
    mongo_proxy: Proxy,
    new_database: Callable[[str], str],
) -> Iterator[World]:
    """One service behind a proxy; its driver looks again at once for a server that failed a single command."""
    settings = api_settings | {
        "CODESVC_MONGO_URI": f"mongodb://127.0.0.1:{mongo_proxy.port}/?directConnection=true&serverMonitoringMode=poll",
        "CODESVC_MONGO_TIMEOUT": "5",
        "CODESVC_STOCK_INTERVAL": "0",
        "PYTHONPATH": str(HOOKS),
        "FAULTS_HEARTBEAT": "0.01",
    }
    with hosting(settings, new_database("commands")) as running:
        yield running


def sent_by(world: World, operation: Operation) -> list[Command]:
    """Return the commands that a request sends, as the server saw them."""
    case = Case(world)
    operation.prepare(case)
    world.database.command("profile", 2, slowms=0)
    try:
        reply = operation.ask(case)
    finally:
        world.database.command("profile", 0)
    assert reply.status == operation.status, reply
    found: dict[Command, None] = {}
    for one in world.database["system.profile"].find({"appName": "codesvc"}).sort("ts", 1):
        sent: Document = one["command"]
        name = "aggregate" if "aggregate" in sent else next(iter(sent))
        if one["op"] in {"update", "insert", "remove"} and name == "q":
            name = "delete" if one["op"] == "remove" else one["op"]
        collection = one["ns"].partition(".")[2]
        if name in {"findAndModify", "findandmodify"}:
            name = "findAndModify"
        if collection not in {"$cmd", "system.profile"}:
            found[Command(name, collection)] = None
        # Of a write, the profiler does not tell of the transaction; but only there does one have a read concern.
        concern = one.get("readConcern", {}).get("provenance") == "clientSupplied"
        if sent.get("autocommit") is False or (concern and one["op"] in {"update", "insert", "remove"}):
            found[Command("commitTransaction", None)] = None
    world.database.drop_collection("system.profile")
    assert found
    return list(found)


def faults(operation: Operation, sent: Command) -> Iterator[tuple[str, dict[str, Any], set[int]]]:
    """Return all faults of a command: what each is called, what the fail point is told, what statuses may follow."""
    many = operation.name in MANY and (sent.name, sent.collection) == ("update", "codes")
    for code in sorted(RETRYABLE_CODES):
        # Tried again by the driver or by the store, so that nobody notices; what a read alone can meet is so for reads.
        noticed = {503} if many or (code == READ_CODE and sent.name in WRITES) else set()
        yield f"error {code}", {"errorCode": code}, {200, *noticed}
    # The word on the end of an upload is said again after a second, whatever the code.
    for code in PASSING_CODES[:: 5 if sent.collection == "uploads" else 1]:
        yield f"error {code}", {"errorCode": code}, {200, 503, CUT}
    for code in REFUSING_CODES:
        yield f"error {code}", {"errorCode": code}, {200, 500, CUT}
    yield "connection closed", {"closeConnection": True}, {200, 503} if many else {200}
    if sent.name in WRITES:
        for code in CONCERN_CODES:
            unmet = {"code": code, "errmsg": "unmet", "errInfo": {}}
            yield f"done, but {code}", {"writeConcernError": unmet}, {200, 500, 503}


@pytest.mark.parametrize("operation", EVERY, ids=[one.name for one in EVERY])
def test_a_command_that_fails(world: World, mongo: MongoClient[Document], operation: Operation) -> None:
    wrong: list[str] = []
    failed: Counter[Command] = Counter()
    for number, sent in enumerate(sent_by(world, operation)):
        if operation.only is not None and sent.collection != operation.only:
            continue
        for what, data, statuses in islice(faults(operation, sent), number % SHARE, None, SHARE):
            case = Case(world, refused=data.get("errorCode") in REFUSING_CODES)
            operation.prepare(case)
            about = (
                {} if sent.collection is None else {"namespace": f"{world.database.name}.{sent.collection}"}
            )
            data |= {"failCommands": [sent.name], "appName": "codesvc", **about}
            mongo.admin.command("configureFailPoint", "failCommand", mode={"times": 1}, data=data)
            try:
                reply = operation.ask(case)
            finally:
                off = mongo.admin.command("configureFailPoint", "failCommand", mode="off")
            failed.update([sent] if off["count"] else [])
            try:
                assert reply.status in {operation.status if one == 200 else one for one in statuses}, reply
                operation.check(case, reply)
            except AssertionError as error:
                wrong.append(f"{sent}, {what}: {str(error)[:500]}")
    # What an earlier request left to be done in the background may have been done by then.
    assert failed
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("operation", EVERY, ids=[one.name for one in EVERY])
def test_a_reply_that_is_lost(world: World, mongo_proxy: Proxy, operation: Operation) -> None:
    """The command took effect, and nobody was told."""
    wrong: list[str] = []
    lost = mongo_proxy.lost
    for name in dict.fromkeys(sent.name for sent in sent_by(world, operation)):
        case = Case(world)
        operation.prepare(case)
        mongo_proxy.lose_reply(command(name))
        try:
            reply = operation.ask(case)
        finally:
            mongo_proxy.resume()
        try:
            assert reply.status == operation.status or (operation.name in MANY and reply.status == 503), reply
            operation.check(case, reply)
        except AssertionError as error:
            wrong.append(f"{name}: {str(error)[:500]}")
    assert mongo_proxy.lost > lost
    assert not wrong, "\n".join(wrong)

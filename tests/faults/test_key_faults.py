"""Requests with an Idempotency-Key whose process or database fails in the middle: nothing is done twice."""

import signal
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
from api.harness import (
    Reply,
    Service,
    assert_problem,
    csv_of,
    eventually,
    make_codes,
    new_campaign,
)
from api.world import Hosting, World

from .conftest import FailPoint

KEY = "Idempotency-Key"
REPLAYED = "Idempotency-Replayed"
LEASE = 3.25
"""Of a claim, in seconds, where the time limit of MongoDB is one."""

STOCK = 30
COUNT = 4

Host = Callable[[], World]


@pytest.fixture(scope="module")
def database(new_database: Callable[[str], str]) -> str:
    return new_database("keys")


@pytest.fixture(scope="module")
def settings(api_settings: dict[str, str | None]) -> dict[str, str | None]:
    return api_settings | {
        "CODESVC_MONGO_TIMEOUT": "1",
        "CODESVC_DRAIN_SECONDS": "3",
        "CODESVC_BATCH_SIZE": "100",
        "CODESVC_SORT_CODES": "100",
    }


@pytest.fixture(scope="module")
def world(hosting: Hosting, settings: dict[str, str | None], database: str) -> Iterator[World]:
    """The process that stays."""
    with hosting(settings, database) as world:
        yield world


@pytest.fixture
def doomed(hosting: Hosting, settings: dict[str, str | None], database: str) -> Iterator[Service]:
    """Another process, which a test stops or kills."""
    with hosting(settings, database) as world:
        yield world.service


@pytest.fixture(scope="module")
def stopped(hosting: Hosting, settings: dict[str, str | None], database: str) -> Iterator[Service]:
    """A process that tests stop, and let go on."""
    with hosting(settings, database) as world:
        yield world.service


@pytest.fixture
def stocked(world: World) -> str:
    campaign = new_campaign()
    world.stock(campaign, make_codes(STOCK))
    return campaign


@pytest.fixture
def calls() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


def new_key() -> str:
    return str(uuid.uuid4())


def reserve(service: Service, campaign: str, key: str) -> Reply:
    return service.post(
        f"/v1/{campaign}/reserve", {"type": "tm", "count": COUNT}, headers={KEY: key}, timeout=30
    )


def settled(service: Service, campaign: str, key: str) -> Reply:
    """Send it until it is neither in use nor 503; a process that died has its lease."""

    def answer() -> Reply | None:
        reply = reserve(service, campaign, key)
        if reply.status == 409:
            assert_problem(reply, 409, "idempotencyKeyInUse")
            assert reply.header("Retry-After") == "1"
        return None if reply.status in {409, 503} else reply

    reply: Reply = eventually(answer, limit=4 * LEASE, every=0.2)
    assert reply.status == 200, reply
    return reply


def assert_lent_once(world: World, campaign: str, reply: Reply) -> None:
    """Check that what is held is what the caller was told of, and nothing else."""
    told = {one["code"]: one["reserveId"] for one in reply.json()["codes"]}
    assert len(told) == COUNT

    def held() -> bool:
        found = world.documents(campaign)
        return {code: one["reserveId"] for code, one in found.items() if "reserveId" in one} == told

    eventually(held, limit=2 * LEASE)
    assert world.service.count(campaign) == {"available": STOCK - COUNT, "reserved": COUNT, "assigned": 0}


def blocked(namespace: str, seconds: float) -> dict[str, Any]:
    return {"namespace": namespace, "blockConnection": True, "blockTimeMS": round(1000 * seconds)}


def claimed(world: World, key: str) -> bool:
    return world.database["idempotency_keys"].find_one({"_id.key": key}) is not None


def test_killed_while_it_holds_codes(
    world: World, doomed: Service, stocked: str, failing: FailPoint, calls: ThreadPoolExecutor
) -> None:
    """The server carries the command out all the same, after its process is dead."""
    key = new_key()
    with failing("update", **blocked(f"{world.database.name}.codes", 0.8)):
        call = calls.submit(reserve, doomed, stocked, key)
        eventually(lambda: claimed(world, key), limit=10)
        time.sleep(0.3)
        doomed.signal(signal.SIGKILL)
        with pytest.raises(OSError, match=r".*"):
            call.result()
        eventually(lambda: world.service.count(stocked)["reserved"] == COUNT, limit=10)
    reply = settled(world.service, stocked, key)
    assert_lent_once(world, stocked, reply)
    again = reserve(world.service, stocked, key)
    assert (again.body, again.header(REPLAYED)) == (reply.body, "true")


@pytest.mark.parametrize(
    ("collection", "command"),
    [
        ("idempotency_keys", "findAndModify"),
        ("codes", "find"),
        ("codes", "update"),
    ],
    ids=["while it claims", "while it looks for codes", "while it holds them"],
)
def test_stopped_at_every_step_and_back_when_another_has_answered(
    world: World,
    stopped: Service,
    stocked: str,
    failing: FailPoint,
    calls: ThreadPoolExecutor,
    collection: str,
    command: str,
) -> None:
    """A process that stood still goes on with what it was about to do; that is undone, or it is the reply."""
    key = new_key()
    with failing(command, **blocked(f"{world.database.name}.{collection}", 0.8)):
        call: Future[Reply] = calls.submit(reserve, stopped, stocked, key)
        time.sleep(0.4)
        stopped.signal(signal.SIGSTOP)
        time.sleep(0.6)
    reply = settled(world.service, stocked, key)
    stopped.signal(signal.SIGCONT)
    late = call.result()
    if late.status == 200:
        assert late.body == reply.body
    else:
        assert late.status in {409, 503}
    assert_lent_once(world, stocked, reply)
    assert settled(stopped, stocked, key).body == reply.body


def test_a_reply_that_cannot_be_kept_is_kept_later(world: World, stocked: str, failing: FailPoint) -> None:
    """Nobody is told of what may be forgotten: 503, and the same codes when it is there to be told."""
    key = new_key()
    namespace = f"{world.database.name}.idempotency_keys"
    with failing("update", times=100, errorCode=24, namespace=namespace):
        assert_problem(reserve(world.service, stocked, key), 503, "databaseUnavailable")
        held = world.service.count(stocked)["reserved"]
        assert held == COUNT
        assert_problem(reserve(world.service, stocked, key), 409, "idempotencyKeyInUse")
    reply = settled(world.service, stocked, key)
    assert reply.header(REPLAYED) == "true"
    assert_lent_once(world, stocked, reply)


def test_what_failed_may_be_tried_again_at_once(world: World, stocked: str, failing: FailPoint) -> None:
    key = new_key()
    with failing("update", times=10, errorCode=50, namespace=f"{world.database.name}.codes"):
        assert_problem(reserve(world.service, stocked, key), 503, "databaseUnavailable")
    reply = settled(world.service, stocked, key)
    assert_lent_once(world, stocked, reply)


def test_a_claim_that_cannot_be_made(world: World, stocked: str, failing: FailPoint) -> None:
    key = new_key()
    namespace = f"{world.database.name}.idempotency_keys"
    with failing("findAndModify", times=10, errorCode=24, namespace=namespace):
        assert_problem(reserve(world.service, stocked, key), 503, "databaseUnavailable")
    assert world.service.count(stocked)["reserved"] == 0
    assert_lent_once(world, stocked, settled(world.service, stocked, key))


def test_a_claim_whose_acknowledgement_is_lost(world: World, stocked: str, failing: FailPoint) -> None:
    """The driver asks again, and the server says again what it said."""
    key = new_key()
    namespace = f"{world.database.name}.idempotency_keys"
    error = {"code": 91, "errmsg": "going down", "errorLabels": ["RetryableWriteError"]}
    with failing("findAndModify", namespace=namespace, writeConcernError=error):
        reply = reserve(world.service, stocked, key)
    assert reply.status == 200
    assert reply.header(REPLAYED) is None
    assert_lent_once(world, stocked, reply)


def test_a_caller_who_goes_away(world: World, stocked: str, failing: FailPoint) -> None:
    """What was begun for it is done, and is there when it comes back."""
    key = new_key()
    with failing("update", **blocked(f"{world.database.name}.codes", 0.5)), pytest.raises(TimeoutError):
        world.service.post(
            f"/v1/{stocked}/reserve", {"type": "tm", "count": COUNT}, headers={KEY: key}, timeout=0.2
        )
    reply = settled(world.service, stocked, key)
    assert reply.header(REPLAYED) == "true"
    assert_lent_once(world, stocked, reply)


def test_an_upload_that_is_handed_over(
    world: World, doomed: Service, failing: FailPoint, calls: ThreadPoolExecutor
) -> None:
    """The key still names it: 409 while another process goes on with it, then the reply from its record."""
    campaign, codes, key = new_campaign(), make_codes(2000), new_key()
    body = {"fileKey": world.put(campaign, csv_of(codes))}

    def upload(service: Service) -> Reply:
        return service.post(f"/v1/{campaign}/codes", body, headers={KEY: key}, timeout=60)

    def answer() -> Reply | None:
        reply = upload(world.service)
        if reply.status == 409:
            assert_problem(reply, 409, "idempotencyKeyInUse")
        return None if reply.status == 409 else reply

    with failing("insert", times=100, **blocked(f"{world.database.name}.codes", 0.5)):
        call = calls.submit(upload, doomed)
        eventually(lambda: world.database["uploads"].find_one({"campaignId": campaign}), limit=10)
        doomed.signal(signal.SIGTERM)
        first = call.result()
    reply: Reply = eventually(answer, limit=60, every=0.3)
    assert reply.status == 200
    assert reply.json()["count"] == {"in": 2000, "inserted": 2000, "updated": 0}
    assert_problem(first, 503, "draining")
    assert len(world.service.get(f"/v1/{campaign}/uploads").json()["uploads"]) == 1

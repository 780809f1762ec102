"""MongoDB that does not answer, that is cut off in the middle, and that comes back."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
from pymongo import MongoClient

from .harness import (
    CODE_MARK,
    Document,
    Reply,
    Service,
    assert_counts,
    assert_problem,
    csv_of,
    eventually,
    in_parallel,
    make_codes,
    token,
)
from .proxy import Proxy
from .world import Hosting, World


def timed(call: Callable[[], Reply]) -> tuple[Reply, float]:
    began = time.monotonic()
    reply = call()
    return reply, time.monotonic() - began


def every_request(service: Service, campaign: str, key: str) -> list[Callable[[], Reply]]:
    return [
        lambda: service.upload(key),
        lambda: service.get(f"/v1/{campaign}/codes/count?type=tm"),
        lambda: service.get(f"/v1/{campaign}/codes/count?type=tm&status=reserved"),
        lambda: service.get(f"/v1/{campaign}/reserve?count=1&type=tm"),
        lambda: service.post(f"/v1/{campaign}/reserve?count=1&type=tm"),
        lambda: service.post(f"/v1/{campaign}/assign", {"codes": ["x"]}),
        lambda: service.post(f"/v1/{campaign}/release", {"codes": ["x"]}),
    ]


@pytest.fixture
def patient(
    hosting: Hosting,
    fragile_settings: dict[str, str | None],
    mongo_proxy: Proxy,
    new_database: Callable[[str], str],
) -> Iterator[World]:
    """A service that waits for MongoDB as long as it does unless told otherwise."""
    try:
        with hosting(fragile_settings | {"CODESVC_MONGO_TIMEOUT": None}, new_database("patient")) as world:
            yield world
    finally:
        mongo_proxy.resume()


def assert_unavailable(world: World, campaign: str, key: str) -> None:
    """Use every route; none may wait longer than its limit for a MongoDB that does not answer."""
    service = world.service
    calls = [partial(timed, call) for call in every_request(service, campaign, key)]
    probes = [partial(timed, partial(service.get, "/readyz", auth=None)) for _ in range(2)]
    replies = in_parallel([*calls, *probes])
    for reply, seconds in replies:
        assert seconds < 30
        assert_problem(reply, 503, "databaseUnavailable")
        assert CODE_MARK not in reply.body.decode()
    for _, seconds in replies[-2:]:
        assert seconds < 10, "a probe must not wait as long as a caller"
    for path in ("/heartbeat", "/livez", "/metrics", "/openapi.json", "/docs"):
        reply, seconds = timed(partial(service.get, path, auth=None))
        assert reply.status == 200
        assert seconds < 2, "what needs no MongoDB must not wait for it"
    assert_problem(service.get(f"/v1/{campaign}/codes/count", auth=None), 401, "unauthorized")


def assert_recovered(world: World, campaign: str, key: str, codes: set[str]) -> None:
    """Upload what could not be uploaded; it is all there then."""
    world.service.wait_until_ready()

    def upload() -> Reply | None:
        reply = world.service.upload(key)
        return reply if reply.status == 200 else None

    count = eventually(upload, limit=20, every=0.5).json()["count"]
    assert count["in"] == 20 == count["inserted"] + count["updated"]
    assert codes <= world.stored(campaign)


def test_no_reply_takes_longer_than_30_seconds(
    patient: World, mongo_proxy: Proxy, s3_proxy: Proxy, campaign: str
) -> None:
    """MongoDB accepts connections, and says nothing, not even to an upload that is half done."""
    old, new, big = make_codes(20), make_codes(20), make_codes(20_000)
    patient.stock(campaign, old)
    key = patient.put(campaign, csv_of(new))
    big_key = patient.put(campaign, csv_of(f"{code},{'.' * 25}" for code in big))
    with ThreadPoolExecutor(1) as pool:
        stalled = s3_proxy.stall_after(400_000)
        half_done = pool.submit(patient.service.upload, big_key)
        assert stalled.wait(30)
        eventually(lambda: len(patient.stored(campaign)) > 20, limit=20)
        mongo_proxy.stall()
        began = time.monotonic()
        s3_proxy.resume()
        assert_unavailable(patient, campaign, key)
        assert_problem(half_done.result(30), 503, "databaseUnavailable")
        assert time.monotonic() - began < 30
    mongo_proxy.resume()
    # What was under way to the server arrives now.
    assert_recovered(patient, campaign, key, {*old, *new})
    before = len(patient.stored(campaign)) - 40
    assert_counts(patient.service.upload(big_key), 20_000, 20_000 - before, before)
    assert patient.stored(campaign) == {*old, *new, *big}


def test_mongodb_refuses_connections(fragile: World, mongo_proxy: Proxy, campaign: str) -> None:
    old, new = make_codes(20), make_codes(20)
    fragile.stock(campaign, old)
    key = fragile.put(campaign, csv_of(new))
    mongo_proxy.stop()
    try:
        assert_unavailable(fragile, campaign, key)
    finally:
        mongo_proxy.start()
    assert_recovered(fragile, campaign, key, {*old, *new})
    assert fragile.stored(campaign) == {*old, *new}


def test_a_retry_after_is_a_number_of_seconds(fragile: World, mongo_proxy: Proxy) -> None:
    mongo_proxy.stop()
    try:
        problem = fragile.service.get("/readyz", auth=None)
        assert problem.status == 503
        assert 1 <= int(problem.header("Retry-After") or "0") <= 120
    finally:
        mongo_proxy.start()


def test_it_starts_before_mongodb_does(
    fragile_settings: dict[str, str | None],
    mongo_proxy: Proxy,
    logs: Path,
    new_database: Callable[[str], str],
) -> None:
    settings = fragile_settings | {"CODESVC_MONGO_DATABASE": new_database("late")}
    service = Service(logs / "late.log", **settings)
    mongo_proxy.stop()
    try:
        service.launch()
        service.wait_until_ready(path="/livez")
        assert_problem(service.get("/readyz", auth=None), 503, "databaseUnavailable")
        mongo_proxy.start()
        service.wait_until_ready()
        assert service.count("c") == {"available": 0, "reserved": 0, "assigned": 0}
    finally:
        if mongo_proxy.stopped:
            mongo_proxy.start()
        service.stop()


@pytest.mark.parametrize("number", range(4))
def test_connections_that_break_during_an_upload(
    fragile: World, mongo_proxy: Proxy, campaign: str, number: int
) -> None:
    """Exact counts, or 503 and an exact second try; batches are of 500 codes."""
    codes = make_codes(15_000)
    old = codes[:3000] if number % 2 else []
    if old:
        fragile.stock(campaign, old)
    key = fragile.put(campaign, csv_of([*codes, *codes[:1000]]))
    over = threading.Event()

    def cut() -> None:
        while not over.wait(0.07 + 0.05 * number):
            mongo_proxy.cut()

    thread = threading.Thread(target=cut)
    thread.start()
    try:
        reply = fragile.service.upload(key)
    finally:
        over.set()
        thread.join()
    before = len(old)
    if reply.status != 200:
        assert_problem(reply, 503, "databaseUnavailable")
        stored = fragile.stored(campaign)
        assert stored <= set(codes)
        before = len(stored)
        reply = fragile.service.upload(key)
    assert_counts(reply, 16_000, 15_000 - before, 1000 + before)
    assert fragile.stored(campaign) == set(codes)


@pytest.fixture
def failing(mongo: MongoClient[Document]) -> Iterator[Callable[[Document, int], None]]:
    """Make the server fail the next commands of the service (failCommand); whole again afterwards."""

    def arm(data: Document, times: int) -> None:
        # The service tells the server its name; without it, the tests' own commands would fail as well.
        mongo.admin.command(
            "configureFailPoint",
            "failCommand",
            mode={"times": times},
            data={"appName": "codesvc", **data},
        )

    yield arm
    mongo.admin.command("configureFailPoint", "failCommand", mode="off")


@pytest.mark.parametrize(
    ("error", "times"),
    [
        (189, 1),  # PrimarySteppedDown
        (6, 1),  # HostUnreachable
        (262, 3),  # ExceededTimeLimit
        (0, 1),  # the connection is closed without a reply
        (0, 3),
    ],
)
def test_a_failover_during_an_upload(
    fragile: World,
    failing: Callable[[Document, int], None],
    campaign: str,
    error: int,
    times: int,
) -> None:
    codes = make_codes(6000)
    key = fragile.put(campaign, csv_of([*codes, *codes[:600]]))
    how: Document = {"closeConnection": True} if error == 0 else {"errorCode": error}
    if error:
        how["errorLabels"] = ["RetryableWriteError"]
    failing({"failCommands": ["insert", "update"], **how}, times)
    reply = fragile.service.upload(key)
    before = 0
    if reply.status != 200:
        assert_problem(reply, 503, "databaseUnavailable")
        before = len(fragile.stored(campaign))
        reply = fragile.service.upload(key)
    assert_counts(reply, 6600, 6000 - before, 600 + before)
    assert fragile.stored(campaign) == set(codes)


@pytest.mark.parametrize("error", [6, 0])
@pytest.mark.parametrize("action", ["reserve", "assign", "release", "count"])
def test_a_failover_during_a_small_request(
    fragile: World,
    failing: Callable[[Document, int], None],
    campaign: str,
    action: str,
    error: int,
) -> None:
    """The request is served, or says 503; and what it did is done exactly once."""
    codes = make_codes(40)
    fragile.stock(campaign, codes)
    held = [item["code"] for item in fragile.service.reserve(campaign, 10)["codes"]]
    how: Document = {"closeConnection": True} if error == 0 else {"errorCode": error}
    if error:
        how["errorLabels"] = ["RetryableWriteError"]
    commands = ["insert", "update", "findAndModify", "find", "aggregate", "count"]
    failing({"failCommands": commands, **how}, 1)
    service = fragile.service
    if action == "reserve":
        reply = service.get(f"/v1/{campaign}/reserve?count=10&type=tm")
        lent = len(reply.json()["codes"]) if reply.status == 200 else 0
        assert lent in {0, 10}
        left = service.count(campaign)
        assert left["available"] + left["reserved"] == 40
        if reply.status == 200:
            assert left == {"available": 20, "reserved": 20, "assigned": 0}
    elif action == "count":
        reply = service.get(f"/v1/{campaign}/codes/count?type=tm")
        assert reply.status != 200 or reply.json() == {"available": 30, "reserved": 10, "assigned": 0}
    else:
        reply = service.post(f"/v1/{campaign}/{action}", {"codes": held})
        if reply.status == 200:
            assert reply.json() == {"count": {"in": 10, "updated": 10}}
        else:
            service.change(campaign, action, held)
        left = service.count(campaign)
        assert left[{"assign": "assigned", "release": "available"}[action]] in {10, 40}
        assert left["reserved"] == 0
    if reply.status != 200:
        assert_problem(reply, 503, "databaseUnavailable")


@pytest.mark.parametrize("error", [64, 100])  # WriteConcernFailed, UnsatisfiableWriteConcern
def test_a_write_concern_that_fails_is_no_success(
    fragile: World, failing: Callable[[Document, int], None], campaign: str, error: int
) -> None:
    codes = make_codes(900)
    key = fragile.put(campaign, csv_of(codes))
    failing(
        {
            "failCommands": ["insert", "update"],
            "writeConcernError": {"code": error, "errmsg": f"not enough {CODE_MARK}"},
        },
        1,
    )
    reply = fragile.service.upload(key)
    if reply.status != 200:
        assert_problem(reply, reply.status, {"databaseUnavailable", "internalError"})
        assert CODE_MARK not in reply.body.decode()
        stored = len(fragile.stored(campaign))
        assert_counts(fragile.service.upload(key), 900, 900 - stored, stored)
    else:
        # Only a second try of the batch can have made it good.
        assert_counts(reply, 900, 900, 0)
    assert fragile.stored(campaign) == set(codes)


def test_an_error_of_the_server_that_nobody_expects(
    fragile: World, failing: Callable[[Document, int], None], campaign: str
) -> None:
    """500, or 503; never the driver's message."""
    codes = make_codes(5)
    fragile.stock(campaign, codes)
    commands = ["insert", "update", "findAndModify", "find", "aggregate", "count"]
    key = fragile.put(campaign, csv_of(codes))
    for call in every_request(fragile.service, campaign, key):
        failing({"failCommands": commands, "errorCode": 8000}, 30)
        reply = call()
        assert reply.status in {500, 503}, reply
        assert_problem(reply, reply.status, {"internalError", "databaseUnavailable"})
        assert "failCommand" not in reply.body.decode()
        assert "8000" not in reply.body.decode()
        assert reply.header("Cache-Control") == "no-store"


def test_a_database_that_does_not_let_the_service_in(
    api_settings: dict[str, str | None], mongo_uri: str, logs: Path
) -> None:
    """Wrong credentials are told by /readyz and every request, not by a crash, and never in the log."""
    uri = mongo_uri.replace("mongodb://", "mongodb://user:zQx7-passphrase@")
    settings = {"CODESVC_MONGO_URI": uri, "CODESVC_MONGO_TIMEOUT": "2"}
    service = Service(logs / "refused.log", **(api_settings | settings))
    try:
        service.launch()
        service.wait_until_ready(path="/livez")
        assert service.get("/readyz", auth=None).status == 503
        reply = service.get("/v1/c/codes/count?type=tm", auth=f"Bearer {token()}")
        assert reply.status in {500, 503}
        assert_problem(reply, reply.status, {"databaseUnavailable", "internalError"})
        assert "passphrase" not in reply.body.decode()
    finally:
        service.stop()


def test_a_second_service_is_not_disturbed(world: World, fragile: World, mongo_proxy: Proxy) -> None:
    mongo_proxy.stop()
    try:
        assert world.service.get("/readyz", auth=None).status == 200
        assert fragile.service.get("/readyz", auth=None).status == 503
    finally:
        mongo_proxy.start()

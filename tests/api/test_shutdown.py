"""The end of a process: in the middle of an upload, and when it has nothing to do."""

import contextlib
import http.client
import signal
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from .harness import (
    assert_counts,
    assert_problem,
    eventually,
    make_codes,
)
from .proxy import Proxy
from .stalled import CODES, Upload
from .test_upload_resources import ended
from .world import Hosting, World


@pytest.fixture
def database(new_database: Callable[[str], str]) -> str:
    """The database of both processes of a test."""
    return new_database("shutdown")


@pytest.fixture
def short_lived(
    hosting: Hosting, fragile_settings: dict[str, str | None], database: str, s3_proxy: Proxy
) -> Iterator[World]:
    """A service of the test's own, whose reads from S3 can be held up."""
    # Nobody shall take its uploads over who was not asked to.
    with hosting(fragile_settings | {"CODESVC_UPLOAD_LEASE": "300"}, database) as world:
        yield world
        s3_proxy.resume()


@pytest.fixture
def fresh(hosting: Hosting, api_settings: dict[str, str | None], database: str) -> Iterator[World]:
    """Another process behind the same database: what an orchestrator starts next."""
    with hosting(api_settings | {"CODESVC_BATCH_SIZE": "700"}, database, ready=False) as world:
        yield world


def assert_exact_second_try(fresh: World, upload: Upload) -> None:
    fresh.service.wait_until_ready()
    before = upload.stored()
    reply = fresh.service.upload(upload.key)
    assert_counts(reply, CODES + 1000, CODES - before, 1000 + before)
    assert fresh.stored(upload.campaign) == set(upload.codes)
    counts = fresh.service.count(upload.campaign)
    assert counts == {"available": CODES, "reserved": 0, "assigned": 0}
    reply = fresh.service.upload(upload.key)
    assert_counts(reply, CODES + 1000, 0, CODES + 1000)


def test_sigterm_when_idle(short_lived: World) -> None:
    service = short_lived.service
    assert service.count("c")["available"] == 0
    # A connection that is kept alive, and says nothing, must not hold the process up.
    with socket.create_connection(("127.0.0.1", service.port), timeout=5) as connection:
        connection.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 200")
        began = time.monotonic()
        service.signal(signal.SIGTERM)
        assert service.wait(limit=10) == 0
        assert time.monotonic() - began < 3


def test_sigint_ends_it_as_well(short_lived: World) -> None:
    short_lived.service.signal(signal.SIGINT)
    assert short_lived.service.wait(limit=10) in {0, 130}


def test_sigterm_lets_an_upload_end(short_lived: World, s3_proxy: Proxy, campaign: str) -> None:
    """While it does, the process says that it is going away."""
    service = short_lived.service
    upload = Upload(short_lived, s3_proxy, campaign)
    service.signal(signal.SIGTERM)
    draining = eventually(
        lambda: found if (found := service.get("/readyz", auth=None)).status == 503 else None, limit=5
    )
    assert_problem(draining, 503, "draining")
    for method, target, body in (
        ("GET", f"/v1/{campaign}/codes/count?type=tm", ...),
        ("GET", f"/v1/{campaign}/reserve?count=1&type=tm", ...),
        ("POST", f"/v1/{campaign}/assign", {"codes": ["x"]}),
        ("POST", f"/v1/{campaign}/release", {"codes": ["x"]}),
        ("POST", f"/v1/{campaign}/codes", {"fileKey": upload.key}),
    ):
        reply = service.request(method, target, json_body=body)
        problem = assert_problem(reply, 503, "draining")
        assert problem["correlationId"]
        assert reply.header("Cache-Control") == "no-store"
    assert service.get("/livez", auth=None).status == 200
    assert not upload.reply.done()
    s3_proxy.resume()
    reply = upload.reply.result(30)
    upload.close()
    assert_counts(reply, CODES + 1000, CODES, 1000)
    assert service.wait(limit=15) == 0
    assert short_lived.stored(campaign) == set(upload.codes)


def test_sigterm_ends_an_upload_that_takes_too_long(
    short_lived: World, fresh: World, s3_proxy: Proxy, campaign: str
) -> None:
    """CODESVC_DRAIN_SECONDS is 6 here; the caller hears `draining` before the process ends, and where it goes on."""
    upload = Upload(short_lived, s3_proxy, campaign)
    began = time.monotonic()
    short_lived.service.signal(signal.SIGTERM)
    reply = upload.reply.result(40)
    upload.close()
    assert_problem(reply, 503, "draining")
    assert short_lived.service.wait(limit=20) == 0
    assert time.monotonic() - began < 10
    s3_proxy.resume()
    fresh.service.wait_until_ready()
    location = reply.header("Location")
    assert location is not None
    resource = ended(fresh.service, location, limit=60)
    assert resource["count"] == {"in": CODES + 1000, "inserted": CODES, "updated": 1000}
    assert fresh.stored(campaign) == set(upload.codes)
    assert_counts(fresh.service.upload(upload.key), CODES + 1000, 0, CODES + 1000)


def test_sigkill_in_the_middle_of_an_upload(
    short_lived: World, fresh: World, s3_proxy: Proxy, campaign: str
) -> None:
    upload = Upload(short_lived, s3_proxy, campaign)
    short_lived.service.signal(signal.SIGKILL)
    with pytest.raises(OSError, match=r".*"):
        upload.reply.result(10)
    upload.close()
    short_lived.service.wait(limit=5)
    s3_proxy.resume()
    assert 0 < upload.stored() < CODES
    assert_exact_second_try(fresh, upload)


def test_a_second_signal_ends_it_at_once(short_lived: World, s3_proxy: Proxy, campaign: str) -> None:
    upload = Upload(short_lived, s3_proxy, campaign)
    short_lived.service.signal(signal.SIGTERM)
    eventually(lambda: short_lived.service.get("/readyz", auth=None).status == 503, limit=5)
    began = time.monotonic()
    short_lived.service.signal(signal.SIGTERM)
    with pytest.raises(OSError, match=r".*"):
        upload.reply.result(10)
    assert short_lived.service.wait(limit=5) == 128 + signal.SIGTERM
    assert time.monotonic() - began < 2
    upload.close()


def set_transaction_limit(world: World, seconds: int) -> None:
    world.database.client.admin.command({"setParameter": 1, "transactionLifetimeLimitSeconds": seconds})


def test_sigkill_while_callers_reserve(
    short_lived: World, fresh: World, campaign: str, request: pytest.FixtureRequest
) -> None:
    """What the killed process had not told anybody is available to the next one, or held; none is lost."""
    codes = make_codes(3000)
    short_lived.stock(campaign, codes)
    told: list[str] = []

    def call() -> None:
        with contextlib.suppress(OSError, http.client.HTTPException):
            while True:
                told.extend(item["code"] for item in short_lived.service.reserve(campaign, 5)["codes"])

    set_transaction_limit(fresh, 5)
    request.addfinalizer(lambda: set_transaction_limit(fresh, 60))
    with ThreadPoolExecutor(16) as pool:
        for _ in range(16):
            pool.submit(call)
        eventually(lambda: len(told) > 500, limit=20)
        short_lived.service.signal(signal.SIGKILL)
    fresh.service.wait_until_ready()
    rest: list[str] = []
    # A transaction that the killed process left open ends by the server's limit.
    deadline = time.monotonic() + 60
    while True:
        assert time.monotonic() < deadline
        reply = fresh.service.get(f"/v1/{campaign}/reserve?count=100&type=tm")
        if reply.status == 200:
            if not reply.json()["count"]:
                break
            rest += [item["code"] for item in reply.json()["codes"]]
        else:
            assert_problem(reply, 503, "databaseUnavailable")
    assert len(told + rest) == len(set(told + rest)), "a code was lent twice"
    left = fresh.service.count(campaign)
    assert left == {"available": 0, "reserved": 3000, "assigned": 0}

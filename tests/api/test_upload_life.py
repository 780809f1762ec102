"""The life of an upload across processes: followed, cancelled, queued, drained, and left behind by one that died."""

import http.client
import json
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

from .harness import Document, Service, assert_counts, assert_problem, csv_of, eventually, make_codes
from .proxy import Proxy
from .test_upload_resources import accepted, ended, look, start
from .world import Hosting, World

CODES = 20_000
BOUNDS = {"CODESVC_MAX_UPLOADS": "1", "CODESVC_MAX_QUEUED_UPLOADS": "1"}


@pytest.fixture(scope="module")
def database(new_database: Callable[[str], str]) -> str:
    """The database of both processes."""
    return new_database("life")


@pytest.fixture(scope="module")
def peer(hosting: Hosting, api_settings: dict[str, str | None], database: str) -> Iterator[Service]:
    """Another process, which runs none of the uploads."""
    with hosting(api_settings, database) as world:
        yield world.service


@pytest.fixture(scope="module")
def lasting(hosting: Hosting, fragile_settings: dict[str, str | None], database: str) -> Iterator[World]:
    """A process whose reads from S3 can be held up, which runs one upload at a time, and lets one more wait."""
    with hosting(fragile_settings | BOUNDS, database) as world:
        yield world


@pytest.fixture
def owner(lasting: World, s3_proxy: Proxy) -> Iterator[World]:
    """The same, after whatever has run in it before has ended."""
    yield lasting
    s3_proxy.resume()


@pytest.fixture
def mortal(
    hosting: Hosting, fragile_settings: dict[str, str | None], database: str, s3_proxy: Proxy
) -> Iterator[World]:
    """One that a test may kill."""
    with hosting(fragile_settings, database) as world:
        yield world
        s3_proxy.resume()


def stalled(world: World, s3_proxy: Proxy, campaign: str) -> str:
    """Begin an upload that stands still in its middle, with a part of its codes stored; return its address."""
    key = world.put(campaign, csv_of(f"{code},{'.' * 25}" for code in make_codes(CODES)))
    held = s3_proxy.stall_after(400_000)
    address = accepted(world.service, key)
    assert held.wait(30)
    eventually(lambda: stored(world, campaign) > 0, limit=20)
    return address


def stored(world: World, campaign: str) -> int:
    return world.codes.count_documents({"_id.campaign_id": campaign})


class Events:
    """A stream of events, read as it comes."""

    def __init__(self, service: Service, address: str) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=30)
        self._connection.request(
            "GET", f"{address}/events", headers={"Authorization": f"Bearer {service.token}"}
        )
        self.response = self._connection.getresponse()
        assert self.response.status == 200
        assert self.response.getheader("Content-Type") == "text/event-stream; charset=utf-8"
        assert self.response.getheader("Cache-Control") == "no-store"
        assert self.response.getheader("X-Correlation-ID")
        assert self.response.readline() == b"retry: 2000\n"
        assert self.response.readline() == b"\n"

    def next(self) -> tuple[str, str, Document] | None:
        """Return name, id and data of the next event; None at the end of the stream."""
        fields: dict[str, str] = {}
        while line := self.response.readline():
            if line == b"\n":
                return fields["event"], fields["id"], json.loads(fields["data"])
            name, _, value = line.decode().rstrip("\n").partition(": ")
            fields[name] = value
        assert not fields
        self._connection.close()
        return None


@pytest.mark.parametrize("elsewhere", [False, True], ids=["here", "elsewhere"])
def test_followed_and_cancelled(
    owner: World, peer: Service, s3_proxy: Proxy, campaign: str, elsewhere: bool
) -> None:
    service = peer if elsewhere else owner.service
    address = stalled(owner, s3_proxy, campaign)
    events = Events(service, address)
    began = time.monotonic()
    seen = [events.next() for _ in range(4)]
    assert time.monotonic() - began > 1.5
    for event in seen:
        assert event is not None
        assert (event[0], event[2]["state"]) == ("progress", "running")
    # What others know is up to a second old.
    assert event is not None
    assert event[2]["bytes"]["total"] > event[2]["bytes"]["done"] > 0
    reply = service.request("DELETE", address)
    assert reply.status == 200
    resource = reply.json()
    assert resource["state"] == "cancelled"
    assert resource["count"] == {
        "in": stored(owner, campaign),
        "inserted": stored(owner, campaign),
        "updated": 0,
    }
    assert 0 < resource["count"]["in"] < CODES
    while (event := events.next()) is not None and event[0] == "progress":
        pass
    assert event is not None
    assert (event[0], event[2]) == ("end", look(service, address))
    assert events.next() is None
    headers = {"Last-Event-ID": event[1]}
    assert service.get(f"{address}/events", headers=headers).status == 204
    assert service.get(f"{address}/events", headers={"Last-Event-ID": "1"}).status == 200
    assert service.request("HEAD", f"{address}/events").body == b""


def test_a_caller_who_waits_hears_that_it_was_cancelled(
    owner: World, peer: Service, s3_proxy: Proxy, campaign: str
) -> None:
    key = owner.put(campaign, csv_of(f"{code},{'.' * 25}" for code in make_codes(CODES)))
    held = s3_proxy.stall_after(400_000)
    with ThreadPoolExecutor(1) as pool:
        reply = pool.submit(owner.service.upload, key)
        assert held.wait(30)
        (upload,) = eventually(lambda: peer.get(f"/v1/{campaign}/uploads").json()["uploads"], limit=10)
        assert upload["state"] == "running"
        assert peer.request("DELETE", f"/v1/{campaign}/uploads/{upload['uploadId']}").status == 200
        assert_problem(reply.result(20), 409, "uploadCancelled")


def test_one_waits_and_one_more_is_too_many(owner: World, peer: Service, campaign: str) -> None:
    """The first takes seconds: there are 500 codes in a batch here."""
    key = owner.put(campaign, csv_of(make_codes(5)))
    first = accepted(owner.service, owner.put(campaign, csv_of(make_codes(150_000))))
    second = accepted(owner.service, key)
    assert look(peer, second)["state"] == look(owner.service, second)["state"] == "queued"
    assert look(peer, second)["bytes"] == {"done": 0, "total": look(owner.service, second)["bytes"]["total"]}
    assert "\nuploads_queued 1\n" in metrics(owner.service)
    assert_problem(start(owner.service, key), 503, "tooManyUploads")
    assert_problem(owner.service.upload(key), 503, "tooManyUploads")
    assert peer.request("DELETE", second).json()["state"] == "cancelled"
    assert look(peer, second)["startedAt"] is None
    with ThreadPoolExecutor(1) as pool:
        waits = pool.submit(owner.service.upload, key)
        eventually(
            lambda: peer.get(f"/v1/{campaign}/uploads").json()["uploads"][0]["state"] == "queued", limit=10
        )
        assert look(peer, first)["state"] == "running"
        owner.service.request("DELETE", first)
        assert_counts(waits.result(30), 5, 5, 0)
    assert look(peer, first)["state"] == "cancelled"
    assert look(peer, first)["count"]["inserted"] == stored(owner, campaign) - 5


def test_a_drain_hands_it_over(mortal: World, peer: Service, s3_proxy: Proxy, campaign: str) -> None:
    """CODESVC_DRAIN_SECONDS is 6 here; those who follow it are sent elsewhere at once."""
    address = stalled(mortal, s3_proxy, campaign)
    events = Events(mortal.service, address)
    assert events.next() is not None
    began = time.monotonic()
    mortal.service.signal(signal.SIGTERM)
    while (event := events.next()) is not None:
        assert event[0] == "progress"
    assert time.monotonic() - began < 4
    assert mortal.service.wait(limit=15) == 0
    s3_proxy.resume()
    resource = ended(peer, address)
    assert (resource["state"], resource["error"]) == ("succeeded", None)
    assert resource["count"] == {"in": CODES, "inserted": CODES, "updated": 0}
    assert stored(mortal, campaign) == CODES


def metrics(service: Service) -> str:
    return service.get("/metrics", auth=None).body.decode()


def let_lease_run_out(world: World, address: str) -> None:
    """As if 25 seconds had gone by."""
    past = datetime.now(UTC) - timedelta(seconds=1)
    world.database["uploads"].update_one({"_id": address.rpartition("/")[2]}, {"$set": {"leaseUntil": past}})


def test_its_process_is_killed(mortal: World, peer: Service, s3_proxy: Proxy, campaign: str) -> None:
    address = stalled(mortal, s3_proxy, campaign)
    before = eventually(lambda: one if (one := look(peer, address))["count"]["in"] else None, limit=10)
    mortal.service.signal(signal.SIGKILL)
    mortal.service.wait(limit=5)
    assert look(peer, address)["state"] == "running", "the lease has not run out yet"
    lease = mortal.database["uploads"].find_one({"_id": before["uploadId"]})
    assert lease is not None
    assert lease["leaseUntil"] - datetime.now(UTC) < timedelta(seconds=30)
    let_lease_run_out(mortal, address)
    s3_proxy.resume()
    resource = ended(peer, address)
    assert (resource["state"], resource["error"]) == ("succeeded", None)
    assert resource["count"] == {"in": CODES, "inserted": CODES, "updated": 0}
    assert stored(mortal, campaign) == CODES


def test_a_process_that_had_only_stood_still_does_not_disturb_the_next(
    owner: World, peer: Service, s3_proxy: Proxy, campaign: str
) -> None:
    address = stalled(owner, s3_proxy, campaign)
    let_lease_run_out(owner, address)
    s3_proxy.resume()
    resource = ended(peer, address)
    assert (resource["state"], resource["error"]) == ("succeeded", None)
    assert resource["count"] == {"in": CODES, "inserted": CODES, "updated": 0}
    eventually(lambda: "\nuploads_running 0\n" in metrics(owner.service), limit=10)
    # The one that ended it knows of that while it is still writing it down; then all know the same, and it stays so.
    eventually(lambda: look(owner.service, address) == resource, limit=10)
    assert look(peer, address) == resource


def test_records_go_some_time_after_the_end(owner: World, campaign: str) -> None:
    resource = ended(owner.service, accepted(owner.service, owner.put(campaign, csv_of(make_codes(1)))))
    record = owner.database["uploads"].find_one({"_id": resource["uploadId"]})
    assert record is not None
    kept = record["expireAt"] - record["finishedAt"]
    assert abs(kept - timedelta(days=30)) < timedelta(minutes=1)
    index = owner.database["uploads"].index_information()["uploads_by_expiry"]
    assert index["expireAfterSeconds"] == 0

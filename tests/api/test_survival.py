"""Uploads that outlive their process: whatever becomes of it, another goes on, and the counts are exact."""

import csv
import io
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from .harness import Document, Reply, Service, assert_problem, eventually, make_codes, new_campaign
from .proxy import Proxy
from .test_upload_resources import accepted, ended, look
from .world import Hosting, World

LEASE = 5
SHORT = {"CODESVC_UPLOAD_LEASE": str(LEASE), "CODESVC_SORT_CODES": "500"}

# Of an upload, before it is let go on to its end; and of all, where time does not matter (`make soak`).
KILLS_EACH = 5
KILLS = 50 if os.environ.get("FAULTS") == "all" else KILLS_EACH

# Bytes that S3 says before it sends the file: without them, an upload is refused or put off.
ASKED = 20_000

DISTINCT, KNOWN, REPEATED = 15_000, 1_000, 2_000


@dataclass
class File:
    """A file that has everything in it that counts could go wrong about."""

    world: World
    campaign: str

    def __post_init__(self) -> None:
        self.codes = make_codes(DISTINCT)
        # Some are known before, all over the file; and some come twice, far from each other.
        self.world.stock(self.campaign, self.codes[:: DISTINCT // KNOWN])
        rows = [f"{code},{'.' * 25}" for code in [*self.codes, *self.codes[:REPEATED]]]
        self.invalid: list[int] = []
        for number in range(0, len(rows), 70):
            rows[number] += "\n\x01invalid"
        self.content = ("\n".join(rows) + "\n").encode()
        self.invalid = [at for at, row in enumerate(self.content.split(b"\n"), 1) if row[:1] == b"\x01"]
        self.key = self.world.put(self.campaign, self.content)

    def stored(self) -> int:
        return self.world.codes.count_documents({"_id.campaign_id": self.campaign})

    def assert_exact(self, service: Service, address: str) -> None:
        """All is as if nothing had happened."""
        resource = ended(service, address)
        assert (resource["state"], resource["error"]) == ("succeeded", None)
        total = DISTINCT + REPEATED
        inserted = DISTINCT - KNOWN
        assert resource["count"] == {"in": total, "inserted": inserted, "updated": total - inserted}
        assert resource["bytes"] == {"done": len(self.content), "total": len(self.content)}
        assert resource["invalid"]["count"] == len(self.invalid)
        assert [row["line"] for row in resource["invalid"]["samples"]] == self.invalid[:100]
        rows = list(csv.reader(io.StringIO(service.get(f"{address}/invalid").body.decode())))
        assert rows[0] == ["line", "reason"]
        assert [int(line) for line, _ in rows[1:]] == self.invalid
        assert self.world.stored(self.campaign) == set(self.codes)


@pytest.fixture(scope="module")
def database(new_database: Callable[[str], str]) -> str:
    """The database of all processes."""
    return new_database("survival")


@pytest.fixture(scope="module")
def peer(hosting: Hosting, api_settings: dict[str, str | None], database: str) -> Iterator[World]:
    """The process that goes on."""
    with hosting(api_settings | SHORT, database) as world:
        yield world


Dying = Callable[[], Any]


@pytest.fixture
def dying(
    hosting: Hosting, fragile_settings: dict[str, str | None], database: str, s3_proxy: Proxy
) -> Iterator[World]:
    """The process that a test is unkind to; its reads from S3 can be held up."""
    with hosting(fragile_settings | SHORT, database) as world:
        yield world
        s3_proxy.resume()


def halfway(world: World, s3_proxy: Proxy, file: File) -> str:
    """Begin an upload that stands still in its middle, behind its checkpoint; return its address."""
    held = s3_proxy.stall_after(300_000)
    address = accepted(world.service, file.key)
    assert held.wait(30)
    eventually(lambda: (record(world, address)["checkpoint"] or {}).get("pieces"), limit=15)
    return address


def record(world: World, address: str) -> Document:
    found = world.database["uploads"].find_one({"_id": address.rpartition("/")[2]})
    assert found is not None
    return found


def figure(service: Service, name: str) -> float:
    lines = service.get("/metrics", auth=None).body.decode().splitlines()
    (value,) = [line.rpartition(" ")[2] for line in lines if line.startswith(f"{name} ")]
    return float(value)


def test_killed(peer: World, dying: World, s3_proxy: Proxy, campaign: str) -> None:
    """What it had stored behind its checkpoint is counted as what it is: inserted by this upload."""
    before = figure(peer.service, 'uploads_taken_over_total{from="lapsed"}')
    file = File(peer, campaign)
    address = halfway(dying, s3_proxy, file)
    checkpoint = record(dying, address)["checkpoint"]
    assert 0 < checkpoint["inserted"] <= file.stored() < DISTINCT
    dying.service.signal(signal.SIGKILL)
    # Codes of the file behind the checkpoint that it stored, and had no time to tell of.
    saved = record(dying, address)["saved"]
    there = peer.stored(campaign)
    late = [code for code in file.codes[-100:] if code not in there]
    peer.insert(
        {"_id": {"campaign_id": campaign, "code": code}, "type": "tm", "date": {"saved": saved}}
        for code in late
    )
    file.assert_exact(peer.service, address)
    assert figure(peer.service, 'uploads_taken_over_total{from="lapsed"}') == before + 1
    assert record(peer, address)["generation"] == 1


class Fleet:
    """Processes on one database, each known by the name that it has as an owner of uploads."""

    def __init__(self, join: Callable[[], World]) -> None:
        self._join = join
        self.members: dict[str, World] = {}

    def grow(self) -> None:
        world = self._join()
        address = accepted(world.service, world.put(new_campaign(), b"x\n"))
        ended(world.service, address)
        self.members[record(world, address)["owner"]] = world

    @property
    def any(self) -> World:
        return next(iter(self.members.values()))

    def owner(self, address: str) -> str | None:
        """Wait for an upload to be run by a member; tell which, or None where it has ended."""

        def found() -> tuple[str | None] | None:
            document = record(self.any, address)
            if document["state"] not in {"queued", "running"}:
                return (None,)
            return (document["owner"],) if document["owner"] in self.members else None

        owner: tuple[str | None] = eventually(found, limit=LEASE + 25)
        return owner[0]

    def kill(self, name: str) -> None:
        self.members.pop(name).service.signal(signal.SIGKILL)


@pytest.mark.timeout(60 + 20 * KILLS)
def test_killed_at_random_moments(
    hosting: Hosting, fragile_settings: dict[str, str | None], database: str, s3_proxy: Proxy
) -> None:
    """Three processes take over from each other, each killed wherever it is; another one takes its place."""
    kills = 0
    with ExitStack() as stack:
        stack.callback(s3_proxy.resume)
        fleet = Fleet(lambda: stack.enter_context(hosting(fragile_settings | SHORT, database)))
        for _ in range(3):
            fleet.grow()
        while kills < KILLS:
            file = File(fleet.any, new_campaign())
            s3_proxy.stall_after(random.randrange(ASKED, len(file.content)))
            address = accepted(random.choice([*fleet.members.values()]).service, file.key)
            for _ in range(KILLS_EACH):
                owner = fleet.owner(address)
                time.sleep(random.random())
                if owner is None or fleet.owner(address) is None:
                    break
                fleet.kill(owner)
                kills += 1
                s3_proxy.resume()
                fleet.grow()
                s3_proxy.stall_after(random.randrange(ASKED, len(file.content) // 2))
            s3_proxy.resume()
            file.assert_exact(fleet.any.service, address)


def test_drained(peer: World, dying: World, s3_proxy: Proxy, campaign: str) -> None:
    file = File(peer, campaign)
    address = halfway(dying, s3_proxy, file)
    began = time.monotonic()
    dying.service.signal(signal.SIGTERM)
    eventually(lambda: record(peer, address)["generation"] == 1, limit=LEASE)
    file.assert_exact(peer.service, address)
    assert dying.service.wait(limit=10) == 0
    # Long before three quarters of CODESVC_DRAIN_SECONDS, when those go whose callers wait.
    assert time.monotonic() - began < 30
    assert record(peer, address)["attempts"] == 0


@contextmanager
def waiting_caller(world: World, file: File) -> Iterator[Any]:
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(world.service.upload, file.key)


def its_address(peer: World, campaign: str, file: File) -> str:
    (one,) = eventually(
        lambda: [
            one
            for one in peer.service.get(f"/v1/{campaign}/uploads").json()["uploads"]
            if one["fileKey"] == file.key
        ],
        limit=10,
    )
    return f"/v1/{campaign}/uploads/{one['uploadId']}"


def test_drained_while_its_caller_waits(peer: World, dying: World, s3_proxy: Proxy, campaign: str) -> None:
    """When the time is nearly up, the caller hears where the upload goes on."""
    file = File(peer, campaign)
    held = s3_proxy.stall_after(300_000)
    with waiting_caller(dying, file) as reply:
        assert held.wait(30)
        dying.service.signal(signal.SIGTERM)
        told: Reply = reply.result(20)
    assert_problem(told, 503, "draining")
    address = told.header("Location")
    assert address == its_address(peer, campaign, file)
    assert dying.service.wait(limit=10) == 0
    file.assert_exact(peer.service, address)


def writes_nothing(world: World) -> bool:
    time.sleep(0.02)
    return figure(world.service, "upload_batches_in_flight") == 0


def test_stood_still_for_longer_than_the_lease(
    peer: World, dying: World, s3_proxy: Proxy, campaign: str
) -> None:
    """It comes back when another has gone on, and what it had not sent is not sent any more; its caller hears.

    Not even when the upload has been taken back meanwhile: what is gone does not come back.
    """
    file = File(peer, campaign)
    known = peer.stored(campaign)
    held = s3_proxy.stall_after(300_000)
    with waiting_caller(dying, file) as reply:
        assert held.wait(30)
        address = its_address(peer, campaign, file)
        eventually(lambda: record(peer, address)["checkpoint"], limit=15)
        # What is on its way to the server cannot be called back.
        eventually(lambda: all(writes_nothing(dying) for _ in range(10)), limit=20)
        dying.service.signal(signal.SIGSTOP)
        try:
            eventually(lambda: record(peer, address)["generation"] == 1, limit=3 * LEASE)
            s3_proxy.resume()
            file.assert_exact(peer.service, address)
            taken = peer.service.request("DELETE", address).json()
            assert taken["takenBack"]["count"] == DISTINCT - KNOWN
            assert peer.stored(campaign) == known
        finally:
            dying.service.signal(signal.SIGCONT)
        told: Reply = reply.result(20)
    assert_problem(told, 503, "draining")
    assert told.header("Location") == address
    assert peer.stored(campaign) == known
    assert dying.service.get(address).json() == taken
    assert figure(dying.service, 'uploads_handed_over_total{reason="lost"}') == 1


def test_the_object_is_replaced_before_another_goes_on(
    peer: World, dying: World, s3_proxy: Proxy, campaign: str
) -> None:
    file = File(peer, campaign)
    address = halfway(dying, s3_proxy, file)
    peer.s3.put_object(Bucket=peer.bucket, Key=file.key, Body=file.content + b"ANOTHER\n")
    dying.service.signal(signal.SIGTERM)
    resource = ended(peer.service, address)
    assert (resource["state"], resource["error"]["code"]) == ("failed", "fileChanged")
    assert resource["count"]["inserted"] == file.stored() - KNOWN


def test_cancelled_between_two_owners_and_too_many_attempts(
    peer: World, dying: World, s3_proxy: Proxy, campaign: str
) -> None:
    """Also one that has been the end of five processes, without coming further, is not tried again."""
    file = File(peer, campaign)
    address = accepted(dying.service, file.key)
    second = accepted(dying.service, file.key)
    s3_proxy.stall()
    assert look(peer.service, second)["state"] == "running"
    dying.service.signal(signal.SIGKILL)
    dying.service.wait(limit=5)
    assert look(peer.service, address)["state"] == look(peer.service, second)["state"] == "running"
    uploads = peer.database["uploads"]
    uploads.update_one({"_id": second.rpartition("/")[2]}, {"$set": {"attempts": 5}})
    resource = peer.service.request("DELETE", address).json()
    assert resource["state"] == "cancelled"
    assert resource["count"]["inserted"] == file.stored() - KNOWN
    resource = ended(peer.service, second)
    assert (resource["state"], resource["error"]["code"]) == ("failed", "interrupted")


def test_one_process_that_comes_again(
    hosting: Hosting,
    fragile_settings: dict[str, str | None],
    api_settings: dict[str, str | None],
    new_database: Callable[[str], str],
    s3_proxy: Proxy,
    campaign: str,
) -> None:
    """With one that runs and one that waits for its turn, which nobody had begun."""
    database = new_database("alone")
    bound = SHORT | {"CODESVC_MAX_UPLOADS": "1"}
    with hosting(fragile_settings | bound, database) as first:
        file, behind = File(first, campaign), File(first, f"{campaign}-2")
        address = accepted(first.service, file.key)
        queued = accepted(first.service, behind.key)
        s3_proxy.stall()
        assert look(first.service, queued)["state"] == "queued"
        first.service.signal(signal.SIGTERM)
        assert first.service.wait(limit=10) == 0
        s3_proxy.resume()
        with hosting(api_settings | bound, database) as second:
            file.assert_exact(second.service, address)
            behind.assert_exact(second.service, queued)

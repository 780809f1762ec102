"""Three members and two services, of which some are killed or cut off: what was acknowledged is there in the end."""

import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any, Self

import pytest
from api.harness import (
    SECRET,
    Document,
    Reply,
    Service,
    csv_of,
    eventually,
    make_codes,
    new_campaign,
    running,
)
from api.world import World
from pymongo import MongoClient, WriteConcern
from pymongo.errors import PyMongoError
from pymongo.read_concern import ReadConcern

from .network import Network, network

STOCK = 3_000
FILE = 20_000


@pytest.fixture(scope="module")
def divided(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    """The set and its network."""
    with network(tmp_path_factory.mktemp("network")) as made:
        yield made


@pytest.fixture(scope="module")
def worlds(
    divided: Network, s3_endpoint: str, s3: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[World]]:
    """Two services on one database."""
    s3.create_bucket(Bucket="network")
    logs = tmp_path_factory.mktemp("logs")
    settings: dict[str, str | None] = {
        "CODESVC_MONGO_URI": divided.uri,
        "CODESVC_MONGO_DATABASE": "network",
        "CODESVC_MONGO_TIMEOUT": "12",
        "CODESVC_S3_BUCKET": "network",
        "CODESVC_S3_ENDPOINT_URL": s3_endpoint,
        "CODESVC_JWT_SECRET": SECRET,
        # A kill comes between two batches.
        "CODESVC_BATCH_SIZE": "200",
    }
    with ExitStack() as stack:
        services = [
            stack.enter_context(running(Service(logs / f"service-{number}.log", **settings)))
            for number in range(2)
        ]
        client = stack.enter_context(MongoClient[Document](divided.members.uri, tz_aware=True, w="majority"))
        database = client.get_database("network", read_concern=ReadConcern("majority"))
        # The members tell the driver each other's addresses in the network, which the tests are not cut off from.
        yield [World(service, database, s3, "network") for service in services]


class Load:
    """Callers who reserve and assign, and count, at both services, for the time of a block; and one upload to each."""

    def __init__(self, worlds: list[World], campaign: str) -> None:
        self.worlds = worlds
        self.campaign = campaign
        self.lent: dict[str, list[str]] = {}
        self.unknown = 0
        self.assigned: set[str] = set()
        self.totals: set[int] = set()
        self.done: list[int] = [0 for _ in worlds]
        self.wrong: list[Reply] = []
        self.files = [make_codes(FILE) for _ in worlds]
        self.uploads: list[Future[Reply]] = []
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._pool = ThreadPoolExecutor(12)
        self._callers: list[Future[None]] = []

    def __enter__(self) -> Self:
        for number, world in enumerate(self.worlds):
            key = world.put(f"{self.campaign}-{number}", csv_of(self.files[number]))
            self.uploads.append(self._pool.submit(world.service.upload, key, timeout=90.0))
            self._callers += [
                self._pool.submit(self._call, number, world.service, caller) for caller in range(3)
            ]
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._pool.shutdown()

    def check(self) -> None:
        """Compare what callers were told with what there is."""
        for caller in self._callers:
            caller.result()
        assert not self.wrong, self.wrong[:3]
        documents = self.worlds[0].documents(self.campaign)
        assert len(documents) == STOCK
        told = [code for codes in self.lent.values() for code in codes]
        assert len(told) == len(set(told)), "a code was lent twice"
        for reserve_id, codes in self.lent.items():
            assert {documents[code].get("reserveId") for code in codes} == {reserve_id}, "a hold is lost"
        assert all("assigned" in documents[code]["date"] for code in self.assigned), "an assign is lost"
        held = {code for code, one in documents.items() if "reserveId" in one}
        assert len(held) - len(told) <= 5 * self.unknown
        assert self.totals == {STOCK}, "codes were counted twice, or not at all"
        assigned = sum("assigned" in one["date"] for one in documents.values())
        counts = {"available": STOCK - len(held), "reserved": len(held) - assigned, "assigned": assigned}
        for world in self.worlds:
            assert world.service.count(self.campaign) == counts

    def check_uploads(self) -> None:
        """An upload has exact counts, or none and then its second try has."""
        for number, world in enumerate(self.worlds):
            reply = self.uploads[number].result()
            campaign = f"{self.campaign}-{number}"
            before = 0
            if reply.status != 200:
                assert reply.status == 503, reply
                before = len(world.stored(campaign))
                key = world.put(campaign, csv_of(self.files[number]))
                reply = eventually(lambda: _if_done(world.service, key), limit=60, every=0.5)  # noqa: B023
            inserted = reply.json()["count"]["inserted"]
            assert reply.json()["count"] == {"in": FILE, "inserted": inserted, "updated": FILE - inserted}
            assert inserted == FILE - before
            assert world.stored(campaign) == set(self.files[number])

    def _call(self, number: int, service: Service, caller: int) -> None:
        while not self._over.is_set():
            if caller == 0:
                self._count(number, service)
            else:
                self._reserve(number, service)
            time.sleep(random.uniform(0.01, 0.05))

    def _count(self, number: int, service: Service) -> None:
        reply = self._ask(number, lambda: service.get(f"/v1/{self.campaign}/codes/count?type=tm"))
        if reply is not None:
            self.totals.add(sum(reply.json().values()))

    def _reserve(self, number: int, service: Service) -> None:
        reply = self._ask(number, lambda: service.post(f"/v1/{self.campaign}/reserve?type=tm&count=5"))
        if reply is None:
            with self._lock:
                self.unknown += 1
            return
        codes = [one["code"] for one in reply.json()["codes"]]
        if not codes:
            return
        with self._lock:
            self.lent[reply.json()["reserveId"]] = codes
        if random.random() < 0.5:
            done = self._ask(number, lambda: service.post(f"/v1/{self.campaign}/assign", {"codes": codes}))
            if done is not None:
                with self._lock:
                    self.assigned.update(codes)

    def _ask(self, number: int, call: Any) -> Reply | None:
        reply: Reply = call()
        with self._lock:
            if reply.status == 200:
                self.done[number] += 1
                return reply
            if reply.status != 503:
                self.wrong.append(reply)
        return None


def _if_done(service: Service, key: str) -> Reply | None:
    reply = service.upload(key)
    return reply if reply.status == 200 else None


def stocked(worlds: list[World]) -> str:
    campaign = new_campaign()
    worlds[0].stock(campaign, make_codes(STOCK))
    return campaign


def test_the_primary_is_killed(divided: Network, worlds: list[World]) -> None:
    with Load(worlds, stocked(worlds)) as load:
        eventually(lambda: min(load.done) > 10, limit=30)
        victim = divided.members.primary()
        victim.kill()
        at = list(load.done)
        eventually(lambda: all(now > then + 10 for now, then in zip(load.done, at, strict=True)), limit=40)
        victim.launch()
        divided.members.wait_until_whole(limit=100)
        for upload in load.uploads:
            upload.result()
    load.check()
    load.check_uploads()


def test_the_primary_is_cut_off_and_has_to_take_back_what_it_alone_had(
    divided: Network, worlds: list[World]
) -> None:
    """One of the services is alone with it, and is told of nothing that it may not rely on."""
    lonely, other = worlds
    # Of what a collection has that is not new, the server keeps what it takes back in a file.
    other.database["lost"].insert_one({"_id": "kept"})
    with Load(worlds, stocked(worlds)) as load:
        eventually(lambda: min(load.done) > 10, limit=30)
        old = divided.members.primary()
        divided.cut_off(old.pid, lonely.service.process.pid)
        with old.client() as client:
            # Acknowledged by the one member alone.
            client.get_database("network", write_concern=WriteConcern(1))["lost"].insert_one(
                {"_id": load.campaign}
            )
        at = list(load.done)
        new = eventually(lambda: _another_primary(divided, old.port), limit=30)
        eventually(lambda: load.done[1] > at[1] + 20, limit=40)
        assert new.port != old.port
        # Nobody there could have been told of anything that a majority has; counts, which can, are told.
        stuck = eventually(lambda: _unavailable(lonely.service, load.campaign), limit=40)
        assert stuck.status == 503
        divided.heal()
        divided.members.wait_until_whole(limit=100)
        at = list(load.done)
        eventually(lambda: all(now > then + 10 for now, then in zip(load.done, at, strict=True)), limit=40)
        for upload in load.uploads:
            upload.result()
    assert [one["_id"] for one in other.database["lost"].find()] == ["kept"]
    assert list((old.directory / "db" / "rollback").rglob("*.bson")), "nothing was rolled back"
    load.check()
    load.check_uploads()


def _another_primary(divided: Network, port: int) -> Any:
    for member in divided.members.members:
        if member.port != port:
            try:
                with member.client(serverSelectionTimeoutMS=1_000) as client:
                    if client.admin.command("hello")["isWritablePrimary"]:
                        return member
            except PyMongoError:
                continue
    return None


def _unavailable(service: Service, campaign: str) -> Reply | None:
    reply = service.post(f"/v1/{campaign}/assign", {"codes": ["x"]})
    return reply if reply.status != 200 else None

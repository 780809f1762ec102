"""Three members and two services, of which some are killed or cut off: what was acknowledged is there in the end."""

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from api.harness import (
    SECRET,
    Document,
    Reply,
    Service,
    eventually,
    running,
)
from api.world import World
from pymongo import MongoClient, WriteConcern
from pymongo.errors import PyMongoError
from pymongo.read_concern import ReadConcern

from .load import Load, stocked
from .network import Network, network


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

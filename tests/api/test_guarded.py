"""A service that may do in MongoDB what docs/security.md says and nothing else, watched for every secret that it has.

It logs at DEBUG, exports its spans, and is made to do everything that it can, well and badly; at the end it crashes.
"""

import json
import os
import re
import signal
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from pymongo import MongoClient

from codesvc.local.mongod import Mongod, MongodOptions, wait_for_primary

from .harness import (
    CODE_MARK,
    SECRET,
    Document,
    Reply,
    Service,
    csv_of,
    eventually,
    make_codes,
    run_command,
    token,
)
from .otlp import CALLER, Receiver, receiving_http
from .test_secrecy import every_kind_of_request
from .world import World

DOCUMENT = Path(__file__).parents[2] / "docs" / "security.md"
DATABASE = "codesvc"
PASSWORD = "pAss/w0rd:@Zz-of-codesvc"
COLLECTOR_TOKEN = "cOllect0r-tOken"


def documented_role() -> Document:
    """Read the role out of the document that operators copy it from."""
    match = re.search(r"db\.createRole\((\{.*?\n\})\)", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    assert match is not None
    role: Document = json.loads(match[1])
    return role


@pytest.fixture(scope="module")
def guarded_mongod(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mongod]:
    """A replica set of one that asks everybody who they are, with one user of one role."""
    directory = tmp_path_factory.mktemp("guarded")
    key = directory / "key"
    key.write_text("x" * 64)
    key.chmod(0o600)
    with Mongod(directory) as open_to_all:
        port = open_to_all.port
        role = documented_role()
        with open_to_all.client() as client:
            database = client[DATABASE]
            database.command("createRole", role["role"], privileges=role["privileges"], roles=role["roles"])
            database.command("createUser", "codesvc", pwd=PASSWORD, roles=[role["role"]])
    options = MongodOptions(arguments=("--auth", "--keyFile", str(key)))
    guarded = Mongod(directory, port=port, options=options)
    guarded.launch()
    try:
        wait_for_primary(guarded)
        yield guarded
    finally:
        guarded.stop()


@dataclass
class Guarded:
    """The service, and where what it tells goes."""

    world: World
    mongod: Mongod
    collector: Receiver


def refused(mongod: Mongod) -> list[str]:
    """Return what a mongod has refused for want of a right."""
    lines = mongod.log.read_text().splitlines()
    return [
        line for line in lines if "not authorized" in line.lower() or "authorization failed" in line.lower()
    ]


@pytest.fixture(scope="module")
def guarded(
    guarded_mongod: Mongod, s3: Any, api_bucket: str, api_settings: dict[str, str | None], logs: Path
) -> Iterator[Guarded]:
    login = f"codesvc:{quote(PASSWORD, safe='')}@"
    uri = guarded_mongod.uri.replace("mongodb://", f"mongodb://{login}") + f"&authSource={DATABASE}"
    with receiving_http() as collector:
        settings = api_settings | {
            "CODESVC_MONGO_URI": uri,
            "CODESVC_MONGO_DATABASE": DATABASE,
            "CODESVC_LOG_LEVEL": "DEBUG",
            "CODESVC_BATCH_SIZE": "10",
            "CODESVC_STOCK_INTERVAL": "0.2",
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint,
            "OTEL_EXPORTER_OTLP_HEADERS": f"x-token={COLLECTOR_TOKEN}",
            "OTEL_BSP_SCHEDULE_DELAY": "100",
            "PYTHONFAULTHANDLER": "1",
        }
        service = Service(logs / "guarded.log", **settings)
        # Only to name the database: nothing here asks it anything.
        with MongoClient[Document](uri, connect=False) as client:
            try:
                yield Guarded(
                    World(service.start(), client[DATABASE], s3, api_bucket), guarded_mongod, collector
                )
            finally:
                if service.process.running:
                    service.stop()


def everything(guarded: Guarded) -> list[Reply]:
    """Use what a caller and an operator can use; return the replies."""
    world, service = guarded.world, guarded.world.service
    campaign = every_kind_of_request(world)
    replies = []
    # Everything that is left, so that the last way of lending is taken, and more than that.
    lent = [each["code"] for _ in range(3) for each in service.reserve(campaign, 20)["codes"]]
    replies.append(service.post(f"/v1/{campaign}/release", {"codes": lent}))
    replies.append(service.post(f"/v1/{campaign}/assign", {"codes": lent}))
    key = world.put(campaign, csv_of([*make_codes(500), f"{CODE_MARK}\x01"]))
    headers = {"Prefer": "respond-async", "Idempotency-Key": uuid.uuid4().hex}
    started = service.post(f"/v1/{campaign}/codes", {"fileKey": key}, headers=headers)
    replies.append(started)
    upload = started.header("Location")
    replies.extend(service.get(f"{upload}{part}") for part in ("/events", "", "/invalid"))
    replies.append(service.get(f"/v1/{campaign}/uploads"))
    replies.append(service.request("DELETE", f"{upload}?takeBack=true"))
    assert service.count(campaign)["available"] == 0, "nothing was taken back"
    world.stock(campaign, make_codes(20))
    # A key of something that failed is free again.
    missing = {"fileKey": f"codes/{campaign}/tm/missing.csv"}
    failed = service.post(f"/v1/{campaign}/codes", missing, headers={"Idempotency-Key": uuid.uuid4().hex})
    assert failed.status == 404
    keyed = {"Idempotency-Key": uuid.uuid4().hex}
    replies.extend(service.get(f"/v1/{campaign}/reserve?count=2&type=tm", headers=keyed) for _ in range(2))
    replies.extend(service.get(f"/v1/{campaign}/{path}") for path in ("codes?limit=3", "codes/count?type=tm"))
    replies.append(service.get(f"/v1/{campaign}/codes", headers={"Accept": "text/csv"}))
    for action in ("release", "assign"):
        reserved = service.reserve(campaign, 3)["reserveId"]
        replies.append(service.get(f"/v1/{campaign}/reservations/{reserved}"))
        replies.append(service.post(f"/v1/{campaign}/{action}", {"reserveId": reserved}))
        assert replies[-1].json() == {"count": {"in": 3, "updated": 3}}
    return replies


def test_the_documented_role_is_enough(guarded: Guarded) -> None:
    replies = everything(guarded)
    assert not [reply for reply in replies if reply.status >= 500]
    settings = guarded.world.service.settings
    for command in (("indexes", "--drop-obsolete"), ("verify",)):
        done = run_command(*command, settings=settings)
        assert done.returncode == 0, done.stderr
        assert PASSWORD not in done.stdout + done.stderr
    log = guarded.world.service.log_lines()
    assert [line for line in log if line.get("message") == "indexes verified"]
    assert not [line for line in log if line.get("status") == 500 or '"code": 13,' in json.dumps(line)]
    eventually(lambda: b"campaign" in guarded.world.service.get("/metrics").body, limit=10)
    assert refused(guarded.mongod) == []


@pytest.mark.parametrize(
    ("database", "command"),
    [
        (DATABASE, {"dropDatabase": 1}),
        (DATABASE, {"drop": "codes"}),
        (DATABASE, {"find": "others"}),
        (DATABASE, {"listCollections": 1}),
        (DATABASE, {"createUser": "more", "pwd": "x", "roles": []}),
        ("admin", {"find": "system.users"}),
        ("other", {"find": "codes"}),
        ("local", {"find": "oplog.rs"}),
        ("admin", {"serverStatus": 1}),
        ("admin", {"shutdown": 1}),
    ],
    ids=str,
)
def test_the_documented_role_is_no_more(guarded_mongod: Mongod, database: str, command: Document) -> None:
    """What a stolen connection string is good for ends at the service's own collections."""
    login = {"username": "codesvc", "password": PASSWORD, "authSource": DATABASE}
    with guarded_mongod.client(**login) as client, pytest.raises(Exception, match="not authorized"):
        client[database].command(command)
    # What the other test looks for would be there.
    assert refused(guarded_mongod)


def secrets_of(guarded: Guarded) -> dict[str, str]:
    """Return everything that nobody may read anywhere, by what it is."""
    aws = {name: os.environ[name] for name in ("AWS_SECRET_ACCESS_KEY",) if name in os.environ}
    service = guarded.world.service
    return {
        "a code": CODE_MARK,
        "a token": service.token.rpartition(".")[2],
        "the head of a token": "eyJ",
        "the secret of tokens": SECRET,
        "the password of MongoDB": PASSWORD,
        "the password of MongoDB, as in the address": quote(PASSWORD, safe=""),
        "the middle of that password": "w0rd",
        "the collector's token": COLLECTOR_TOKEN,
        "the query of a request": "secretly",
        **{f"the value of {name}": value for name, value in aws.items() if len(value) > 7},
    }


def test_nothing_that_is_written_tells_a_secret(guarded: Guarded) -> None:
    """Every line of the log at DEBUG, every span, the metrics, every refusal, and the dump of a crash."""
    world, service = guarded.world, guarded.world.service
    everything(guarded)
    refusals = [
        service.get(f"/{CODE_MARK}?secretly={CODE_MARK}"),
        service.get(f"/v1/c/codes/count?type={CODE_MARK}"),
        service.get("/v1/c/codes/count?type=tm", auth=f"Bearer {token()}x"),
        service.get("/v1/c/codes/count?type=tm", auth=f"Basic {service.token}"),
        service.get(f"/v1/c/uploads/{CODE_MARK}"),
        service.get(f"/v1/c/codes/{CODE_MARK}"),
        service.get(f"/v1/c/codes?after={CODE_MARK}%00"),
        service.post("/v1/c/assign", {"codes": [CODE_MARK, 5]}),
        service.post("/v1/c/assign", {"codes": ["A"]}, headers={"Idempotency-Key": CODE_MARK * 100}),
        service.post("/v1/c/codes", {"fileKey": f"codes/c/tm/{CODE_MARK}/../x"}),
        service.post(f"/v1/{CODE_MARK}%20/codes", {"fileKey": "codes/c/tm/x"}),
        world.upload("c", csv_of([f"{CODE_MARK}\x01"]), strict=True),
    ]
    metrics = service.get("/metrics", auth=None)
    last = uuid.uuid4().hex
    service.get("/v1/c/codes/count?type=tm", headers={"traceparent": f"00-{last}-{CALLER}-01"})
    guarded.collector.trace(last)
    assert len(guarded.collector.spans) > 100
    service.signal(signal.SIGABRT)
    eventually(lambda: not service.process.running, limit=20)
    log = service.log.read_text(errors="replace")
    assert "Fatal Python error: Aborted" in log
    assert log.count("\n") > 100
    told = {
        "the log": log,
        "the metrics": metrics.body.decode(),
        **{f"refusal {number}": str(each) for number, each in enumerate(refusals)},
        **{
            f"export {number}": body.decode("latin-1") for number, body in enumerate(guarded.collector.bodies)
        },
    }
    assert all(reply.status >= 400 for reply in refusals)
    for what, secret in secrets_of(guarded).items():
        for where, text in told.items():
            assert secret not in text, (
                f"{where} tells {what}: …{text[max(0, text.find(secret) - 300) :][:600]}"
            )

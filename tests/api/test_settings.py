"""The table of the environment: what is missing or malformed, and what each variable changes."""

import http.client
import re
import subprocess
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from pymongo import MongoClient

from .harness import (
    SECRET,
    Document,
    Service,
    assert_counts,
    assert_problem,
    csv_of,
    eventually,
    in_parallel,
    make_codes,
    run_command,
    running,
    token,
)
from .world import World

GOOD = {
    "CODESVC_HOST": "127.0.0.1",
    # Nothing listens there: a process that takes a malformed setting for good stays up, and is found out.
    "CODESVC_MONGO_URI": "mongodb://127.0.0.1:9/",
    "CODESVC_S3_BUCKET": "bucket",
    "CODESVC_JWT_SECRET": SECRET,
}

MALFORMED: list[tuple[str, str | None]] = [
    ("CODESVC_PORT", "http"),
    ("CODESVC_PORT", "65536"),
    ("CODESVC_PORT", ""),
    ("CODESVC_HOST", "no such host"),
    ("CODESVC_HOST", "192.0.2.1"),
    ("CODESVC_WORKERS", "-1"),
    ("CODESVC_WORKERS", "two"),
    ("CODESVC_MONGO_URI", "localhost:27017"),
    ("CODESVC_MONGO_URI", "mongodb://"),
    ("CODESVC_MONGO_URI", "mongodb://host:port/"),
    ("CODESVC_MONGO_DATABASE", "two words"),
    ("CODESVC_MONGO_DATABASE", "a/b"),
    ("CODESVC_S3_BUCKET", None),
    ("CODESVC_S3_ENDPOINT_URL", "127.0.0.1:9000"),
    ("CODESVC_S3_ENDPOINT_URL", "http://"),
    ("CODESVC_JWT_SECRET", None),
    ("CODESVC_JWT_SECRET", ""),
    ("CODESVC_JWT_PUBLIC_KEY", "/no/such/file.pem"),
    (
        "CODESVC_JWT_PUBLIC_KEY",
        "-----BEGIN PUBLIC KEY-----\nbm90IGEga2V5\n-----END PUBLIC KEY-----\n",
    ),
    ("CODESVC_JWT_JWKS_URL", "keys.json"),
    ("CODESVC_JWT_JWKS_URL", "file:///etc/passwd"),
    ("CODESVC_JWT_ALGORITHMS", "HS257"),
    ("CODESVC_JWT_ALGORITHMS", "HS256,none"),
    ("CODESVC_JWT_ALGORITHMS", "RS256"),  # there is no key that could check it
    ("CODESVC_JWT_LEEWAY", "-1"),
    ("CODESVC_JWT_LEEWAY", "nan"),
    ("CODESVC_DEV", "perhaps"),
    ("CODESVC_BATCH_SIZE", "0"),
    ("CODESVC_BATCH_SIZE", "1e3"),
    ("CODESVC_WRITE_CONCURRENCY", "0"),
    ("CODESVC_WRITE_CONCERN", ""),
    ("CODESVC_WRITE_CONCERN", "0"),
    ("CODESVC_WRITE_JOURNAL", "maybe"),
    ("CODESVC_READ_CONCURRENCY", "0"),
    ("CODESVC_READ_PART_SIZE", "0"),
    ("CODESVC_READ_PART_SIZE", "8 MiB"),
    ("CODESVC_RESERVATION_TTL", "0"),
    ("CODESVC_RESERVATION_TTL", "1 day"),
    ("CODESVC_MAX_RESERVE", "0"),
    ("CODESVC_MAX_CODES_PER_REQUEST", "0"),
    ("CODESVC_MAX_ROW_BYTES", "0"),
    ("CODESVC_MAX_ROW_BYTES", "4M"),
]


def _ended(name: str, value: str | None) -> subprocess.CompletedProcess[str] | None:
    try:
        return run_command("serve", timeout=15, settings={**GOOD, "CODESVC_PORT": "0", name: value})
    except subprocess.TimeoutExpired:
        return None


@pytest.fixture(scope="module")
def starts(request: pytest.FixtureRequest) -> dict[Any, subprocess.CompletedProcess[str] | None]:
    """How the process ended with each malformed setting that the run asks for; None if it did not end."""
    wanted: list[tuple[str, str | None]] = [
        (str(item.callspec.params["name"]), cast("str | None", item.callspec.params["value"]))
        for item in request.session.items
        if isinstance(item, pytest.Function) and item.originalname == "test_malformed_or_missing"
    ]
    ends = in_parallel([partial(_ended, *pair) for pair in wanted], workers=3)
    return dict(zip(wanted, ends, strict=True))


@pytest.mark.parametrize(("name", "value"), MALFORMED)
def test_malformed_or_missing(
    starts: dict[Any, subprocess.CompletedProcess[str] | None], name: str, value: str | None
) -> None:
    ended = starts[name, value]
    assert ended is not None, "it is up and serving"
    assert ended.returncode == 2, ended
    lines = ended.stderr.splitlines()
    assert len(lines) == 1, ended.stderr
    assert name in lines[0]
    assert "listening" not in ended.stdout


def test_a_secret_is_not_told_by_an_error(tmp_path: Path) -> None:
    file = tmp_path / "key.pem"
    file.write_text("-----BEGIN PRIVATE KEY-----\nc2VjcmV0LXNlY3JldA==\n-----END PRIVATE KEY-----\n")
    ended = run_command("serve", settings={**GOOD, "CODESVC_JWT_PUBLIC_KEY": str(file)})
    assert ended.returncode == 2
    assert "CODESVC_JWT_PUBLIC_KEY" in ended.stderr
    assert "c2Vjcm" not in ended.stderr


def test_a_private_key_is_no_public_key(tmp_path: Path) -> None:
    file = tmp_path / "key.pem"
    key = ec.generate_private_key(ec.SECP256R1())
    file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    ended = run_command("serve", settings={**GOOD, "CODESVC_JWT_PUBLIC_KEY": str(file)})
    assert ended.returncode == 2
    assert len(ended.stderr.splitlines()) == 1
    assert "CODESVC_JWT_PUBLIC_KEY" in ended.stderr


def test_a_port_in_use_is_one_line(service: Service) -> None:
    ended = run_command("serve", settings={**GOOD, "CODESVC_PORT": str(service.port)}, timeout=20)
    assert ended.returncode in {1, 2}
    last = ended.stderr.splitlines()[-1]
    assert str(service.port) in last or "CODESVC_PORT" in last
    assert "Traceback" not in ended.stderr


def test_default_port_and_host_are_said_by_help() -> None:
    said = run_command("serve", "--help", settings={}).stdout
    for name, default in (
        ("CODESVC_HOST", "0.0.0.0"),
        ("CODESVC_PORT", "8080"),
        ("CODESVC_MONGO_URI", "mongodb://127.0.0.1:27017"),
        ("CODESVC_MONGO_DATABASE", "codesvc"),
        ("CODESVC_BATCH_SIZE", "50000"),
        ("CODESVC_RESERVATION_TTL", "86400"),
        ("CODESVC_MAX_RESERVE", "10000"),
        ("CODESVC_MAX_CODES_PER_REQUEST", "100000"),
    ):
        assert name in said
        assert default in said
    for name in (
        "CODESVC_S3_BUCKET",
        "CODESVC_S3_ENDPOINT_URL",
        "CODESVC_JWT_SECRET",
        "CODESVC_JWT_JWKS_URL",
        "CODESVC_JWT_PUBLIC_KEY",
        "CODESVC_JWT_ALGORITHMS",
        "CODESVC_JWT_ISSUER",
        "CODESVC_JWT_AUDIENCE",
        "CODESVC_JWT_LEEWAY",
        "CODESVC_DEV",
        "CODESVC_WRITE_CONCURRENCY",
        "CODESVC_WRITE_CONCERN",
        "CODESVC_WRITE_JOURNAL",
        "CODESVC_READ_CONCURRENCY",
        "CODESVC_READ_PART_SIZE",
        "CODESVC_MAX_ROW_BYTES",
    ):
        assert name in said


def test_listens_on_the_host_it_was_given(
    api_settings: dict[str, str | None], tmp_path: Path, new_database: Callable[[str], str]
) -> None:
    settings = {**api_settings, "CODESVC_HOST": "::1", "CODESVC_MONGO_DATABASE": new_database("host")}
    service = Service(tmp_path / "log", **settings)
    service.launch()
    try:

        def status() -> int | None:
            connection = http.client.HTTPConnection("::1", service.port, timeout=5)
            try:
                connection.request("GET", "/livez")
                return connection.getresponse().status
            except OSError:
                return None
            finally:
                connection.close()

        assert eventually(status, limit=20) == 200
        with pytest.raises(ConnectionRefusedError):
            service.get("/livez")
    finally:
        service.stop()


def test_a_short_secret_is_a_secret_and_the_database_has_a_name(
    api_settings: dict[str, str | None], tmp_path: Path, mongo: MongoClient[Document]
) -> None:
    mongo.drop_database("codesvc")
    settings = {**api_settings, "CODESVC_JWT_SECRET": "s3cr3t", "CODESVC_MONGO_DATABASE": None}
    with running(Service(tmp_path / "log", **settings)) as service:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            good, bad = token("s3cr3t"), token("s3cr3t2")
        target = "/v1/c/codes/count?type=tm"
        assert service.get(target, auth=f"Bearer {good}").status == 200
        assert_problem(service.get(target, auth=f"Bearer {bad}"), 401, "unauthorized")
        eventually(lambda: "codes" in mongo["codesvc"].list_collection_names(), limit=10)
    mongo.drop_database("codesvc")


def test_max_reserve(tiny: World, campaign: str) -> None:
    tiny.stock(campaign, make_codes(6))
    assert_problem(tiny.service.get(f"/v1/{campaign}/reserve?count=6&type=tm"), 400, "invalidCount")
    assert tiny.service.reserve(campaign, 5)["count"] == 5


def test_max_codes_per_request(tiny: World, campaign: str) -> None:
    codes = make_codes(7)
    tiny.stock(campaign, codes)
    for action in ("assign", "release"):
        reply = tiny.service.post(f"/v1/{campaign}/{action}", {"codes": codes})
        assert_problem(reply, 400, "invalidCodes")
    assert tiny.service.count(campaign) == {"available": 7, "reserved": 0, "assigned": 0}
    assert tiny.service.change(campaign, "assign", codes[:6]) == {"in": 6, "updated": 6}


def profiled(world: World, campaign: str, operation: str) -> list[Document]:
    """Upload 10 codes with the server's profiler on; return what it saw of them."""
    world.database.command("profile", 2)
    try:
        codes = make_codes(10)
        assert_counts(world.upload(campaign, csv_of(codes)), 10, 10, 0)
    finally:
        world.database.command("profile", 0)
    entries = world.database["system.profile"].find({"ns": f"{world.database.name}.codes", "op": operation})
    return list(entries)


def test_batch_size_and_write_concern_reach_the_server(tiny: World, campaign: str) -> None:
    entries = profiled(tiny, campaign, "insert")
    sizes = sorted(entry["ninserted"] for entry in entries)
    assert sum(sizes) == 10
    assert max(sizes) == 3
    for entry in entries:
        concern = entry["command"]["writeConcern"]
        assert concern["w"] == 1
        assert concern["j"] is False


def test_the_default_write_concern_is_safe(world: World, campaign: str) -> None:
    entries = profiled(world, campaign, "insert")
    assert [entry["ninserted"] for entry in entries] == [10]
    concern = entries[0]["command"].get("writeConcern", {})
    # Without a writeConcern the server's own default holds, which is majority since MongoDB 5.0.
    assert concern.get("w", "majority") == "majority"
    assert concern.get("j", True) is True


def test_dev_token(tiny: World, world: World, campaign: str) -> None:
    reply = tiny.service.get("/dev/token", auth=None)
    assert reply.status == 200
    assert set(reply.json()) == {"token"}
    assert re.fullmatch(r"[\w-]+\.[\w-]+\.[\w-]+", reply.json()["token"])
    minted = f"Bearer {reply.json()['token']}"
    assert tiny.service.get(f"/v1/{campaign}/codes/count?type=tm", auth=minted).status == 200
    assert_problem(world.service.get("/dev/token", auth=None), 404, "notFound")
    assert_problem(world.service.get("/dev/token"), 404, "notFound")


def test_the_database_is_the_one_that_was_named(
    world: World, mongo: MongoClient[Document], main_database: str, campaign: str
) -> None:
    world.stock(campaign, make_codes(1))
    assert mongo[main_database]["codes"].count_documents({"_id.campaign_id": campaign}) == 1

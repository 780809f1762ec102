"""The commands besides `serve`."""

import json
import re
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jwt
import pytest
from pymongo import MongoClient

from . import reference
from .harness import (
    CODE_MARK,
    SECRET,
    Document,
    Service,
    csv_of,
    in_parallel,
    make_codes,
    new_campaign,
    run_command,
)
from .world import World

HAZARDS = Path(__file__).parents[1] / "data" / "csv" / "every-hazard.csv"
COMMANDS = ["serve", "dev", "ingest", "token", "indexes", "openapi"]


# A process takes most of a second to start: those that only say something are started side by side.


def test_help() -> None:
    wanted = [["--help"], *[[name, "--help"] for name in COMMANDS]]
    ends = in_parallel([partial(run_command, *each, settings={}) for each in wanted], workers=3)
    for arguments, ended in zip(wanted, ends, strict=True):
        assert ended.returncode == 0, arguments
        assert not ended.stderr, arguments
        assert "usage" in ended.stdout.lower(), arguments
        assert len(ended.stdout.splitlines()) > 5, arguments
        assert max(len(line) for line in ended.stdout.splitlines()) <= 110
    assert all(name in ends[0].stdout for name in COMMANDS)


def test_arguments_that_make_no_sense() -> None:
    wanted = [[], ["nothing"], ["serve", "x"], ["token", "--ttl"], ["ingest"], ["token", "--ttl", "x"]]
    ends = in_parallel([partial(run_command, *each, settings={}) for each in wanted], workers=3)
    for arguments, ended in zip(wanted, ends, strict=True):
        assert ended.returncode == 2, arguments
        assert ended.stderr, arguments
        assert "Traceback" not in ended.stderr, arguments


# token


def minted(*arguments: str, **settings: str | None) -> str:
    ended = run_command("token", *arguments, settings={"CODESVC_JWT_SECRET": SECRET, **settings})
    assert ended.returncode == 0, ended
    assert re.fullmatch(r"[\w-]+\.[\w-]+\.[\w-]+\n", ended.stdout)
    return ended.stdout.strip()


def test_token(service: Service) -> None:
    text = minted()
    claims = jwt.decode(text, SECRET, algorithms=["HS256"])
    assert claims["isSupreme"] is True
    assert claims["exp"] == pytest.approx(time.time() + 3600, abs=60)
    target = "/v1/c/codes/count?type=tm"
    assert service.get(target, auth=f"Bearer {text}").status == 200


def test_token_with_options(service: Service) -> None:
    claims = jwt.decode(minted("--ttl", "60"), SECRET, algorithms=["HS256"])
    assert claims["exp"] == pytest.approx(time.time() + 60, abs=30)
    text = minted("--no-supreme")
    assert jwt.decode(text, SECRET, algorithms=["HS256"]).get("isSupreme") is not True
    reply = service.get("/v1/c/codes/count?type=tm", auth=f"Bearer {text}")
    assert (reply.status, reply.json()["code"]) == (401, "supremeUserRequired")


def test_token_without_a_secret() -> None:
    ended = run_command("token", settings={})
    assert ended.returncode == 2
    assert len(ended.stderr.splitlines()) == 1
    assert "CODESVC_JWT_SECRET" in ended.stderr
    assert not ended.stdout


def test_token_for_an_issuer_and_an_audience() -> None:
    text = minted(CODESVC_JWT_ISSUER="https://i.example", CODESVC_JWT_AUDIENCE="a")
    claims = jwt.decode(text, SECRET, algorithms=["HS256"], issuer="https://i.example", audience="a")
    assert claims["isSupreme"] is True


# indexes


@pytest.fixture
def database(new_database: Callable[[str], str]) -> str:
    """A database of the test's own."""
    return new_database("command")


def test_indexes(mongo: MongoClient[Document], mongo_uri: str, database: str) -> None:
    """No bucket and no key is needed to make them."""
    settings: dict[str, str | None] = {
        "CODESVC_MONGO_URI": mongo_uri,
        "CODESVC_MONGO_DATABASE": database,
    }
    ended = run_command("indexes", settings=settings)
    assert ended.returncode == 0, ended
    made = mongo[database]["codes"].index_information()
    assert len(made) >= 2
    again = run_command("indexes", settings=settings)
    assert again.returncode == 0
    assert mongo[database]["codes"].index_information() == made


def test_indexes_without_a_database() -> None:
    settings = {"CODESVC_MONGO_URI": "mongodb://127.0.0.1:9/", "CODESVC_MONGO_TIMEOUT": "1"}
    ended = run_command("indexes", settings=settings)
    assert ended.returncode == 1
    assert len(ended.stderr.splitlines()) == 1
    assert "Traceback" not in ended.stderr


# ingest


class Ingest:
    """The command, with the database of a test's own."""

    def __init__(self, world: World, settings: dict[str, str | None], database: str) -> None:
        self.world = world
        # No JWT setting: the command needs none.
        self.settings = settings | {"CODESVC_JWT_SECRET": None, "CODESVC_MONGO_DATABASE": database}
        self.codes = world.codes.database.client[database]["codes"]

    def __call__(self, *arguments: str, **settings: str | None) -> Any:
        return run_command("ingest", *arguments, settings={**self.settings, **settings})

    def stored(self, campaign: str) -> dict[str, Document]:
        return {each["_id"]["code"]: each for each in self.codes.find({"_id.campaign_id": campaign})}


@pytest.fixture
def ingest(world: World, api_settings: dict[str, str | None], database: str) -> Ingest:
    return Ingest(world, api_settings, database)


def numbers(text: str) -> set[int]:
    return {int(found.replace(",", "")) for found in re.findall(r"\d[\d,]*", text)}


def test_ingest_a_local_file(ingest: Ingest, tmp_path: Path, campaign: str) -> None:
    codes = make_codes(1234)
    file = tmp_path / "my codes.csv"
    file.write_bytes(csv_of([*codes, *codes[:77]]))
    ended = ingest(str(file), "--campaign", campaign, "--type", "external")
    assert ended.returncode == 0, ended
    assert {1311, 1234, 77} <= numbers(ended.stdout + ended.stderr)
    stored = ingest.stored(campaign)
    assert set(stored) == set(codes)
    assert {each["type"] for each in stored.values()} == {"external"}
    assert {frozenset(each) for each in stored.values()} == {frozenset({"_id", "type", "date"})}


def test_ingest_a_local_file_whose_path_tells_campaign_and_type(
    ingest: Ingest, tmp_path: Path, campaign: str
) -> None:
    file = tmp_path / "codes" / campaign / "tm" / "batch.csv"
    file.parent.mkdir(parents=True)
    codes = make_codes(3)
    file.write_bytes(csv_of(codes))
    ended = ingest(str(file), "--campaign", campaign, "--type", "tm")
    assert ended.returncode == 0
    assert set(ingest.stored(campaign)) == set(codes)


def test_ingest_a_file_key(ingest: Ingest, campaign: str) -> None:
    codes = make_codes(10)
    key = ingest.world.put(campaign, csv_of(codes), name="a/b c.csv")
    assert ingest(key).returncode == 0
    assert set(ingest.stored(campaign)) == set(codes)
    ended = ingest(key, "--json")
    assert ended.returncode == 0
    assert json.loads(ended.stdout)["count"] == {"in": 10, "inserted": 0, "updated": 10}


def test_ingest_an_object(ingest: Ingest, campaign: str) -> None:
    codes = make_codes(10)
    key = ingest.world.put(campaign, csv_of(codes))
    assert ingest(f"s3://{ingest.world.bucket}/{key}").returncode == 0
    assert set(ingest.stored(campaign)) == set(codes)


def test_ingest_an_object_of_any_name(ingest: Ingest) -> None:
    """Campaign and type are told, and no bucket has to be configured."""
    campaign = new_campaign()
    codes = make_codes(10)
    ingest.world.s3.put_object(Bucket=ingest.world.bucket, Key="elsewhere.csv", Body=csv_of(codes))
    ended = ingest(
        f"s3://{ingest.world.bucket}/elsewhere.csv",
        "--campaign",
        campaign,
        "--type",
        "tm",
        CODESVC_S3_BUCKET=None,
    )
    assert ended.returncode == 0, ended
    assert set(ingest.stored(campaign)) == set(codes)


def test_ingest_a_file_with_every_hazard(ingest: Ingest, campaign: str) -> None:
    expected = reference.read(HAZARDS.read_bytes(), header=True)
    assert len(expected.invalid_lines) > 5
    ended = ingest(str(HAZARDS), "--campaign", campaign, "--type", "tm", "--header", "--json")
    assert ended.returncode == 0, ended
    report = json.loads(ended.stdout)
    distinct = len(set(expected.codes))
    assert report["count"] == {
        "in": len(expected.codes),
        "inserted": distinct,
        "updated": len(expected.codes) - distinct,
    }
    assert report["invalid"]["count"] == len(expected.invalid_lines)
    assert [sample["line"] for sample in report["invalid"]["samples"]] == expected.invalid_lines
    assert set(ingest.stored(campaign)) == set(expected.codes)
    by_http = ingest.world.upload(campaign, HAZARDS.read_bytes(), header=True).json()
    assert by_http == {name: report[name] for name in by_http}, "the same upload without HTTP"
    for_people = ingest(str(HAZARDS), "--campaign", campaign, "--type", "tm", "--header")
    assert for_people.returncode == 0
    said = for_people.stdout + for_people.stderr
    assert set(expected.invalid_lines) <= numbers(said)
    assert not any(code in said for code in expected.codes if len(code) > 4)


def test_ingest_strict(ingest: Ingest, tmp_path: Path, campaign: str) -> None:
    codes = make_codes(4)
    file = tmp_path / "codes.csv"
    file.write_bytes(csv_of([*codes, f"{CODE_MARK}\x01", "later"]))
    ended = ingest(str(file), "--campaign", campaign, "--type", "tm", "--strict")
    assert ended.returncode == 1
    assert "5" in ended.stderr
    assert CODE_MARK not in ended.stdout + ended.stderr
    assert set(ingest.stored(campaign)) == set(codes)


def test_ingest_what_is_not_csv(ingest: Ingest, tmp_path: Path, campaign: str) -> None:
    codes = make_codes(4)
    file = tmp_path / "codes.csv"
    file.write_bytes(csv_of([*codes, '"' + "x" * 5000]))
    ended = ingest(str(file), "--campaign", campaign, "--type", "tm", CODESVC_MAX_ROW_BYTES="1000")
    assert ended.returncode == 1
    assert "5" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert set(ingest.stored(campaign)) == set(codes)


def test_ingest_fails(ingest: Ingest, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_bytes(b"x\n")
    file = f"{tmp_path}/x.csv"
    wanted = [
        (1, ["/no/such/file.csv", "--campaign", "1", "--type", "tm"]),
        (1, [str(tmp_path), "--campaign", "1", "--type", "tm"]),
        (1, ["codes/none/tm/none.csv"]),
        (1, ["s3://none-such-bucket/codes/none/tm/none.csv"]),
        (2, ["s3://", "--campaign", "1", "--type", "tm"]),
        (2, [file]),
        (2, [file, "--campaign", "1"]),
        (2, [file, "--campaign", "a b", "--type", "tm"]),
        (2, [file, "--campaign", "1", "--type", "other"]),
    ]
    ends = in_parallel([partial(ingest, *arguments) for _, arguments in wanted], workers=3)
    for (code, arguments), ended in zip(wanted, ends, strict=True):
        assert ended.returncode == code, (arguments, ended)
        assert ended.stderr, arguments
        assert "Traceback" not in ended.stderr, arguments
        if code == 1:
            assert len(ended.stderr.strip().splitlines()) == 1, ended.stderr


def test_ingest_without_a_database(ingest: Ingest, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_bytes(b"x\n")
    ended = ingest(
        str(tmp_path / "x.csv"),
        "--campaign",
        "1",
        "--type",
        "tm",
        CODESVC_MONGO_URI="mongodb://127.0.0.1:9/",
        CODESVC_MONGO_TIMEOUT="1",
    )
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1, ended.stderr


def test_ingest_without_a_bucket(ingest: Ingest) -> None:
    ended = ingest("codes/1/tm/x.csv", CODESVC_S3_BUCKET=None)
    assert ended.returncode == 2
    assert "CODESVC_S3_BUCKET" in ended.stderr

"""The command line, as a shell runs it."""

import gzip
import json
import os
import re
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jwt
import pytest
from pymongo import MongoClient

from codesvc.local.codefile import write_codes
from codesvc.local.process import free_port
from codesvc.settings import Settings

COMMANDS = ("serve", "dev", "ingest", "token", "indexes", "verify", "openapi")
SECRET = "a secret of thirty-two bytes or more"

HAZARDS = "".join(
    [
        "\ufeffAAA,after a byte order mark\r\n",  # line 1
        '"B""B","a quoted\nnewline"\n',  # 2
        " CCC \t,before a lone carriage return\r",  # 4
        ",a blank first column\n",  # 5
        '"  ",a blank one in quotes\n',  # 6
        '"D"x,more after the closing quote\n',  # 7
        "E\x01E,a control character\n",  # 8
        '"F\nF",a newline inside the code\n',  # 9
        f"{'I' * 257},too long\n",  # 11
        'G"G,an ordinary quote\n',  # 12
        "AAA,a second time\n",  # 13
        "\udcff,not UTF-8\n",  # 14
        "ü€,of five bytes\n",  # 15
        "H",  # 16, without a newline
    ]
).encode(errors="surrogateescape")


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "codesvc", *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def is_one_line(text: str) -> bool:
    return text.startswith("codesvc: ") and text.count("\n") == 1 and text.endswith("\n")


@pytest.fixture
def service(mongo_uri: str, database_name: str, s3_endpoint: str, bucket: str) -> dict[str, str]:
    """The environment of a service with an empty database and an empty bucket."""
    return {
        "CODESVC_MONGO_URI": mongo_uri,
        "CODESVC_MONGO_DATABASE": database_name,
        "CODESVC_S3_ENDPOINT_URL": s3_endpoint,
        "CODESVC_S3_BUCKET": bucket,
    }


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_helps(command: str) -> None:
    told = run(command, "--help")
    assert (told.returncode, told.stderr) == (0, "")
    assert "exit codes:" in told.stdout


def test_help_names_every_command() -> None:
    told = run("--help").stdout
    assert [command for command in COMMANDS if not re.search(rf"^    {command} ", told, re.MULTILINE)] == []


def test_help_names_every_setting() -> None:
    told = run("serve", "--help").stdout
    own = {name for name, field in Settings.model_fields.items() if field.validation_alias is None}
    names = [f"CODESVC_{name.upper()}" for name in own]
    assert "CODESVC_PORT" in names
    assert [name for name in names if not re.search(rf"{name}\b", told)] == []


def test_help_loads_no_library() -> None:
    script = (
        "import sys\n"
        "from codesvc.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'aiohttp', 'pymongo', 'pydantic', 'rich', 'uvloop'} & sys.modules.keys()), file=sys.stderr)\n"
    )
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert told.stderr == "[]\n"


@pytest.mark.parametrize("arguments", [[], ["unknown"], ["token", "--ttl", "0"], ["dev", "--port", "70000"]])
def test_a_wrong_argument_is_2(arguments: list[str]) -> None:
    assert run(*arguments).returncode == 2


@pytest.mark.parametrize(
    ("environment", "variable"),
    [
        ({}, "CODESVC_S3_BUCKET"),
        ({"CODESVC_S3_BUCKET": "codes"}, "CODESVC_JWT_SECRET"),
        ({"CODESVC_PORT": "http"}, "CODESVC_PORT"),
        ({"CODESVC_MONGO_URI": "localhost"}, "CODESVC_MONGO_URI"),
        ({"CODESVC_WRITE_CONCERN": "0"}, "CODESVC_WRITE_CONCERN"),
    ],
)
def test_serve_names_the_setting_that_is_wrong(environment: dict[str, str], variable: str) -> None:
    refused = run("serve", **environment)
    assert refused.returncode == 2
    assert is_one_line(refused.stderr)
    assert refused.stderr.startswith(f"codesvc: {variable}: ")
    assert refused.stdout == ""


def test_token() -> None:
    told = run(
        "token",
        "--ttl",
        "60",
        CODESVC_JWT_SECRET=SECRET,
        CODESVC_JWT_ISSUER="us",
        CODESVC_JWT_AUDIENCE="them",
    )
    assert (told.returncode, told.stderr) == (0, "")
    claims = jwt.decode(told.stdout.strip(), SECRET, algorithms=["HS256"], issuer="us", audience="them")
    assert claims["isSupreme"] is True
    assert 30 < claims["exp"] - time.time() <= 60


def test_token_without_the_claim() -> None:
    told = run("token", "--no-supreme", CODESVC_JWT_SECRET=SECRET)
    claims = jwt.decode(told.stdout.strip(), SECRET, algorithms=["HS256"])
    assert claims.get("isSupreme", False) is False


def test_token_needs_a_secret() -> None:
    refused = run("token")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr == "codesvc: CODESVC_JWT_SECRET: is not set\n"


def test_openapi() -> None:
    told = run("openapi")
    assert (told.returncode, told.stderr) == (0, "")
    assert json.loads(told.stdout)["openapi"].startswith("3.1")


def test_output_that_nobody_reads_to_its_end() -> None:
    command = f"{sys.executable} -m codesvc openapi | head -c 10"
    told = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True)
    assert (len(told.stdout), told.stderr) == (10, "")


def test_indexes(service: dict[str, str], mongo: MongoClient[dict[str, Any]]) -> None:
    first, second = run("indexes", **service), run("indexes", **service)
    assert (first.returncode, first.stderr) == (0, "")
    assert second.stdout == first.stdout
    database = mongo[service["CODESVC_MONGO_DATABASE"]]
    found = {
        name
        for collection in ("codes", "campaigns", "uploads", "invalid_rows", "idempotency_keys")
        for name in database[collection].index_information()
    }
    assert set(first.stdout.split()) == found - {"_id_"}
    assert run("indexes", "--drop-obsolete", **service).stdout == first.stdout


def test_a_database_that_does_not_answer_is_1() -> None:
    uri = f"mongodb://127.0.0.1:{free_port()}/"
    refused = run("indexes", CODESVC_MONGO_URI=uri, CODESVC_MONGO_TIMEOUT="1")
    assert refused.returncode == 1
    assert is_one_line(refused.stderr)


def test_ingest_by_the_rules_of_the_contract(
    service: dict[str, str], tmp_path: Path, mongo: MongoClient[dict[str, Any]]
) -> None:
    file = tmp_path / "hazards.csv"
    file.write_bytes(HAZARDS)
    told = run("ingest", str(file), "--campaign", "c1", "--type", "tm", "--json", **service)
    assert told.returncode == 0, told.stderr
    report = json.loads(told.stdout)
    assert report["count"] == {"in": 7, "inserted": 6, "updated": 1}
    assert report["invalid"]["count"] == 5
    assert [row["line"] for row in report["invalid"]["samples"]] == [7, 8, 9, 11, 14]
    stored = mongo[service["CODESVC_MONGO_DATABASE"]]["codes"].find()
    assert {document["_id"]["code"] for document in stored} == {"AAA", 'B"B', "CCC", 'G"G', "ü€", "H"}

    again = run("ingest", str(file), "--campaign", "c1", "--type", "tm", **service)
    assert again.returncode == 0
    assert "0 inserted, 7 updated, 5 invalid rows" in again.stdout
    assert re.findall(r"^line (\d+): \S", again.stdout, re.MULTILINE) == ["7", "8", "9", "11", "14"]


def test_ingest_never_shows_a_code(service: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / "codes.csv"
    file.write_bytes(b'GOODSECRET\n"BADSECRET"x\n')
    told = run("ingest", str(file), "--campaign", "c1", "--type", "tm", **service)
    assert told.returncode == 0
    assert "SECRET" not in told.stdout + told.stderr


def test_ingest_with_a_header(service: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / "codes.csv"
    file.write_bytes(b"code\nAAA\n")
    told = run("ingest", str(file), "--campaign", "c1", "--type", "external", "--header", "--json", **service)
    assert json.loads(told.stdout)["count"] == {"in": 1, "inserted": 1, "updated": 0}


def test_ingest_strictly(service: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / "codes.csv"
    file.write_bytes(b'AAA\nBBB\n"C"c\nDDD\n')
    told = run("ingest", str(file), "--campaign", "c1", "--type", "tm", "--strict", "--json", **service)
    assert told.returncode == 1
    assert is_one_line(told.stderr)
    assert "line 3" in told.stderr
    report = json.loads(told.stdout)
    assert (report["line"], report["count"]) == (3, {"in": 2, "inserted": 2, "updated": 0})


def test_ingest_of_what_is_not_csv(service: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / "codes.csv"
    file.write_bytes(b'AAA\n"' + b"x" * 5000)
    told = run(
        "ingest", str(file), "--campaign", "c1", "--type", "tm", CODESVC_MAX_ROW_BYTES="4096", **service
    )
    assert told.returncode == 1
    assert is_one_line(told.stderr)
    assert "line 2" in told.stderr


def test_ingest_as_a_dry_run(service: dict[str, str], tmp_path: Path) -> None:
    for name, rows in (("a.csv", "AAA\nBBB\nAAA\n"), ("b.csv", "BBB\n\x01\n")):
        (tmp_path / name).write_text(rows)

    def dry_run(source: str, *options: str) -> subprocess.CompletedProcess[str]:
        where = ("--campaign", "dry", "--type", "tm", "--dry-run")
        return run("ingest", source, *where, *options, **service)

    told = dry_run(str(tmp_path / "a.csv"))
    assert told.returncode == 0, told.stderr
    assert told.stdout.startswith("dry run: nothing is stored\n3 codes in ")
    assert "2 inserted, 1 updated, 0 invalid rows\n" in told.stdout
    every = json.loads(dry_run(f"{tmp_path}/", "--json").stdout)
    # Each file for itself: that both hold one code shows in neither.
    assert (every["dryRun"], every["count"]) == (True, {"in": 4, "inserted": 3, "updated": 1})
    strictly = dry_run(str(tmp_path / "b.csv"), "--strict", "--json")
    assert strictly.returncode == 1
    assert "would end at line 2" in strictly.stderr
    report = json.loads(strictly.stdout)
    assert (report["dryRun"], report["count"]) == (True, {"in": 1, "inserted": 1, "updated": 0})


def test_ingest_of_compressed_files(service: dict[str, str], tmp_path: Path, s3: Any) -> None:
    packed = gzip.compress(b"C-1\nC-2\n")
    for name, data in (("x.csv.gz", packed), ("y.csv.gz", packed[:-9]), ("x.gz", packed)):
        (tmp_path / name).write_bytes(data)
    s3.put_object(Bucket=service["CODESVC_S3_BUCKET"], Key="codes/gz/tm/x.csv.gz", Body=packed)
    by_key = run("ingest", "codes/gz/tm/x.csv.gz", "--json", **service)
    assert json.loads(by_key.stdout)["count"] == {"in": 2, "inserted": 2, "updated": 0}
    every = run("ingest", f"{tmp_path}/", "--campaign", "gz", "--type", "tm", "--json", **service)
    told = json.loads(every.stdout)
    assert (every.returncode, told["files"]) == (1, {"listed": 3, "in": 3, "loaded": 1})
    assert told["count"] == {"in": 2, "inserted": 0, "updated": 2}
    why = {Path(one["file"]).name: one["reason"] for one in told["failed"]["samples"]}
    assert why.keys() == {"x.gz", "y.csv.gz"}
    assert "is read if its name ends in .csv.gz" in why["x.gz"]
    assert why["y.csv.gz"].endswith("the file ends in the middle of its compressed data")


def test_ingest_from_s3(service: dict[str, str], s3: Any, mongo: MongoClient[dict[str, Any]]) -> None:
    bucket = service["CODESVC_S3_BUCKET"]
    s3.put_object(Bucket=bucket, Key="codes/c7/external/a.csv", Body=b"AAA\n")
    s3.put_object(Bucket=bucket, Key="elsewhere.csv", Body=b"BBB\n")
    by_key = run("ingest", "codes/c7/external/a.csv", **service)
    by_address = run("ingest", f"s3://{bucket}/elsewhere.csv", "--campaign", "c8", "--type", "tm", **service)
    assert (by_key.returncode, by_address.returncode) == (0, 0), by_key.stderr + by_address.stderr
    stored = mongo[service["CODESVC_MONGO_DATABASE"]]["codes"].find(sort=[("_id", 1)])
    assert [(document["_id"], document["type"]) for document in stored] == [
        ({"campaign_id": "c7", "code": "AAA"}, "external"),
        ({"campaign_id": "c8", "code": "BBB"}, "tm"),
    ]


@pytest.mark.parametrize("source", ["missing.csv", "codes/c1/tm/missing.csv", "s3://{bucket}/missing.csv"])
def test_ingest_of_a_file_that_is_not_there(service: dict[str, str], source: str) -> None:
    named = source.format(bucket=service["CODESVC_S3_BUCKET"])
    told = run("ingest", named, "--campaign", "c1", "--type", "tm", **service)
    assert (told.returncode, told.stdout) == (1, "")
    assert is_one_line(told.stderr)
    assert named in told.stderr


def test_ingest_interrupted_and_sent_again(
    service: dict[str, str], tmp_path: Path, mongo: MongoClient[dict[str, Any]]
) -> None:
    file = tmp_path / "codes.csv"
    write_codes(file, 300_000)
    # What runs in a shell's background is born deaf to SIGINT, and these tests may.
    terminal = (
        "import signal, sys, codesvc.cli\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "sys.exit(codesvc.cli.main(sys.argv[1:]))\n"
    )
    command = [sys.executable, "-c", terminal, "ingest", str(file), "--campaign", "c1", "--type", "tm"]
    environment = {**os.environ, **service, "CODESVC_BATCH_SIZE": "1000", "CODESVC_WRITE_CONCURRENCY": "1"}
    codes = mongo[service["CODESVC_MONGO_DATABASE"]]["codes"]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as first:
        while codes.estimated_document_count() == 0:
            assert first.poll() is None
        first.send_signal(signal.SIGINT)
        assert first.stderr is not None
        told = first.stderr.read().splitlines()[-1]
    assert first.returncode == 130
    assert re.fullmatch(r"codesvc: interrupted after [\d,]+ codes: to ingest the file again is safe", told)
    assert 0 < codes.count_documents({}) < 300_000

    again = run("ingest", str(file), "--campaign", "c1", "--type", "tm", "--json", **service)
    count = json.loads(again.stdout)["count"]
    assert count["in"] == count["inserted"] + count["updated"] == codes.count_documents({}) == 300_000


def test_ingest_needs_a_campaign(service: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / "codes.csv"
    file.touch()
    told = run("ingest", str(file), "--type", "tm", **service)
    assert told.returncode == 2
    assert is_one_line(told.stderr)
    assert "--campaign" in told.stderr


def test_ingest_without_a_database_is_1(tmp_path: Path) -> None:
    file = tmp_path / "codes.csv"
    file.write_bytes(b"AAA\n")
    uri = f"mongodb://127.0.0.1:{free_port()}/"
    told = run(
        "ingest",
        str(file),
        "--campaign",
        "c1",
        "--type",
        "tm",
        CODESVC_MONGO_URI=uri,
        CODESVC_MONGO_TIMEOUT="1",
    )
    assert (told.returncode, told.stdout) == (1, "")
    assert is_one_line(told.stderr)


def test_verify(service: dict[str, str], tmp_path: Path, mongo: MongoClient[dict[str, Any]]) -> None:
    assert run("verify", **service).stdout == "0 verified, 0 wrong\n"
    collection = mongo[service["CODESVC_MONGO_DATABASE"]]["codes"]
    collection.insert_many(
        [{"_id": {"campaign_id": "c", "code": str(code)}, "type": "tm"} for code in range(3)]
    )
    kept = {"available": 3, "reserved": 0, "assigned": 0, "made": 0, "stamp": ""}
    kept |= dict.fromkeys(("cutOff", "touched"), datetime.now(UTC))
    campaigns = mongo[service["CODESVC_MONGO_DATABASE"]]["campaigns"]
    campaigns.insert_one({"_id": "c", "version": None, "counts": {"tm": kept}})
    right = run("verify", **service)
    assert (right.returncode, right.stdout) == (
        0,
        "right  c  tm  available 3, reserved 0, assigned 0\n1 verified, 0 wrong\n",
    )
    campaigns.update_one({"_id": "c"}, {"$inc": {"counts.tm.available": 1_000}})
    wrong = run("verify", **service)
    assert wrong.returncode == 1
    assert wrong.stdout.splitlines() == [
        "WRONG  c  tm  available 3, reserved 0, assigned 0; kept was available 1,003, reserved 0, assigned 0",
        "1 verified, 1 wrong (replaced)",
    ]
    assert run("verify", **service).returncode == 0

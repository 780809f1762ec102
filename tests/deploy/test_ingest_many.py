"""`codesvc ingest` of many files: what it loads, what it says, and how it ends."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient

from codesvc.cli import main
from codesvc.ingest.shares import Share
from codesvc.local.process import free_port
from codesvc.observability.telemetry import Telemetry
from codesvc.settings import Settings
from codesvc.sources.s3 import S3Source

Told = subprocess.CompletedProcess[str]
Inside = Callable[..., Told]


def ingest(*arguments: str, **environment: str) -> Told:
    return subprocess.run(
        [sys.executable, "-m", "codesvc", "ingest", *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def service(mongo_uri: str, database_name: str, s3_endpoint: str, bucket: str) -> dict[str, str]:
    return {
        "CODESVC_MONGO_URI": mongo_uri,
        "CODESVC_MONGO_DATABASE": database_name,
        "CODESVC_S3_ENDPOINT_URL": s3_endpoint,
        "CODESVC_S3_BUCKET": bucket,
    }


@pytest.fixture
def inside(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Inside:
    """The same in this process, which is quicker."""

    def run(*arguments: str, **environment: str) -> Told:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        code = main(["ingest", *arguments])
        return subprocess.CompletedProcess(arguments, code, *capsys.readouterr())

    return run


def test_a_file_that_fails_keeps_back_no_other(
    service: dict[str, str], s3: Any, bucket: str, mongo: MongoClient[dict[str, Any]]
) -> None:
    good = {
        "codes/1/tm/a.csv": b"A1\nA2\n",
        "codes/1/external/b.csv": b"B1\nA1\n",
        "codes/2/tm/c/d.csv": b"C1\n\x01\n",
    }
    bad = {"codes/1/tm/broken.csv": b'X1\n"' + b"x" * 5000, "codes/3/unknown/e.csv": b"E1\n"}
    for key, body in (good | bad).items():
        s3.put_object(Bucket=bucket, Key=key, Body=body)
    told = ingest(f"s3://{bucket}/", "--json", CODESVC_MAX_ROW_BYTES="4096", **service)
    assert told.returncode == 1
    report = json.loads(told.stdout)
    assert report["files"] == {"listed": 5, "in": 5, "loaded": 3}
    assert report["count"] == {"in": 5, "inserted": 4, "updated": 1}
    assert report["invalid"] == {"count": 1}
    assert report["failed"]["count"] == 2
    reasons = {one["file"]: one["reason"] for one in report["failed"]["samples"]}
    assert reasons.keys() == bad.keys()
    assert reasons["codes/1/tm/broken.csv"].startswith("line 2: ")
    assert "--type" in reasons["codes/3/unknown/e.csv"]
    lines = told.stderr.splitlines()
    for key in bad:
        assert [line for line in lines if line.startswith(f"{key}: FAILED: ")]
    assert lines[-1] == "codesvc: 2 of 5 files are not loaded: to run this again is safe"
    stored = mongo[service["CODESVC_MONGO_DATABASE"]]["codes"].find({"_id.code": {"$ne": "X1"}})
    assert {(each["_id"]["campaign_id"], each["_id"]["code"], each["type"]) for each in stored} >= {
        ("1", "A2", "tm"),
        ("1", "B1", "external"),
        ("2", "C1", "tm"),
    }


def test_a_directory(service: dict[str, str], tmp_path: Path, mongo: MongoClient[dict[str, Any]]) -> None:
    for name in ("a.csv", "b/c.csv", "b/.hidden/d.csv", "_SUCCESS", "e.csv"):
        file = tmp_path / "exports" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"code\nOF-{file.stem}\n", encoding="ascii")
    exports = str(tmp_path / "exports")
    named = ("--campaign", "c", "--type", "tm", "--header")
    told = ingest(exports, *named, **service)
    assert told.returncode == 1
    assert "a / at the end" in told.stderr
    told = ingest(f"{exports}/", *named, **service)
    assert told.returncode == 0, told.stderr
    assert told.stdout.splitlines()[-1] == "3 inserted, 0 updated, 0 invalid rows"
    stored = mongo[service["CODESVC_MONGO_DATABASE"]]["codes"].find()
    assert {each["_id"]["code"] for each in stored} == {"OF-a", "OF-c", "OF-e"}
    again = ingest(f"{exports}/*.csv", *named, "--json", **service)
    assert json.loads(again.stdout)["count"] == {"in": 2, "inserted": 0, "updated": 2}


def test_a_share_without_a_file_is_done(service: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / "1.csv"
    file.write_text("CODE\n", encoding="ascii")
    index = int(Share(0, 2).holds(str(file)))
    share = ("--total", "2", "--index", str(index))
    told = ingest(f"{tmp_path}/", "--campaign", "c", "--type", "tm", "--json", *share, **service)
    assert told.returncode == 0
    assert json.loads(told.stdout)["files"] == {"listed": 1, "in": 0, "loaded": 0}


@pytest.mark.parametrize(
    "source", ["s3://{bucket}/codes/1/tm/", "codes/1/tm/", "codes/1/tm/*.csv", "{tmp}/*.csv"]
)
def test_no_such_file_at_all_is_a_failure(
    service: dict[str, str], tmp_path: Path, source: str, inside: Inside
) -> None:
    named = source.format(bucket=service["CODESVC_S3_BUCKET"], tmp=tmp_path)
    told = inside(named, "--campaign", "c", "--type", "tm", **service)
    assert (told.returncode, told.stdout) == (1, "")
    assert told.stderr == f"codesvc: {named}: There is no file of that name or below it.\n"


@pytest.mark.parametrize(
    ("arguments", "environment", "named"),
    [
        (["codes/1/tm/", "--index", "0"], {}, "--total: "),
        (["codes/1/tm/", "--total", "2"], {}, "--index: "),
        (["codes/1/tm/", "--index", "2", "--total", "2"], {}, "--index: "),
        (["codes/1/tm/", "--index", "-1", "--total", "2"], {}, "--index: "),
        (["codes/1/tm/", "--index", "0", "--total", "0"], {}, "--total: "),
        # An Indexed Job whose manifest forgot it: each pod would load everything.
        (["codes/1/tm/"], {"JOB_COMPLETION_INDEX": "1"}, "--total: "),
        (["codes/1/tm/"], {"JOB_COMPLETION_INDEX": "x", "JOB_COMPLETIONS": "2"}, "JOB_COMPLETION_INDEX: "),
        (["codes/1/tm/a.csv", "--index", "0", "--total", "2"], {}, "SOURCE: "),
        (["codes/1/tm/", "--campaign", "a b"], {}, "--campaign: "),
        (["s3://"], {}, "SOURCE: "),
        (["s3:///"], {}, "SOURCE: "),
    ],
)
def test_what_is_wrong_is_named(
    arguments: list[str], environment: dict[str, str], named: str, inside: Inside
) -> None:
    told = inside(
        *arguments, CODESVC_S3_BUCKET="b", CODESVC_S3_ENDPOINT_URL="http://127.0.0.1:1", **environment
    )
    assert (told.returncode, told.stdout) == (2, ""), told.stderr
    assert told.stderr.startswith(f"codesvc: {named}")
    assert told.stderr.count("\n") == 1


def test_a_single_file_needs_no_share_in_an_indexed_job(service: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("A\n", encoding="ascii")
    named = (str(file), "--campaign", "c", "--type", "tm", "--json")
    told = ingest(*named, JOB_COMPLETION_INDEX="5", **service)
    assert json.loads(told.stdout)["count"]["in"] == 1


def test_without_mongodb_the_rest_is_given_up(tmp_path: Path) -> None:
    for number in range(9):
        (tmp_path / f"{number}.csv").write_text("A\n", encoding="ascii")
    uri = f"mongodb://127.0.0.1:{free_port()}/"
    settings = {"CODESVC_MONGO_URI": uri, "CODESVC_MONGO_TIMEOUT": "0.5"}
    told = ingest(f"{tmp_path}/", "--campaign", "c", "--type", "tm", "--json", **settings)
    report = json.loads(told.stdout)
    assert (told.returncode, report["failed"]["count"], report["files"]["in"]) == (1, 3, 9)
    assert told.stderr.splitlines()[-1].startswith("codesvc: 9 of 9 files are not loaded")


async def test_a_long_listing_is_read_in_pages(s3: Any, bucket: str, s3_endpoint: str) -> None:
    keys = [f"codes/1/tm/{number}.csv" for number in range(7)]

    def put() -> None:
        for key in [*keys, "codes/1/tn", "codes/1/t"]:
            s3.put_object(Bucket=bucket, Key=key, Body=b"x")

    await asyncio.to_thread(put)
    settings = Settings(s3_bucket=bucket, s3_endpoint_url=s3_endpoint)
    async with S3Source(settings, Telemetry()) as source:
        for page_size in (1, 3, 7, 1000):
            found = [
                (file.name, file.size) async for file in source.files("codes/1/tm/", page_size=page_size)
            ]
            assert found == [(key, 1) for key in keys]

"""The Indexed Job of overlays/bulk-load, as Kubernetes would run it: its pods are processes here."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from pymongo import MongoClient

from codesvc.local.codefile import code
from deploy.manifests import Manifest, container, environment, one

PREFIX = "codes/12345/tm/"
PODS = 4
FILES = 13
CODES = 2_000

Report = dict[str, Any]
Pod = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def service(mongo_uri: str, database_name: str, s3_endpoint: str, bucket: str) -> dict[str, str]:
    """What is different from production."""
    return {
        "CODESVC_MONGO_URI": mongo_uri,
        "CODESVC_MONGO_DATABASE": database_name,
        "CODESVC_S3_ENDPOINT_URL": s3_endpoint,
        "CODESVC_S3_BUCKET": bucket,
    }


@pytest.fixture
def codes(mongo: MongoClient[Report], database_name: str) -> Any:
    """The collection."""
    return mongo[database_name]["codes"]


def job(overlays: dict[str, list[Manifest]]) -> tuple[list[str], dict[str, str], Manifest]:
    """Return the arguments and the environment of the Job's pods, and the Job."""
    manifests = overlays["bulk-load"]
    found = one(manifests, "Job", "codesvc-bulk-load")
    template = found["spec"]["template"]
    return container(template)["args"], environment(manifests, template, {"CODESVC_MONGO_URI": ""}), found


@pytest.fixture
def pod() -> Iterator[Pod]:
    """Starts what one pod of an Indexed Job runs; none outlives the test."""
    with ExitStack() as stack:

        def start(
            arguments: list[str], settings: dict[str, str], index: int, total: int = PODS
        ) -> subprocess.Popen[str]:
            variables = {"JOB_COMPLETION_INDEX": str(index), "JOB_COMPLETIONS": str(total)}
            process = stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-m", "codesvc", *arguments],
                    env={**os.environ, **settings, **variables},
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
            stack.callback(process.kill)
            return process

        yield start


def finish(process: subprocess.Popen[str]) -> tuple[int, Report, list[str]]:
    """Wait for a pod; return its exit code, its report, and the files that it says it loaded or could not."""
    out, err = process.communicate(timeout=90)
    assert out, err
    files = [line.partition(": ")[0] for line in err.splitlines() if line.startswith(("codes/", "ware/"))]
    return process.returncode, json.loads(out), files


def put_files(s3: Any, bucket: str, prefix: str = PREFIX) -> list[str]:
    """Put files of distinct codes, and what a load has to pass over."""
    names = [f"{prefix}batch-{number:03}.csv" for number in range(FILES)]
    for number, name in enumerate(names):
        lines = [code(number * CODES + row) for row in range(CODES)]
        s3.put_object(Bucket=bucket, Key=name, Body="\n".join(lines).encode())
    for name in (f"{prefix}_SUCCESS", f"{prefix}empty/", "codes/12345/tmp.csv", "codes/99/tm/a.csv"):
        s3.put_object(Bucket=bucket, Key=name, Body=b"NOT-TO-BE-LOADED\n")
    return names


def test_the_pods_of_the_job_load_each_file_once(
    overlays: dict[str, list[Manifest]], service: dict[str, str], s3: Any, codes: Any, pod: Pod
) -> None:
    arguments, settings, manifest = job(overlays)
    assert settings["JOB_COMPLETIONS"] == str(manifest["spec"]["completions"])
    assert arguments == ["ingest", PREFIX, "--json"]
    names = put_files(s3, service["CODESVC_S3_BUCKET"])
    pods = [pod(arguments, settings | service, index) for index in range(PODS)]
    done = [finish(one) for one in pods]
    assert [code for code, _, _ in done] == [0] * PODS
    # Each by one process only, and none by nobody.
    assert sorted(name for _, _, files in done for name in files) == names
    reports = [report for _, report, _ in done]
    assert [report["files"]["listed"] for report in reports] == [FILES] * PODS
    assert [report["files"]["loaded"] for report in reports] == [len(files) for _, _, files in done]
    assert max(report["files"]["loaded"] for report in reports) <= FILES // PODS + 2
    for report in reports:
        own = report["files"]["loaded"] * CODES
        assert report["count"] == {"in": own, "inserted": own, "updated": 0}
        assert report["invalid"]["count"] == report["failed"]["count"] == 0
    assert codes.count_documents({}) == FILES * CODES
    assert codes.count_documents({"_id.campaign_id": "12345", "type": "tm"}) == FILES * CODES


def test_a_pod_that_is_killed_starts_again_with_the_same_share(
    overlays: dict[str, list[Manifest]], service: dict[str, str], s3: Any, codes: Any, pod: Pod
) -> None:
    arguments, settings, _ = job(overlays)
    names = put_files(s3, service["CODESVC_S3_BUCKET"])
    # Small batches, one at a time: there is time to kill it in the middle of its first file.
    slow = (
        settings
        | service
        | {"CODESVC_BATCH_SIZE": "50", "CODESVC_SORT_CODES": "50", "CODESVC_WRITE_CONCURRENCY": "1"}
    )
    victim = pod(arguments, slow, 0)
    wait_for_codes(codes, victim)
    victim.kill()
    victim.communicate()
    assert victim.returncode == -signal.SIGKILL
    stored = codes.count_documents({})
    assert 0 < stored < FILES * CODES

    done = [finish(pod(arguments, settings | service, 0))]
    pods = [pod(arguments, settings | service, index) for index in range(1, PODS)]
    done += [finish(one) for one in pods]
    assert [code for code, _, _ in done] == [0] * PODS
    assert sorted(name for _, _, files in done for name in files) == names
    again = done[0][1]["count"]
    assert again["in"] == again["inserted"] + again["updated"] == done[0][1]["files"]["loaded"] * CODES
    assert again["updated"] == stored
    assert sum(report["count"]["inserted"] for _, report, _ in done) == FILES * CODES - stored
    assert codes.count_documents({}) == FILES * CODES


def test_sigterm_ends_a_pod_between_two_batches(
    overlays: dict[str, list[Manifest]],
    service: dict[str, str],
    s3: Any,
    codes: Any,
    mongo: MongoClient[Report],
    pod: Pod,
) -> None:
    arguments, settings, _ = job(overlays)
    put_files(s3, service["CODESVC_S3_BUCKET"])
    slow = (
        settings
        | service
        | {"CODESVC_BATCH_SIZE": "50", "CODESVC_SORT_CODES": "50", "CODESVC_WRITE_CONCURRENCY": "1"}
    )
    going = pod(arguments, slow, 0, total=1)
    wait_for_codes(codes, going)
    going.send_signal(signal.SIGTERM)
    out, err = going.communicate(timeout=60)
    assert going.returncode == 130, err
    report = json.loads(out)
    assert report["files"]["loaded"] < report["files"]["in"] == FILES
    assert err.splitlines()[-1].endswith("files are not loaded: to run this again is safe")
    # It said that it has ended: the counts of the campaign may be kept again.
    campaign = mongo[service["CODESVC_MONGO_DATABASE"]]["campaigns"].find_one({"_id": "12345"})
    assert campaign is None or not campaign.get("writers")


def wait_for_codes(codes: Any, process: subprocess.Popen[str]) -> None:
    """Wait until a process has stored something."""
    while codes.estimated_document_count() == 0:
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)

"""The disk under mongod fills up in the middle of everything; there is room again, and all that was acknowledged."""

import subprocess
import sysconfig
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from api.harness import SECRET, Document, Service, eventually, running
from api.world import World
from pymongo import MongoClient

from codesvc.local.mongod import Mongod, wait_for_primary

from .load import Load, stocked

SOURCE = Path(__file__).parent / "disk_full.c"


@pytest.fixture
def sign(tmp_path: Path) -> Path:
    """A file that is there while the disk is full."""
    return tmp_path / "full"


@pytest.fixture
def member(tmp_path: Path, sign: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mongod]:
    """A mongod whose disk can be full."""
    library = tmp_path / "disk_full.so"
    compiler = (sysconfig.get_config_var("CC") or "cc").split()[0]
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, SOURCE, "-ldl"], check=True)
    monkeypatch.setenv("LD_PRELOAD", str(library))
    monkeypatch.setenv("FAULTS_DISK_FULL", str(sign))
    with Mongod(tmp_path / "mongod") as started:
        yield started


@pytest.fixture
def world(member: Mongod, tmp_path: Path, s3: Any, s3_endpoint: str) -> Iterator[World]:
    """A service in front of it, with an environment of its own."""
    s3.create_bucket(Bucket="disk")
    settings: dict[str, str | None] = {
        "CODESVC_MONGO_URI": member.uri,
        "CODESVC_MONGO_DATABASE": "disk",
        "CODESVC_MONGO_TIMEOUT": "4",
        "CODESVC_S3_BUCKET": "disk",
        "CODESVC_S3_ENDPOINT_URL": s3_endpoint,
        "CODESVC_JWT_SECRET": SECRET,
        "CODESVC_BATCH_SIZE": "200",
        "LD_PRELOAD": None,
    }
    with ExitStack() as stack:
        service = stack.enter_context(running(Service(tmp_path / "service.log", **settings)))
        client = stack.enter_context(MongoClient[Document](member.uri, tz_aware=True))
        yield World(service, client["disk"], s3, "disk")


def test_a_disk_that_fills_up(world: World, member: Mongod, sign: Path) -> None:
    campaign = stocked([world])
    with Load([world], campaign) as load:
        eventually(lambda: load.done[0] > 20, limit=30)
        sign.touch()
        # The server ends itself rather than go on without its journal (WiredTiger: no space left on device).
        eventually(lambda: not member.running, limit=60)
        reply = world.service.post(f"/v1/{campaign}/assign", {"codes": ["x"]})
        assert reply.status == 503
        assert "No space left on device" in member.log.read_text()
        assert load.uploads[0].result(60).status == 503
        sign.unlink()
        member.launch()
        wait_for_primary(member)
        before = load.done[0]
        eventually(lambda: load.done[0] > before + 20, limit=40)
    load.check()
    load.check_uploads()

"""The embedded mongod: what it promises to those who start it, and the line it says when it cannot."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from pymongo import MongoClient, WriteConcern
from pymongo.errors import OperationFailure

from codesvc.local.mongod import BINARY_VARIABLE, Mongod, MongodOptions, find_mongod, start_replica_set
from codesvc.local.process import LocalStackError, ProcessDiedError


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Mongod]:
    """A mongod that a test may stop and kill."""
    server = Mongod(tmp_path / "own")
    yield server
    server.kill()


def fake_mongod(monkeypatch: pytest.MonkeyPatch, directory: Path, script: str) -> None:
    """Put a program in mongod's place that says what the real one says on a machine that lacks something."""
    binary = directory / "mongod"
    binary.write_text(f"#!/bin/sh\n{script}\n")
    binary.chmod(0o755)
    monkeypatch.setenv(BINARY_VARIABLE, str(binary))


def test_majority_writes_and_transactions_are_real(mongod: Mongod) -> None:
    with MongoClient[dict[str, object]](mongod.uri) as client:
        codes = client["test-transactions"].get_collection(
            "codes", write_concern=WriteConcern("majority", j=True)
        )
        codes.insert_one({"_id": 1})
        with client.start_session() as session, session.start_transaction():
            codes.insert_one({"_id": 2}, session=session)
            session.abort_transaction()
        assert codes.count_documents({}) == 1
        client.drop_database("test-transactions")


def test_fail_points_can_be_set(mongod: Mongod) -> None:
    point = {"failCommands": ["ping"], "errorCode": 8}
    with mongod.client() as client:
        client.admin.command("configureFailPoint", "failCommand", mode={"times": 1}, data=point)
        with pytest.raises(OperationFailure) as caught:
            client.admin.command("ping")
    assert caught.value.code == 8


def test_it_listens_on_the_loopback_only(mongod: Mongod) -> None:
    listening = Path("/proc/net/tcp").read_text(encoding="ascii") + Path("/proc/net/tcp6").read_text(
        encoding="ascii"
    )
    local = [line.split()[1] for line in listening.splitlines() if line.split()[3] == "0A"]
    assert [address for address in local if address.endswith(f":{mongod.port:04X}")] == [
        f"0100007F:{mongod.port:04X}"
    ]


def test_data_survives_a_restart_on_another_port(own: Mongod) -> None:
    own.start()
    first_port = own.port
    with own.client() as client:
        client["kept"]["codes"].insert_one({"_id": 1})
    own.stop()
    with socket.socket() as occupant:
        occupant.bind(("127.0.0.1", first_port))
        with Mongod(own.directory) as again, MongoClient[dict[str, object]](again.uri) as client:
            assert again.port != first_port
            assert client["kept"]["codes"].count_documents({}) == 1


def test_data_survives_a_crash(own: Mongod) -> None:
    own.start()
    with own.client() as client:
        codes = client["kept"].get_collection("codes", write_concern=WriteConcern(1, j=True))
        codes.insert_one({"_id": 1})
        own.kill()
        with pytest.raises(ProcessDiedError, match="mongod ended by SIGKILL") as caught:
            own.check()
        own.restart()
        assert codes.count_documents({}) == 1
    assert caught.value.log_lines


def test_stop_is_quick_and_leaves_no_process(own: Mongod) -> None:
    pid = own.start().pid
    started = time.monotonic()
    own.stop()
    assert time.monotonic() - started < 15
    assert not Path(f"/proc/{pid}").exists()


def test_a_second_one_on_the_same_data_says_so(own: Mongod) -> None:
    own.start()
    with pytest.raises(LocalStackError, match=r"^another mongod uses .*/db: is the stack running already\?$"):
        Mongod(own.directory).start()
    own.check()


def test_a_port_in_use_is_named(tmp_path: Path, mongod: Mongod) -> None:
    with pytest.raises(LocalStackError, match=f"^port {mongod.port} for mongod is in use$"):
        Mongod(tmp_path, port=mongod.port).start()


def test_a_directory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    occupied = tmp_path / "file"
    occupied.touch()
    with pytest.raises(LocalStackError, match=rf"^{occupied}/db cannot be written to: Not a directory$"):
        Mongod(occupied).start()


def test_a_missing_library_is_named_with_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = "libcurl.so.4: cannot open shared object file: No such file or directory"
    loader = f"{tmp_path}/mongod: error while loading shared libraries: {told}"
    fake_mongod(monkeypatch, tmp_path, f"echo '{loader}' >&2; exit 127")
    with pytest.raises(LocalStackError, match=r"^mongod needs libcurl4: apt-get install libcurl4$"):
        find_mongod()


def test_a_full_disk_is_told_from_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = (
        '{"t":{"$date":"2026-01-01T00:00:00.000+00:00"},"s":"E","c":"WT","id":22435,"ctx":"initandlisten",'
        '"msg":"WiredTiger error message","attr":{"error":28,"message":"journal: No space left on device"}}'
    )
    fake_mongod(monkeypatch, tmp_path, f"""[ "$1" = --version ] && exit 0; echo '{told}'; exit 14""")
    with pytest.raises(ProcessDiedError, match=r"^the disk of .* is full: mongod cannot go on$") as caught:
        Mongod(tmp_path / "data").start()
    assert "No space left on device" in caught.value.log_lines[-1]


def test_a_binary_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(BINARY_VARIABLE, str(tmp_path / "none"))
    with pytest.raises(LocalStackError, match=f"^{BINARY_VARIABLE}: names no file$"):
        find_mongod()


def test_it_dies_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    script = (
        "import sys, time, pathlib\n"
        "from codesvc.local.mongod import Mongod\n"
        "print(Mongod(pathlib.Path(sys.argv[1])).start().pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    with parent.stdout as out:
        pid = int(out.readline())
    assert Path(f"/proc/{pid}").exists()
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    deadline = time.monotonic() + 10
    while _lives(pid):
        assert time.monotonic() < deadline, "mongod outlived its parent"
        time.sleep(0.02)


def test_a_replica_set_elects_another_primary(tmp_path: Path) -> None:
    options = MongodOptions(oplog_mb=64, cache_gb=0.25)
    with start_replica_set(tmp_path, 3, options=options) as replica_set:
        first = replica_set.primary()
        with MongoClient[dict[str, object]](replica_set.uri, w="majority") as client:
            client["kept"]["codes"].insert_one({"_id": 1})
            started = time.monotonic()
            first.kill()
            second = replica_set.primary()
            assert second is not first
            assert time.monotonic() - started < 10
            client["kept"]["codes"].insert_one({"_id": 2})
            first.restart()
            replica_set.wait_until_whole()
            assert client["kept"]["codes"].count_documents({}) == 2


def _lives(pid: int) -> bool:
    """Tell whether a process runs; one that nobody has waited for yet is dead."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"

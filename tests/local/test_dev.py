"""`codesvc dev`, as a person runs it: a process with a terminal's signals, and what it prints."""

import json
import os
import re
import shlex
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient

from codesvc.local.process import LocalStackError, check_room

CODES = 20_000
UP = "Ctrl-C ends everything"


class Dev:
    """One run of the command, its output in files."""

    def __init__(self, data: Path, *arguments: str, codes: int = CODES, **environment: str) -> None:
        directory = next(parent for parent in data.parents if parent.is_dir())
        self._out = directory / f"{time.monotonic_ns()}.out"
        self._err = self._out.with_suffix(".err")
        command = [sys.executable, "-m", "codesvc", "dev", "--data", str(data), "--codes", str(codes)]
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.process = subprocess.Popen(
                [*command, *(arguments or ("--port", "0"))],
                stdout=out,
                stderr=err,
                env={**os.environ, **environment},
            )

    @property
    def out(self) -> str:
        return self._out.read_text(encoding="utf-8")

    @property
    def err(self) -> str:
        return self._err.read_text(encoding="utf-8")

    def wait_for(self, text: str, *, limit: float = 90) -> None:
        deadline = time.monotonic() + limit
        while text not in self.out:
            assert self.process.poll() is None, self.out + self.err
            assert time.monotonic() < deadline, self.out + self.err
            time.sleep(0.02)

    def children(self) -> dict[str, int]:
        """Return the ids of mongod, S3 and the API, by the last word that tells them apart."""
        names = {"mongod": "--replSet", "s3": "codesvc.local.s3", "api": "serve"}
        pids = (
            Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
            .read_text(encoding="ascii")
            .split()
        )
        lines = {int(pid): Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0") for pid in pids}
        return {name: pid for name, sign in names.items() for pid, line in lines.items() if sign in line}

    def end(self, number: signal.Signals = signal.SIGINT) -> int:
        self.process.send_signal(number)
        return self.process.wait(60)


@pytest.fixture
def runs() -> Iterator[list[Dev]]:
    """Runs that are killed at the end of the test, if it left them."""
    started: list[Dev] = []
    yield started
    for run in started:
        run.process.kill()
        run.process.wait()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


def paste(lines: list[str]) -> dict[str, dict[str, object]]:
    """Run the printed lines as a shell would; return the replies by the comment above each."""
    if shutil.which("curl"):
        script = "".join(f"{line}\necho\n" if line.startswith("curl") else f"{line}\n" for line in lines)
        run = subprocess.run(
            ["sh", "-eu", "-c", script], capture_output=True, text=True, timeout=60, check=True
        )
        replies = [json.loads(line) for line in run.stdout.splitlines()]
    else:
        token = next(line for line in lines if line.startswith("TOKEN=")).removeprefix("TOKEN=")
        replies = [_request(line.replace("$TOKEN", token)) for line in lines if line.startswith("curl")]
    names = [lines[at - 1].removeprefix("# ") for at, line in enumerate(lines) if line.startswith("curl")]
    return dict(zip(names, replies, strict=True))


def _request(line: str) -> object:
    """Send what a curl line says, on a machine without curl."""
    words = iter(shlex.split(line)[1:])
    method, url, body = "GET", "", None
    headers: dict[str, str] = {}
    for word in words:
        if word == "-X":
            method = next(words)
        elif word == "-H":
            name, _, value = next(words).partition(": ")
            headers[name] = value
        elif word == "-d":
            method, body = "POST", next(words).encode()
        elif not word.startswith("-"):
            url = word
    request = urllib.request.Request(url, method=method, headers=headers, data=body)
    with urllib.request.urlopen(request, timeout=60) as reply:
        return json.load(reply)


def counts_shown(out: str) -> list[tuple[int, int, int]]:
    found = re.findall(r"available ([\d,]+) +reserved ([\d,]+) +assigned ([\d,]+)", out)
    return [(int(a.replace(",", "")), int(b.replace(",", "")), int(c.replace(",", ""))) for a, b, c in found]


def test_two_runs(data: Path, runs: list[Dev]) -> None:
    first = Dev(data)
    runs.append(first)
    first.wait_for(UP)
    assert '{"count": {"in": 20000, "inserted": 20000, "updated": 0}}' in first.out
    assert re.search(r"[\d,]+ codes/s", first.out)
    assert counts_shown(first.out) == [(CODES, 0, 0), (CODES - 4, 2, 2)]

    lines = first.out.partition("Try it")[2].splitlines()
    replies = paste([line for line in lines if line.startswith(("TOKEN=ey", "#", "curl"))])
    assert replies["count"] == {"available": CODES - 4, "reserved": 2, "assigned": 2}
    assert replies["reserve"]["count"] == 3
    assert replies["assign"] == {"count": {"in": 1, "updated": 1}}
    assert replies["release"] == {"count": {"in": 1, "updated": 1}}
    assert replies["upload again"] == {"count": {"in": CODES, "inserted": 0, "updated": CODES}}

    secret = data / "jwt-secret"
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    kept = secret.read_bytes()

    children = first.children()
    assert sorted(children) == ["api", "mongod", "s3"]
    assert first.end(signal.SIGINT) == 0
    assert [pid for pid in children.values() if Path(f"/proc/{pid}").exists()] == []
    assert first.err == ""
    drained, saved, shut_down = (
        first.out.index(part) for part in ("has drained", "has saved", "has shut down")
    )
    assert drained < saved < shut_down

    second = Dev(data)
    runs.append(second)
    second.wait_for(UP)
    assert "20,000 codes of an earlier run are here already" in second.out
    # Each run, and the pasted lines, moved some: 1 + 2 assigned of the first, 1 of its lines, 2 of this one.
    assert counts_shown(second.out) == [(CODES - 3 - 3, 3, 3), (CODES - 3 - 3 - 4, 5, 5)]
    assert secret.read_bytes() == kept
    assert second.end(signal.SIGTERM) == 0


def test_sigterm_in_the_midst_of_an_upload(data: Path, runs: list[Dev]) -> None:
    codes = 400_000
    first = Dev(data, codes=codes)
    runs.append(first)
    first.wait_for("generated and put there")
    children = first.children()
    assert first.end(signal.SIGTERM) == 0
    assert [pid for pid in children.values() if Path(f"/proc/{pid}").exists()] == []

    second = Dev(data, codes=codes)
    runs.append(second)
    second.wait_for(UP)
    assert counts_shown(second.out)[0] == (codes, 0, 0)
    assert second.end() == 0


@pytest.mark.parametrize(("victim", "called"), [("mongod", "mongod"), ("s3", "S3"), ("api", "the API")])
def test_a_process_that_dies_ends_the_rest(data: Path, runs: list[Dev], victim: str, called: str) -> None:
    run = Dev(data, codes=100)
    runs.append(run)
    run.wait_for(UP)
    children = run.children()
    os.kill(children[victim], signal.SIGKILL)
    assert run.process.wait(60) == 1
    assert run.err.splitlines()[0] == f"codesvc dev: {called} ended by SIGKILL"
    assert [pid for pid in children.values() if Path(f"/proc/{pid}").exists()] == []


def test_a_second_signal_ends_it_at_once(data: Path, runs: list[Dev]) -> None:
    run = Dev(data, codes=100)
    runs.append(run)
    run.wait_for(UP)
    children = run.children()
    os.kill(children["api"], signal.SIGSTOP)
    run.process.send_signal(signal.SIGINT)
    run.wait_for("Stopping")
    started = time.monotonic()
    assert run.end(signal.SIGINT) == 0
    assert time.monotonic() - started < 10
    assert [pid for pid in children.values() if Path(f"/proc/{pid}").exists()] == []


def test_a_mongodb_that_runs_already_takes_the_place_of_its_own(
    data: Path, runs: list[Dev], mongo_uri: str, database_name: str, mongo: MongoClient[dict[str, Any]]
) -> None:
    run = Dev(data, codes=100, CODESVC_MONGO_URI=mongo_uri, CODESVC_MONGO_DATABASE=database_name)
    runs.append(run)
    run.wait_for(UP)
    assert sorted(run.children()) == ["api", "s3"]
    assert mongo[database_name]["codes"].count_documents({}) == 100
    assert run.end() == 0


def test_killed_it_leaves_nobody_behind(data: Path, runs: list[Dev]) -> None:
    run = Dev(data, codes=100)
    runs.append(run)
    run.wait_for(UP)
    children = run.children()
    assert run.end(signal.SIGKILL) == -signal.SIGKILL
    deadline = time.monotonic() + 10
    while any(_lives(pid) for pid in children.values()):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_port_in_use_is_one_line(data: Path, runs: list[Dev]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as occupant:
        port = occupant.getsockname()[1]
        run = Dev(data, "--port", str(port))
        runs.append(run)
        assert run.process.wait(30) == 1
    assert run.err == f"codesvc dev: port {port} for the API is in use\n"


def test_a_missing_libcurl4_is_one_line(data: Path, tmp_path: Path, runs: list[Dev]) -> None:
    mongod = tmp_path / "mongod"
    told = "libcurl.so.4: cannot open shared object file: No such file or directory"
    loader = f"{mongod}: error while loading shared libraries: {told}"
    mongod.write_text(f"#!/bin/sh\necho '{loader}' >&2\nexit 127\n", encoding="ascii")
    mongod.chmod(0o755)
    run = Dev(data, CODESVC_MONGOD=str(mongod))
    runs.append(run)
    assert run.process.wait(30) == 1
    assert run.err == "codesvc dev: mongod needs libcurl4: apt-get install libcurl4\n"


def test_a_second_run_in_the_same_directory_is_one_line(data: Path, runs: list[Dev]) -> None:
    first = Dev(data, codes=100)
    runs.append(first)
    first.wait_for(UP)
    second = Dev(data, codes=100)
    runs.append(second)
    assert second.process.wait(30) == 1
    assert second.err == f"codesvc dev: another mongod uses {data}/mongod/db: is the stack running already?\n"
    assert first.process.poll() is None
    assert first.end() == 0


def test_a_directory_that_cannot_be_made_is_one_line(tmp_path: Path, runs: list[Dev]) -> None:
    (tmp_path / "file").touch()
    run = Dev(tmp_path / "file" / "data")
    runs.append(run)
    assert run.process.wait(30) == 1
    assert run.err == f"codesvc dev: {tmp_path}/file/data cannot be written to: Not a directory\n"


def test_a_setting_that_the_api_refuses_is_told(data: Path, runs: list[Dev]) -> None:
    run = Dev(data, CODESVC_BATCH_SIZE="many")
    runs.append(run)
    assert run.process.wait(60) == 1
    assert run.err.splitlines()[0] == "codesvc dev: the API ended with exit code 2"
    assert "CODESVC_BATCH_SIZE" in run.err.splitlines()[1]


def test_too_little_room_is_told(tmp_path: Path) -> None:
    with pytest.raises(
        LocalStackError, match=rf"^the disk of {tmp_path} is full: \d+ MB are free, at least \d+ MB are"
    ):
        check_room(tmp_path, least=1 << 60)


def _lives(pid: int) -> bool:
    """Tell whether a process runs; one that nobody has waited for yet is dead."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"

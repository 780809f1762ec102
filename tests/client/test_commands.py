"""`codesvc upload`, `uploads`, `count`, `reserve`, `assign` and `release`, as a shell runs them."""

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from api.harness import ROOT, SECRET, base_environment, csv_of, eventually, make_codes
from api.proxy import Proxy
from api.world import World

from codesvc.local.process import free_port

COMMANDS = ("upload", "uploads", "count", "reserve", "assign", "release")

Ended = subprocess.CompletedProcess[str]
Run = Callable[..., Ended]


def is_one_line(text: str) -> bool:
    return text.startswith("codesvc: ") and text.count("\n") == 1 and text.endswith("\n")


@pytest.fixture
def settings(world: World) -> dict[str, str | None]:
    return {
        "CODESVC_URL": f"http://127.0.0.1:{world.service.port}",
        "CODESVC_TOKEN": world.service.token,
    }


@pytest.fixture
def run(settings: dict[str, str | None]) -> Run:
    """Runs a command to its end."""

    def finish(*arguments: str, stdin: bytes = b"", **changed: str | None) -> Ended:
        ended = subprocess.run(
            [sys.executable, "-m", "codesvc", *arguments],
            cwd=ROOT,
            env=base_environment(settings | changed),
            input=stdin,
            capture_output=True,
            timeout=60,
            check=False,
        )
        return Ended(ended.args, ended.returncode, ended.stdout.decode(), ended.stderr.decode())

    return finish


def test_help(run: Run) -> None:
    everything = run("--help").stdout
    for command in COMMANDS:
        assert re.search(rf"^    {command} ", everything, re.MULTILINE), command
    for command in ("upload", "assign"):
        told = run(command, "--help").stdout
        assert "CODESVC_TOKEN" in told
        assert "exit codes:" in told


def test_from_the_file_to_the_last_code(run: Run, world: World, campaign: str, tmp_path: Path) -> None:
    codes = make_codes(20)
    key = world.put(campaign, csv_of(codes) + b'"x"y\n')
    loaded = run("upload", key)
    assert loaded.returncode == 0, loaded
    assert loaded.stdout.startswith("20 codes in ")
    assert "20 inserted, 0 updated, 1 invalid rows\nline 21: " in loaded.stdout
    again = run("upload", key, "--json")
    told = json.loads(again.stdout)
    assert told["count"] == {"in": 20, "inserted": 0, "updated": 20}
    assert (told["state"], told["invalid"]["count"], told["exact"]) == ("succeeded", 1, True)
    assert told["seconds"] > 0

    assert run("count", campaign, "--type", "tm").stdout == "available 20  reserved 0  assigned 0\n"
    lent = run("reserve", campaign, "--type", "tm", "--count", "3")
    assert lent.returncode == 0
    taken = lent.stdout.split()
    assert set(taken) < set(codes)
    assert re.fullmatch(r"3 codes, reservation [0-9a-f-]{36}\n", lent.stderr)

    assigned = run("assign", campaign, "-", "--json", stdin=lent.stdout.encode())
    assert json.loads(assigned.stdout) == {"count": {"in": 3, "updated": 3}, "exact": True}
    rest = run("reserve", campaign, "--type", "tm", "--count", "50", "--json")
    held = [each["code"] for each in json.loads(rest.stdout)["codes"]]
    assert set(held) == set(codes) - set(taken)
    file = tmp_path / "codes.txt"
    file.write_bytes("\r\n".join(held).encode())
    assert run("release", campaign, "--file", str(file)).stdout == "17 sent, 17 released\n"
    assert run("release", campaign, held[0], held[1]).stdout == "2 sent, 0 released\n"
    counts = run("count", campaign, "--type", "tm", "--json").stdout
    assert json.loads(counts) == {"available": 17, "reserved": 0, "assigned": 3}
    assert run("count", campaign, "--type", "tm", "--status", "assigned").stdout == "assigned 3\n"


def test_a_dry_run(run: Run, world: World, campaign: str) -> None:
    codes = make_codes(12)
    world.stock(campaign, codes[:5])
    key = world.put(campaign, csv_of([*codes, codes[9]]))
    told = run("upload", key, "--dry-run")
    assert told.returncode == 0, told
    assert told.stdout.startswith("dry run: nothing is stored\n13 codes in ")
    assert "7 inserted, 6 updated, 0 invalid rows\n" in told.stdout
    assert world.stored(campaign) == set(codes[:5])
    lines = run("uploads", campaign).stdout.splitlines()
    assert [line.endswith(", dry run") for line in lines] == [True, False]
    every = json.loads(run("uploads", campaign, "--json").stdout)["uploads"]
    assert [one.get("dryRun") for one in every] == [True, None]
    assert every[0]["count"] == {"in": 13, "inserted": 7, "updated": 6}


def test_fewer_codes_than_asked_for(run: Run, world: World, campaign: str) -> None:
    world.stock(campaign, make_codes(2))
    short = run("reserve", campaign, "--type", "tm", "--count", "5")
    assert short.returncode == 0
    assert len(short.stdout.split()) == 2
    assert short.stderr.startswith("2 codes of the 5 asked for, ")


def test_a_reservation_by_its_id(run: Run, world: World, campaign: str) -> None:
    world.stock(campaign, make_codes(5))
    lent = run("reserve", campaign, "--type", "tm", "--count", "3", "--min", "3", "--ttl", "600")
    told = re.fullmatch(r"3 codes, reservation ([0-9a-f-]{36}), until (\S+)\n", lent.stderr)
    assert told, lent
    left = datetime.fromisoformat(told[2]) - datetime.now(UTC)
    assert timedelta(minutes=9) < left <= timedelta(minutes=10)
    refused = run("reserve", campaign, "--type", "tm", "--count", "3", "--min", "3")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "notEnoughCodes" in refused.stderr
    code = lent.stdout.split()[0]
    assert run("assign", campaign, code).returncode == 0
    released = run("release", campaign, "--reservation", told[1])
    assert (released.returncode, released.stdout) == (0, "2 held, 2 released\n")
    again = run("assign", campaign, "--reservation", told[1], "--json")
    assert json.loads(again.stdout) == {"count": {"in": 0, "updated": 0}, "exact": True}
    rest = json.loads(run("reserve", campaign, "--type", "tm", "--count", "9", "--json").stdout)
    assert rest["count"] == 4
    assert timedelta(hours=23) < datetime.fromisoformat(rest["expiresAt"]) - datetime.now(UTC)


def test_a_token_is_minted_with_the_secret(run: Run, campaign: str) -> None:
    told = run("count", campaign, "--type", "tm", CODESVC_TOKEN=None, CODESVC_JWT_SECRET=SECRET)
    assert (told.returncode, told.stderr) == (0, "")


@pytest.mark.parametrize(
    ("arguments", "changed", "named"),
    [
        (("count", "c", "--type", "tm"), {"CODESVC_TOKEN": None}, "CODESVC_TOKEN"),
        (("count", "c", "--type", "tm"), {"CODESVC_URL": "localhost"}, "CODESVC_URL"),
        (("assign", "c"), {}, "CODE"),
        (("assign", "c", "A", "-"), {}, "CODE"),
        (("assign", "c", "A", "--file", "x"), {}, "--file"),
        (("release", "c", "--file", "/nothing/here"), {}, "--file"),
        (("release", "c", "A", "--reservation", "x"), {}, "--reservation"),
        (("assign", "c", "--file", "x", "--reservation", "x"), {}, "--reservation"),
        (("uploads", "c", "--follow"), {}, "UPLOAD_ID"),
    ],
)
def test_what_is_missing_or_malformed_is_2(
    run: Run, arguments: tuple[str, ...], changed: dict[str, str | None], named: str
) -> None:
    refused = run(*arguments, **changed)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert is_one_line(refused.stderr)
    assert named in refused.stderr


@pytest.mark.parametrize(
    "arguments",
    [("count", "c"), ("count", "c", "--type", "paper"), ("reserve", "c", "--type", "tm"), ("upload",)],
)
def test_a_wrong_argument_is_2(run: Run, arguments: tuple[str, ...]) -> None:
    assert run(*arguments).returncode == 2


def test_what_the_service_refuses_is_1(run: Run, world: World, campaign: str) -> None:
    code = make_codes(1)[0]
    for refused, told in (
        (run("upload", f"codes/{campaign}/tm/none.csv"), "fileNotFound"),
        (run("reserve", campaign, "--type", "tm", "--count", "0"), "invalidCount"),
        (run("assign", "a b", code), "invalidCampaignId"),
        (run("assign", campaign, "-", stdin=b"A\n\xff\n"), "line 2 is not UTF-8"),
        (run("assign", campaign, "-"), "emptyCodes"),
        (run("upload", world.put(campaign, b'A\n"B"b\n'), "--strict"), "line 2"),
        (run("count", campaign, "--type", "tm", CODESVC_TOKEN="wrong"), "unauthorized"),
    ):
        assert (refused.returncode, refused.stdout) == (1, ""), refused
        assert is_one_line(refused.stderr.splitlines(keepends=True)[-1]), refused
        assert told in refused.stderr
        assert code not in refused.stderr


def test_nobody_listens(run: Run) -> None:
    """It takes as long as the client tries: no longer than some seconds."""
    refused = run("count", "c", "--type", "tm", CODESVC_URL=f"http://127.0.0.1:{free_port()}")
    assert refused.returncode == 1
    assert is_one_line(refused.stderr)
    assert "Connection refused" in refused.stderr


def test_an_interrupted_upload_goes_on(
    settings: dict[str, str | None], proxy: Proxy, world: World, campaign: str
) -> None:
    codes = make_codes(1000)
    key = world.put(campaign, csv_of(codes))
    arrived = proxy.stall_after(1)
    uploading = subprocess.Popen(
        [sys.executable, "-m", "codesvc", "upload", key],
        cwd=ROOT,
        env=base_environment(settings | {"CODESVC_URL": f"http://127.0.0.1:{proxy.port}"}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with uploading:
        assert arrived.wait(30)
        uploading.send_signal(signal.SIGINT)
        output, told = uploading.communicate(timeout=30)
    assert (uploading.returncode, output) == (130, "")
    assert "the upload may go on in the service" in told
    eventually(lambda: world.stored(campaign) == set(codes), limit=20)

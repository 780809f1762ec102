"""`codes`, `export` and `take_back` of the client, and the commands built on them."""

import asyncio
import csv
import io
import json
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from api.harness import ROOT, base_environment, csv_of, make_codes
from api.proxy import Proxy
from api.world import World

from codesvc.client import Code, CodesvcClientError, UploadState, UploadUnderWayError
from codesvc.models import CodeType, Status

from .conftest import Connect
from .scripted import Answer, Scripted


async def test_pages(connect: Connect, world: World, campaign: str) -> None:
    codes = sorted(make_codes(25))
    world.stock(campaign, codes)
    async with connect() as client:
        await client.assign(campaign, codes[:3])
        found: list[Code] = []
        after = None
        while True:
            page = await client.codes(campaign, code_type=CodeType.TM, after=after, limit=10)
            found += page.codes
            after = page.next
            if after is None:
                break
        assert [each.code for each in found] == codes
        assert [each.status for each in found] == [Status.ASSIGNED] * 3 + [Status.AVAILABLE] * 22
        assert found[0].assigned is not None
        assert (await client.codes(campaign, status="reserved")).codes == ()


@pytest.mark.parametrize("form", ["csv", "ndjson"])
async def test_an_export_goes_on_where_it_broke_off(
    connect: Connect, world: World, campaign: str, form: str
) -> None:
    codes = sorted(make_codes(20_000))
    world.stock(campaign, codes)
    with Proxy(world.service.port) as proxy:
        held = proxy.stall_after(400_000)
        async with connect(proxy.port) as client:

            async def export() -> list[str]:
                if form == "ndjson":
                    return [each.code async for each in client.export(campaign)]
                text = b"".join([some async for some in client.export_lines(campaign, "csv")]).decode()
                head, *rows = csv.reader(io.StringIO(text, newline=""))
                assert head[0] == "code"
                return [row[0] for row in rows]

            exporting = asyncio.create_task(export())
            assert await asyncio.to_thread(held.wait, 30)
            proxy.cut()
            proxy.resume()
            found = await exporting
    assert found == codes


async def test_an_export_that_is_refused(connect: Connect, campaign: str) -> None:
    async with connect() as client:
        with pytest.raises(CodesvcClientError, match="type"):
            _ = [each async for each in client.export(campaign, code_type="other")]


async def test_take_back(connect: Connect, world: World, campaign: str) -> None:
    codes = make_codes(30)
    address = world.upload(campaign, csv_of(codes)).header("Location")
    assert address is not None
    async with connect() as client:
        await client.assign(campaign, codes[:4])
        upload = await client.take_back(campaign, address.rpartition("/")[2])
        assert upload.taken_back is not None
        assert (upload.taken_back.count, upload.taken_back.done) == (26, True)
        assert world.stored(campaign) == set(codes[:4])
        # Cancelling takes nothing back, whatever has happened before.
        again = await client.cancel_upload(campaign, address.rpartition("/")[2])
        assert again.state is UploadState.SUCCEEDED


async def test_one_that_is_under_way_is_not_taken_back(connect: Connect) -> None:
    running = Answer(body={"uploadId": "u", "state": "running"})
    async with Scripted(running) as server, connect(server.port) as client:
        with pytest.raises(UploadUnderWayError, match="cancel it first"):
            await client.take_back("c", "u")
    assert [each.method for each in server.requests] == ["GET"]


def command(world: World, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    address = f"http://127.0.0.1:{world.service.port}"
    return subprocess.run(
        [sys.executable, "-m", "codesvc", *arguments],
        cwd=ROOT,
        env=base_environment({"CODESVC_URL": address, "CODESVC_TOKEN": world.service.token}),
        capture_output=True,
        timeout=60,
        check=False,
    )


def test_commands(world: World, campaign: str, tmp_path: Path) -> None:
    codes = sorted(make_codes(12))
    address = world.upload(campaign, csv_of(codes)).header("Location")
    assert address is not None
    file = tmp_path / "codes.csv"
    ended = command(world, "export", campaign, "--output", str(file))
    assert (ended.returncode, ended.stdout) == (0, f"12 codes in {file}\n".encode())
    assert [row[0] for row in csv.reader(file.read_text().splitlines())] == ["code", *codes]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [file]
    ended = command(world, "export", campaign, "--format", "ndjson", "--type", "tm", "--status", "available")
    assert [json.loads(line)["code"] for line in ended.stdout.splitlines()] == codes
    ended = command(world, "export", campaign, "--output", str(tmp_path / "no" / "where"))
    assert ended.returncode == 1
    assert ended.stderr.startswith(b"codesvc: --output: ")
    ended = command(world, "uploads", campaign, address.rpartition("/")[2], "--take-back")
    assert ended.returncode == 0
    assert b"12 taken back" in ended.stdout
    assert world.stored(campaign) == set()
    assert command(world, "uploads", campaign, "--take-back").returncode == 2

"""Uploads as resources of a real service, whose S3 stands still in the middle of the file."""

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from api.harness import ROOT, base_environment, csv_of, make_codes
from api.proxy import Proxy
from api.world import World

from codesvc.client import Client, RetryPolicy, Upload, UploadCancelledError, UploadFailedError, UploadState

from .conftest import Connect

CODES = 30_000
"""Some ten parts of the file, and sixty batches."""


@pytest.fixture
def key(fragile: World, campaign: str) -> str:
    """A file that takes a while, above all if S3 stands still."""
    return fragile.put(campaign, csv_of(make_codes(CODES)))


@pytest.fixture
async def begun(fragile: World, connect: Connect, campaign: str) -> AsyncIterator[Client]:
    """A client of the service."""
    async with connect(fragile.service.port) as client:
        yield client


async def until(true: Callable[[], Any]) -> None:
    async with asyncio.timeout(30):
        while not true():  # noqa: ASYNC110 - nothing tells when
            await asyncio.sleep(0.02)


async def test_it_is_followed_through_broken_connections(
    fragile: World, connect: Connect, s3_proxy: Proxy, campaign: str, key: str
) -> None:
    seen: list[Upload] = []
    patient = RetryPolicy(tries=1000, seconds=60, first_pause=0.05, longest_pause=0.1)
    with Proxy(fragile.service.port) as between:
        async with connect(between.port, retries=patient) as client:
            s3_proxy.stall_after(300_000)
            call = asyncio.ensure_future(client.upload(key, progress=seen.append))
            await until(lambda: seen and seen[-1].state is UploadState.RUNNING)
            between.cut()
            await asyncio.to_thread(between.stop)
            await asyncio.sleep(0.1)
            between.start()
            known = len(seen)
            await until(lambda: len(seen) > known)
            s3_proxy.resume()
            upload = await call
            assert [each.upload_id for each in await client.uploads(campaign)] == [upload.upload_id]
            assert await client.get_upload(campaign, str(upload.upload_id)) == upload
    assert (upload.state, upload.counts.inserted, upload.exact) == (UploadState.SUCCEEDED, CODES, True)
    assert upload.bytes_done == upload.bytes_total
    assert fragile.service.count(campaign)["available"] == CODES


async def test_it_is_cancelled_by_somebody_else(
    begun: Client, fragile: World, s3_proxy: Proxy, campaign: str, key: str
) -> None:
    s3_proxy.stall_after(300_000)
    upload = await begun.upload(key, wait=False)
    assert upload.upload_id is not None
    call = asyncio.ensure_future(begun.follow(campaign, upload.upload_id))
    await asyncio.sleep(0.1)
    await begun.cancel_upload(campaign, upload.upload_id)
    s3_proxy.resume()
    with pytest.raises(UploadCancelledError) as cancelled:
        await call
    stored = cancelled.value.upload.counts.total
    assert stored < CODES
    assert fragile.service.count(campaign)["available"] == stored
    # And once more, which leaves alone what has ended.
    assert (await begun.cancel_upload(campaign, upload.upload_id)).state is UploadState.CANCELLED


async def test_it_fails(begun: Client, fragile: World, campaign: str) -> None:
    key = fragile.put(campaign, b'A\n"B"b\nC\n')
    with pytest.raises(UploadFailedError, match="line 2") as failed:
        await begun.upload(key, strict=True)
    problem = failed.value.upload.problem
    assert problem is not None
    assert problem.code == "invalidRow"
    assert not failed.value.transient


@pytest.mark.parametrize("cancel", [False, True])
def test_ctrl_c(fragile: World, s3_proxy: Proxy, campaign: str, key: str, *, cancel: bool) -> None:
    environment = base_environment(
        {
            "CODESVC_URL": f"http://127.0.0.1:{fragile.service.port}",
            "CODESVC_TOKEN": fragile.service.token,
        }
    )

    def command(*arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "codesvc", *arguments],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    arrived = s3_proxy.stall_after(300_000)
    with command("upload", key, *["--cancel-on-interrupt"] * cancel) as uploading:
        assert arrived.wait(30)
        with command("uploads", campaign, "--json") as listing:
            (upload,) = json.loads(listing.communicate(timeout=30)[0])["uploads"]
        uploading.send_signal(signal.SIGINT)
        output, told = uploading.communicate(timeout=30)
    s3_proxy.resume()
    assert (uploading.returncode, output) == (130, "")
    with command("uploads", campaign, upload["uploadId"], "--follow") as following:
        output, ended = following.communicate(timeout=60)
    if cancel:
        assert upload["uploadId"] in told
        assert following.returncode == 1
        assert f"the upload {upload['uploadId']} was cancelled" in ended
    else:
        assert f"codesvc uploads {campaign} {upload['uploadId']} shows it" in told
        assert following.returncode == 0
        assert f"{CODES:,} inserted, 0 updated" in output
    with command("uploads", campaign) as listing:
        shown = listing.communicate(timeout=30)[0]
    assert ("cancelled" if cancel else "succeeded") in shown
    assert key in shown

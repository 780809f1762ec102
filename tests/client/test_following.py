"""An upload is followed to its end through whatever happens to the connections."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from codesvc.client import (
    CodesvcClientError,
    NotFoundError,
    RetryPolicy,
    Upload,
    UploadCancelledError,
    UploadFailedError,
    UploadState,
    transport,
)
from codesvc.client.events import read_events

from .conftest import Connect
from .scripted import RESET, Answer, Scripted, problem

KEY = "codes/c/tm/f.csv"


def resource(state: str, stored: int = 0, **members: Any) -> dict[str, Any]:
    return {
        "uploadId": "u",
        "fileKey": KEY,
        "type": "tm",
        "state": state,
        "bytes": {"done": stored * 10, "total": 1000},
        "count": {"in": stored, "inserted": stored, "updated": 0},
        "startedAt": "2026-01-02T03:04:05.678Z",
        **members,
    }


def stream(*resources: dict[str, Any], cut: str = "") -> Answer:
    text = "".join(f"event: progress\ndata: {json.dumps(each)}\n\n" for each in resources)
    return Answer(200, text + cut, media_type="text/event-stream")


BEGUN = Answer(202, resource("queued"), {"Location": "/v1/c/uploads/u"})
DONE = resource(
    "succeeded",
    100,
    finishedAt="2026-01-02T03:05:05.678Z",
    invalid={"count": 1, "samples": [{"line": 3, "reason": "x"}]},
)


async def targets(server: Scripted) -> list[str]:
    return [f"{each.method} {each.target}" for each in server.requests]


async def test_it_goes_on_where_a_connection_broke(connect: Connect) -> None:
    script = [
        BEGUN,
        stream(resource("running", 10), cut='data: {"uploadId": "u", "sta'),
        RESET,
        problem(503, "draining", Retry_After="0"),
        stream(resource("running", 60), DONE),
    ]
    seen: list[Upload] = []
    async with Scripted(*script) as server, connect(server.port) as client:
        upload = await client.upload(KEY, progress=seen.append)
    assert [each.counts.total for each in seen] == [0, 10, 60, 100]
    assert upload == seen[-1]
    assert (upload.state, upload.upload_id, upload.invalid_count) == (UploadState.SUCCEEDED, "u", 1)
    assert (upload.bytes_done, upload.bytes_total) == (1000, 1000)
    assert upload.started_at is not None
    assert server.requests[0].headers["prefer"] == "respond-async"
    assert await targets(server) == ["POST /v1/c/codes"] + ["GET /v1/c/uploads/u/events"] * 4


@pytest.mark.parametrize(
    "events",
    [
        [problem(404, "notFound")],
        [problem(405, "methodNotAllowed")],
        [problem(401, "unauthorized")],
        [Answer(200, {"not": "a stream"})],
        [Answer(200, "data: {\n\n", media_type="text/event-stream")],
        # Something in between keeps them back.
        [stream(), stream()],
    ],
    ids=["404", "405", "401", "json", "broken", "barren"],
)
async def test_without_events_it_is_asked_for(
    connect: Connect, monkeypatch: pytest.MonkeyPatch, events: list[Answer]
) -> None:
    monkeypatch.setattr("codesvc.client.uploads._POLL_SECONDS", 0.01)
    asked = [Answer(body=resource("running", 10)), RESET, Answer(body=DONE)]
    async with Scripted(BEGUN, *events, *asked) as server, connect(server.port) as client:
        upload = await client.upload(KEY)
    assert upload.state is UploadState.SUCCEEDED
    assert (await targets(server))[-1] == "GET /v1/c/uploads/u"


async def test_a_stream_that_falls_silent(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "_SILENCE_SECONDS", 0.1)
    longer = {"Content-Length": "9999"}
    silent = Answer(
        200, "data: " + json.dumps(resource("running", 10)) + "\n\n", longer, media_type="text/event-stream"
    )
    async with Scripted(BEGUN, silent, stream(DONE)) as server, connect(server.port) as client:
        assert (await client.upload(KEY)).counts.total == 100
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    ("state", "kind"), [("failed", UploadFailedError), ("cancelled", UploadCancelledError)]
)
async def test_how_else_it_may_end(connect: Connect, state: str, kind: type[Exception]) -> None:
    ended = resource(state, 30, error={"code": "fileChanged", "detail": "The file was replaced"})
    async with Scripted(BEGUN, stream(ended)) as server, connect(server.port) as client:
        with pytest.raises(kind, match=r"fileChanged") as raised:
            await client.upload(KEY)
    assert isinstance(raised.value, UploadFailedError | UploadCancelledError)
    assert raised.value.upload.counts.total == 30
    assert raised.value.upload.problem is not None


async def test_a_failure_that_passes(connect: Connect) -> None:
    ended = resource("failed", 30, error={"code": "interrupted", "detail": "The process is gone"})
    async with Scripted(BEGUN, stream(ended)) as server, connect(server.port) as client:
        with pytest.raises(UploadFailedError) as raised:
            await client.upload(KEY)
    assert raised.value.transient


async def test_uploads_by_the_page(connect: Connect) -> None:
    full = Answer(body={"uploads": [resource("running")] * 100, "next": "u"})
    rest = Answer(body={"uploads": [resource("running")] * 3})
    async with Scripted(full, rest) as server, connect(server.port) as client:
        assert len(await client.uploads("c", limit=150)) == 103
    assert [each.target.partition("?")[2] for each in server.requests] == ["limit=100", "limit=50&after=u"]


async def test_no_sign_of_life(connect: Connect) -> None:
    policy = RetryPolicy(tries=4, seconds=5, first_pause=0.01, longest_pause=0.02)
    async with Scripted(BEGUN, RESET) as server, connect(server.port, retries=policy) as client:
        with pytest.raises(CodesvcClientError) as lost:
            await client.upload(KEY)
    assert lost.value.transient
    assert len(server.requests) == 1 + 4


async def test_an_upload_that_is_not_there(connect: Connect) -> None:
    async with Scripted(problem(404, "notFound")) as server, connect(server.port) as client:
        with pytest.raises(NotFoundError):
            await client.follow("c", "u")


async def test_not_waiting(connect: Connect) -> None:
    async with Scripted(BEGUN) as server, connect(server.port) as client:
        assert (await client.upload(KEY, wait=False)).state is UploadState.QUEUED
    assert len(server.requests) == 1


@pytest.mark.parametrize("size", [1, 2, 17, 4096])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
async def test_events_in_pieces(size: int, end: str) -> None:
    lines = [
        ": a comment",
        "",
        "event: progress",
        "id: 7",
        'data: {"a":',
        "data:1}",
        "",
        "retry: 5",
        "",
        "data: [2]",
        "",
        "data: 3",
    ]
    text = end.join(lines).encode()

    async def pieces() -> AsyncIterator[bytes]:
        for at in range(0, len(text), size):
            yield text[at : at + size]

    # The last is cut off: no empty line follows.
    assert [data async for data in read_events(pieces())] == [{"a": 1}, [2]]

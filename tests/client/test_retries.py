"""What is sent again, and what is not: the table of ``codesvc.client``, row by row."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import pytest
from api.proxy import Proxy

from codesvc.client import (
    CannotConnectError,
    Change,
    Client,
    CodesvcApiError,
    CodesvcClientError,
    ConflictError,
    NoReplyError,
    NotCodesvcError,
    RetryPolicy,
    TooManyRequestsError,
    UnauthorizedError,
    UnavailableError,
)
from codesvc.local.process import free_port

from .conftest import Connect
from .scripted import CHANGE, COUNTS, RESERVED, RESET, Answer, Scripted, problem

Act = Callable[[Client], Awaitable[Any]]
CODE = "zQx7-secret"

READ: Act = lambda client: client.count("c", "tm")  # noqa: E731
CHANGES: Act = lambda client: client.assign("c", [CODE])  # noqa: E731
RESERVE: Act = lambda client: client.reserve("c", "tm", 1)  # noqa: E731
REPEAT: Act = lambda client: client.reserve("c", "tm", 1, repeat=True)  # noqa: E731
CANCEL: Act = lambda client: client.cancel_upload("c", "u")  # noqa: E731
UPLOAD: Act = lambda client: client.upload("codes/c/tm/f.csv")  # noqa: E731

DONE = {
    READ: Answer(body=COUNTS),
    CHANGES: Answer(body=CHANGE),
    RESERVE: Answer(body=RESERVED),
    REPEAT: Answer(body=RESERVED),
    UPLOAD: Answer(body={"count": {"in": 1, "inserted": 1, "updated": 0}}),
}
SAFE = {READ, CHANGES, REPEAT, UPLOAD}
FROM_A_PROXY = Answer(502, "<html>Bad Gateway</html>", media_type="text/html")


@pytest.mark.parametrize("act", DONE, ids=["read", "assign", "reserve", "reserve again", "upload"])
@pytest.mark.parametrize(
    ("failure", "took_effect"),
    [
        (problem(429, "tooManyRequests"), False),
        (problem(503, "draining", Retry_After="0"), False),
        (problem(503, "keysUnavailable"), False),
        (problem(503, "tooManyUploads"), False),
        (problem(503, "databaseUnavailable"), True),
        (problem(503, "storageUnavailable"), True),
        (FROM_A_PROXY, True),
        (Answer(503, "", media_type="text/plain"), True),
        (Answer(504, "", media_type="text/plain"), True),
        (RESET, True),
        (Answer(headers={"Content-Length": "999"}, body=COUNTS), True),
    ],
    ids=["429", "draining", "keys", "uploads", "database", "storage", "502", "503", "504", "reset", "cut"],
)
async def test_what_passes(connect: Connect, act: Act, failure: Answer, took_effect: bool) -> None:
    async with Scripted(failure, DONE[act]) as server, connect(server.port) as client:
        if took_effect and act not in SAFE:
            with pytest.raises(CodesvcClientError) as refused:
                await act(client)
            assert refused.value.may_have_taken_effect
            assert len(server.requests) == 1
            return
        result = await act(client)
    assert len(server.requests) == 2
    assert getattr(result, "exact", True) is not (took_effect and act in {CHANGES, UPLOAD})
    # One key and one correlation id for all tries of a call, and no key for what only reads.
    assert len({each.headers["x-correlation-id"] for each in server.requests}) == 1
    keys = {each.headers.get("idempotency-key") for each in server.requests}
    assert len(keys) == 1
    assert (keys == {None}) is (act is READ)


@pytest.mark.parametrize(
    "failure",
    [
        problem(400, "invalidType"),
        problem(404, "notFound"),
        problem(409, "fileChanged"),
        problem(409, "idempotencyKeyInUse", Retry_After="0"),
        problem(422, "invalidRow"),
        problem(500, "internalError"),
        Answer(301, "", {"Location": "http://127.0.0.1:9/"}, media_type="text/html"),
        Answer(200, "<html>Welcome</html>", media_type="text/html"),
        Answer(200, {"welcome": True}),
    ],
    ids=lambda answer: f"{answer.status} {answer.media_type}",
)
async def test_what_stays(connect: Connect, failure: Answer) -> None:
    async with Scripted(failure) as server, connect(server.port) as client:
        with pytest.raises(CodesvcClientError) as refused:
            await CHANGES(client)
    assert not refused.value.transient
    assert len(server.requests) == 1
    assert isinstance(refused.value, CodesvcApiError if failure.status != 200 else NotCodesvcError)
    assert CODE not in str(refused.value) + repr(refused.value)


async def test_a_lost_answer_to_a_delete_is_not_followed_by_another(connect: Connect) -> None:
    """aiohttp itself would send it again."""
    running = Answer(body={"uploadId": "u", "state": "running"})
    async with Scripted(running, RESET, running) as server, connect(server.port) as client:
        with pytest.raises(NoReplyError) as lost:
            await CANCEL(client)
    assert [each.method for each in server.requests] == ["GET", "DELETE"]
    assert lost.value.may_have_taken_effect


async def test_nor_in_a_session_of_the_callers(connect: Connect) -> None:
    running = Answer(body={"uploadId": "u", "state": "running"})
    async with (
        aiohttp.ClientSession() as session,
        Scripted(running, RESET, running) as server,
        connect(server.port, session=session) as client,
    ):
        with pytest.raises(NoReplyError):
            await CANCEL(client)
    assert [each.method for each in server.requests] == ["GET", "DELETE"]


async def test_an_upload_that_has_ended_is_left_alone(connect: Connect) -> None:
    ended = Answer(body={"uploadId": "u", "state": "succeeded"})
    async with Scripted(ended) as server, connect(server.port) as client:
        assert (await client.cancel_upload("c", "u")).state.ended
    assert [each.method for each in server.requests] == ["GET"]


async def test_nobody_listens(connect: Connect) -> None:
    async with connect(free_port(), retries=RetryPolicy(tries=3, first_pause=0.01)) as client:
        with pytest.raises(CannotConnectError) as refused:
            await RESERVE(client)
    assert not refused.value.may_have_taken_effect
    assert "Connection refused" in str(refused.value)


async def test_a_service_that_comes_up_meanwhile(connect: Connect) -> None:
    """Where no connection was made, nothing can have happened: even a reserve is tried again."""
    server = Scripted(DONE[RESERVE])
    async with server:
        pass
    port = server.port
    async with connect(
        port, retries=RetryPolicy(tries=200, seconds=20, first_pause=0.01, longest_pause=0.02)
    ) as client:
        call = asyncio.ensure_future(RESERVE(client))
        await asyncio.sleep(0.1)
        assert not call.done()
        late = await asyncio.start_server(server._serve, "127.0.0.1", port)
        async with late:
            assert (await call).codes == ()
    assert len(server.requests) == 1


async def test_a_service_that_remembers_keys(connect: Connect) -> None:
    """Once it has shown so, a reserve is sent again with its key whatever became of the first try."""
    known = Answer(body=RESERVED, echo_key=True)
    waiting = problem(409, "idempotencyKeyInUse", Retry_After="0")
    async with Scripted(known, RESET, waiting, known) as server, connect(server.port) as client:
        await RESERVE(client)
        await RESERVE(client)
    keys = [each.headers["idempotency-key"] for each in server.requests]
    assert keys[1] == keys[2] == keys[3] != keys[0]


@pytest.mark.parametrize("replayed", [True, False])
async def test_what_comes_again_is_exact(connect: Connect, replayed: bool) -> None:
    """Not so what was done anew: the first try may have done a part of it."""
    done = Answer(body=CHANGE, headers={"Idempotency-Replayed": "true"} if replayed else {})
    async with Scripted(RESET, done) as server, connect(server.port, idempotency=True) as client:
        assert await CHANGES(client) == Change(1, 1, exact=replayed)
    assert len(server.requests) == 2


async def test_a_first_try_under_way_is_waited_for(connect: Connect) -> None:
    """Looks at it are no tries: it may take longer than those, as where its process has died."""
    waiting = [problem(409, "idempotencyKeyInUse", Retry_After="0")] * 12
    known = Answer(body=RESERVED, echo_key=True)
    async with (
        Scripted(RESET, *waiting, known) as server,
        connect(server.port, idempotency=True, retries=RetryPolicy(tries=2, first_pause=0.01)) as client,
    ):
        await RESERVE(client)
    assert len(server.requests) == 14


async def test_but_not_forever(connect: Connect) -> None:
    policy = RetryPolicy(tries=2, seconds=0.3, first_pause=0.01)
    async with (
        Scripted(problem(409, "idempotencyKeyInUse", Retry_After="0")) as server,
        connect(server.port, idempotency=True, retries=policy) as client,
    ):
        with pytest.raises(ConflictError):
            await RESERVE(client)
    assert len(server.requests) > 2


async def test_keys_that_are_not_to_be_trusted(connect: Connect) -> None:
    known = Answer(body=RESERVED, echo_key=True)
    async with Scripted(known, RESET) as server, connect(server.port, idempotency=False) as client:
        await RESERVE(client)
        with pytest.raises(NoReplyError):
            await RESERVE(client)
    assert len(server.requests) == 2


async def test_retry_after_is_waited_for(connect: Connect) -> None:
    async with (
        Scripted(problem(503, "draining", Retry_After="1"), DONE[READ]) as server,
        connect(server.port) as client,
    ):
        began = time.monotonic()
        await READ(client)
    assert time.monotonic() - began >= 1


@pytest.mark.parametrize("wait", ["3600", "Fri, 31 Dec 2100 23:59:59 GMT"])
async def test_a_retry_after_beyond_the_time_is_not(connect: Connect, wait: str) -> None:
    async with (
        Scripted(problem(429, "tooManyRequests", Retry_After=wait)) as server,
        connect(server.port) as client,
    ):
        with pytest.raises(TooManyRequestsError) as refused:
            await READ(client)
    assert len(server.requests) == 1
    assert refused.value.retry_after is not None
    assert refused.value.retry_after >= 3600


async def test_tries_come_to_an_end(connect: Connect) -> None:
    async with Scripted(problem(503, "databaseUnavailable")) as server, connect(server.port) as client:
        with pytest.raises(UnavailableError):
            await READ(client)
    assert len(server.requests) == 5


async def test_the_time_for_a_call_comes_to_an_end(connect: Connect) -> None:
    policy = RetryPolicy(tries=10_000, seconds=0.5, first_pause=0.01, longest_pause=0.05)
    async with Scripted(RESET) as server, connect(server.port, retries=policy) as client:
        with pytest.raises(NoReplyError):
            await READ(client)
    assert 2 < len(server.requests) < 1000


async def test_a_reply_that_does_not_come(connect: Connect, proxy: Proxy, campaign: str) -> None:
    proxy.stall()
    async with connect(proxy.port, timeout=0.3) as client:
        with pytest.raises(NoReplyError, match="in time") as late:
            await client.reserve(campaign, "tm", 1)
    assert late.value.may_have_taken_effect


async def test_another_token_is_asked_for_once(connect: Connect) -> None:
    tokens = iter(["old", "new", "new", "new"])

    async def provider() -> str:
        return next(tokens)

    refused = problem(401, "unauthorized")
    async with Scripted(refused, DONE[RESERVE]) as server, connect(server.port, token=provider) as client:
        await RESERVE(client)
    assert [each.headers["authorization"] for each in server.requests] == ["Bearer old", "Bearer new"]


@pytest.mark.parametrize("token", ["fixed-secret", lambda: "fixed-secret"])
async def test_a_token_that_stays_wrong(connect: Connect, token: Any) -> None:
    async with Scripted(problem(401, "unauthorized")) as server, connect(server.port, token=token) as client:
        with pytest.raises(UnauthorizedError) as refused:
            await RESERVE(client)
    assert len(server.requests) == 1
    assert "fixed-secret" not in str(refused.value) + repr(refused.value)


def test_pauses_grow_are_random_and_are_bounded() -> None:
    policy = RetryPolicy(tries=2000, seconds=1000, first_pause=0.1, longest_pause=2)
    attempts = policy.start()
    pauses = [attempts.pause(None) for _ in range(1999)]
    assert attempts.pause(None) is None
    assert all(
        pause is not None and 0 <= pause <= min(2, 0.1 * 2 ** min(at, 9)) for at, pause in enumerate(pauses)
    )
    assert len(set(pauses)) == 1999
    with pytest.raises(ValueError, match="tries"):
        RetryPolicy(tries=0)

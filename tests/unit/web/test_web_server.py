"""What aiohttp answers by itself: brought into line by WebRunner, and seen here from a bare socket."""

import asyncio
import io
import logging
import sys
from collections.abc import AsyncIterator, Iterator

import orjson
import pytest
from aiohttp import web
from webroom import Reply, Service, bearer, metric_samples

from codesvc.observability.logs import configure_logging
from codesvc.web.server import WebRunner

pytest_plugins = ("webroom",)

AUTHORIZATION = f"Authorization: {bearer(ttl=3600)['Authorization']}"


@pytest.fixture
async def address(service: Service) -> AsyncIterator[tuple[str, int]]:
    runner = WebRunner(service.application())
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield runner.addresses[0]
    await runner.cleanup()


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    root.handlers[:] = []
    stream = io.StringIO()
    configure_logging("DEBUG", stream)
    yield stream
    root.handlers[:], root.level = before


async def talk(address: tuple[str, int], *lines: str, body: bytes = b"", head: bytes | None = None) -> Reply:
    """Send bytes as they are; read until the server closes."""
    reader, writer = await asyncio.open_connection(*address)
    writer.write("\r\n".join([*lines, "Connection: close", "", ""]).encode() + body if head is None else head)
    raw = await asyncio.wait_for(reader.read(), 20)
    writer.close()
    status, _, rest = raw.partition(b"\r\n")
    fields, _, content = rest.partition(b"\r\n\r\n")
    headers = dict(line.split(": ", 1) for line in fields.decode().split("\r\n"))
    return Reply(int(status.split()[1]), headers, content)


@pytest.mark.parametrize(
    "head",
    [
        b"GARBAGE\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer se\x01cret\r\n\r\n",
        b"GET /secret" + b"t" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX-Secret: secret" + b"t" * 9000 + b"\r\n\r\n",
        b"GET /secret HTTP/1.1\r\nHost: x\r\nContent-Length: secret\r\n\r\n",
        b"FROB /secret HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
)
async def test_what_is_not_http(
    address: tuple[str, int], service: Service, log: io.StringIO, head: bytes
) -> None:
    reply = await talk(address, head=head)
    assert (reply.status, reply.code) == (400, "badRequest")
    assert reply.headers["Server"] == "codesvc"
    assert b"secret" not in reply.body
    assert "secret" not in log.getvalue()
    samples = metric_samples(service.telemetry.render()[0].decode())
    assert samples['http_request_count{method="other",path="unmatched",status="400"}'] == 1


async def test_expectations_nobody_knows_are_passed_over(address: tuple[str, int]) -> None:
    assert (await talk(address, "GET /livez HTTP/1.1", "Host: x", "Expect: wonders")).status == 200
    reply = await talk(address, "GET /nothing HTTP/1.1", "Host: x", "Expect: wonders")
    assert (reply.status, reply.code) == (404, "notFound")


async def test_what_no_route_can_match(address: tuple[str, int]) -> None:
    reply = await talk(address, "OPTIONS * HTTP/1.1", "Host: x")
    assert (reply.status, reply.code) == (404, "notFound")
    reply = await talk(address, "OPTIONS * HTTP/1.1", "Host: x", "Expect: wonders")
    assert (reply.status, reply.code) == (417, "badRequest")


async def test_a_body_is_asked_for_only_when_it_will_be_read(address: tuple[str, int]) -> None:
    body = b'{"codes": ["A"]}'
    lines = ["Host: x", "Expect: 100-continue", f"Content-Length: {len(body)}"]
    refused = await talk(address, "POST /v1/1/assign HTTP/1.1", *lines, body=body)
    assert refused.code == "unauthorized"
    reader, writer = await asyncio.open_connection(*address)
    writer.write("\r\n".join(["POST /v1/1/assign HTTP/1.1", AUTHORIZATION, *lines, "", ""]).encode())
    async with asyncio.timeout(5):
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(body)
        assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
    writer.close()


async def test_too_large_a_body_is_refused_before_it_is_sent(address: tuple[str, int]) -> None:
    reader, writer = await asyncio.open_connection(*address)
    head = f"POST /v1/1/assign HTTP/1.1\r\nHost: x\r\n{AUTHORIZATION}\r\nContent-Length: 33554433\r\n\r\n"
    writer.write(head.encode())
    async with asyncio.timeout(5):
        assert (await reader.readline()).startswith(b"HTTP/1.1 413 ")
        assert b"Connection: close" in await reader.readuntil(b"\r\n\r\n")
    writer.close()


async def test_a_length_that_lies(address: tuple[str, int], log: io.StringIO) -> None:
    _, writer = await asyncio.open_connection(*address)
    head = f"POST /v1/1/assign HTTP/1.1\r\nHost: x\r\n{AUTHORIZATION}\r\nContent-Length: 100\r\n\r\n"
    writer.write(head.encode() + b'{"codes": ["SECRET"')
    await writer.drain()
    await asyncio.sleep(0.05)
    writer.close()
    await writer.wait_closed()
    async with asyncio.timeout(5):
        while "499" not in log.getvalue():  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0.01)
    assert "ERROR" not in log.getvalue()
    assert "SECRET" not in log.getvalue()


@pytest.mark.parametrize(
    ("encoding", "body"), [("gzip", b"not gzip"), ("gzip", b"\x1f\x8b\x08\x00"), ("deflate", b"\xff" * 9)]
)
async def test_a_body_that_cannot_be_decompressed(
    address: tuple[str, int], log: io.StringIO, encoding: str, body: bytes
) -> None:
    lines = [AUTHORIZATION, "Host: x", f"Content-Encoding: {encoding}", f"Content-Length: {len(body)}"]
    reply = await talk(address, "POST /v1/1/assign HTTP/1.1", *lines, body=body)
    assert (reply.status, reply.code) == (400, "invalidJson")
    assert "ERROR" not in log.getvalue()


async def test_chunks_that_are_none(address: tuple[str, int]) -> None:
    lines = [AUTHORIZATION, "Host: x", "Transfer-Encoding: chunked"]
    reply = await talk(address, "POST /v1/1/assign HTTP/1.1", *lines, body=b"ZZ\r\n")
    assert (reply.status, reply.code) == (400, "badRequest")


async def test_an_absolute_target_needs_a_token_too(address: tuple[str, int]) -> None:
    reply = await talk(address, "GET http://elsewhere/v1/1/codes/count?type=tm HTTP/1.1", "Host: x")
    assert (reply.status, reply.code) == (401, "unauthorized")


async def test_dot_segments_name_no_campaign(address: tuple[str, int]) -> None:
    reply = await talk(address, "GET /v1/../codes/count?type=tm HTTP/1.1", "Host: x", AUTHORIZATION)
    assert (reply.status, reply.code) == (400, "invalidCampaignId")


async def test_one_access_log_line_for_each_request(address: tuple[str, int], log: io.StringIO) -> None:
    await talk(
        address, "GET /v1/7/codes/count?type=tm HTTP/1.1", "Host: x", AUTHORIZATION, "X-Correlation-ID: c-1"
    )
    lines = [orjson.loads(line) for line in log.getvalue().splitlines()]
    (line,) = [line for line in lines if line["logger"] == "codesvc.access"]
    assert line["correlationId"] == "c-1"
    assert not [line for line in lines if line["logger"].startswith("aiohttp")]


def test_python_has_not_changed_sides() -> None:
    # The parser in C is what production runs, and its errors are what the tests above look at.
    assert "aiohttp._http_parser" in sys.modules

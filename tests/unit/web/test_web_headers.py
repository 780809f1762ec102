"""What every reply carries, whatever became of the request."""

import re

import pytest
from webroom import Client, Service, send

UUID4 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")

pytest_plugins = ("webroom",)

REQUESTS = [
    ("GET", "/v1/1/codes/count?type=tm", 200),
    ("GET", "/v1/1/codes/count", 400),
    ("GET", "/v1/1/reserve?type=tm&count=1", 200),
    ("HEAD", "/v1/1/reserve?type=tm&count=1", 405),
    ("POST", "/v1/1/assign", 415),
    ("GET", "/v1/nothing", 404),
    ("GET", "/nothing", 404),
    ("GET", "/heartbeat", 200),
    ("GET", "/metrics", 200),
    ("POST", "/readyz", 405),
    ("GET", "/openapi.json", 200),
    ("GET", "/docs", 200),
    ("GET", "/console", 200),
]


@pytest.mark.parametrize(("method", "path", "status"), REQUESTS)
async def test_every_reply(client: Client, method: str, path: str, status: int) -> None:
    reply = await send(client, method, path, headers={"X-Correlation-ID": "order-66/a:b+c=d@e.f_g~h"})
    assert reply.status == status
    assert reply.headers["X-Correlation-ID"] == "order-66/a:b+c=d@e.f_g~h"
    assert reply.headers["Server"] == "codesvc"
    if path.startswith("/v1"):
        assert reply.headers["Cache-Control"] == "no-store"
    made = await send(client, method, path)
    assert UUID4.fullmatch(made.headers["X-Correlation-ID"])


@pytest.mark.parametrize(
    "correlation", ["", "a b", "a,b", "x" * 129, "é", "a\tb", "<script>", '"x"', "a;b", "{}"]
)
async def test_correlation_ids_that_are_replaced(client: Client, correlation: str) -> None:
    reply = await send(client, "GET", "/v1/nothing", headers={"X-Correlation-ID": correlation})
    assert UUID4.fullmatch(reply.headers["X-Correlation-ID"])
    assert reply.json["correlationId"] == reply.headers["X-Correlation-ID"]


async def test_the_longest_correlation_id(client: Client) -> None:
    reply = await send(client, "GET", "/livez", headers={"X-Correlation-ID": "x" * 128})
    assert reply.headers["X-Correlation-ID"] == "x" * 128


async def test_requests_of_one_connection_have_their_own(client: Client) -> None:
    ids = {(await send(client, "GET", "/livez")).headers["X-Correlation-ID"] for _ in range(5)}
    assert len(ids) == 5


async def test_errors_and_refusals_carry_it_too(anonymous: Client, service: Service) -> None:
    reply = await send(anonymous, "GET", "/v1/1/reserve", headers={"X-Correlation-ID": "mine"})
    assert (reply.status, reply.headers["X-Correlation-ID"], reply.json["correlationId"]) == (
        401,
        "mine",
        "mine",
    )
    assert reply.headers["Cache-Control"] == "no-store"

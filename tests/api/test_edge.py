"""What every reply has in common: problems, headers, limits, and what is not HTTP at all."""

import gzip
import json
import re
import socket
import threading
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from .harness import Reply, Service, assert_counts, assert_problem, csv_of, make_codes, token
from .world import World

JSON = {"Content-Type": "application/json"}
MAX_BODY = 32 << 20

CAMPAIGN_ROUTES = [
    ("POST", "/v1/{c}/codes"),
    ("GET", "/v1/{c}/codes/count?type=tm"),
    ("GET", "/v1/{c}/reserve?count=1&type=tm"),
    ("POST", "/v1/{c}/reserve?count=1&type=tm"),
    ("POST", "/v1/{c}/assign"),
    ("POST", "/v1/{c}/release"),
]
OPEN_ROUTES = ["/metrics", "/heartbeat", "/livez", "/readyz", "/openapi.json", "/docs"]


def raw(service: Service, sent: bytes, *, close: bool = False) -> bytes:
    """Send bytes as they are; return all that comes back until the server closes or says no more."""
    with socket.create_connection(("127.0.0.1", service.port), timeout=3) as connection:
        connection.sendall(sent)
        if close:
            connection.shutdown(socket.SHUT_WR)
        received = b""
        try:
            while data := connection.recv(65536):
                received += data
                connection.settimeout(0.3)
        except TimeoutError:
            pass
        return received


def parsed(received: bytes) -> Reply:
    head, _, body = received.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = tuple((name, value.strip()) for name, _, value in (line.partition(":") for line in lines))
    return Reply(int(first.split()[1]), headers, body)


# Campaigns


@pytest.mark.parametrize(
    "campaign_id", ["1", "12345", "a.b_c~d-E9", "x" * 128, "-", "_", "~", "...", "%41%7e"]
)
def test_campaigns_that_are_fine(service: Service, campaign_id: str) -> None:
    assert service.get(f"/v1/{campaign_id}/codes/count?type=tm").status == 200


@pytest.mark.parametrize(
    "campaign_id",
    [
        "x" * 129,
        "a%20b",
        "%20",
        "a%2Fb",
        "a+b",
        "a:b",
        "a@b",
        "a$b",
        "%24ne",
        "%C3%A9",
        "%00",
        "a%0Ab",
        "a,b",
        "%ff",
        "a*",
        "a%25",
    ],
)
@pytest.mark.parametrize(("method", "target"), CAMPAIGN_ROUTES)
def test_campaigns_that_are_not(service: Service, method: str, target: str, campaign_id: str) -> None:
    body: Any = {"fileKey": "codes/1/tm/x.csv"} if target.endswith("/codes") else {"codes": ["x"]}
    if "reserve" in target or method == "GET":
        body = ...
    reply = service.request(method, target.format(c=campaign_id), json_body=body)
    assert_problem(reply, 400, "invalidCampaignId")


# What is not there, and what may not be done


@pytest.mark.parametrize(
    "target",
    [
        "/v1",
        "/v1/",
        "/v1/c",
        "/v1/c/",
        "/v1/c/codes/",
        "/v1/c/code",
        "/v1/c/codes/count/",
        "/v1/c/codes/count/x",
        "/v1/c/reserve/x",
        "/v1/c/reserves",
        "/v2/c/codes/count?type=tm",
        "/v1/c/d/codes/count?type=tm",
        "/v1/c/CODES/count?type=tm",
    ],
)
def test_unknown_paths_below_v1(service: Service, target: str) -> None:
    assert_problem(service.get(target), 404, "notFound")


@pytest.mark.parametrize(
    "target",
    ["/", "/nothing", "/favicon.ico", "/metrics/", "/metricsx", "/docs/none.js", "/dev", "/health", "/.env"],
)
def test_unknown_paths(service: Service, target: str) -> None:
    assert_problem(service.get(target), 404, "notFound")


@pytest.mark.parametrize(
    ("method", "target", "allowed"),
    [
        ("GET", "/v1/c/assign", {"POST"}),
        ("PUT", "/v1/c/assign", {"POST"}),
        ("GET", "/v1/c/release", {"POST"}),
        ("DELETE", "/v1/c/release", {"POST"}),
        ("PUT", "/v1/c/codes", {"GET", "POST"}),
        ("DELETE", "/v1/c/codes", {"GET", "POST"}),
        ("PATCH", "/v1/c/codes", {"GET", "POST"}),
        ("POST", "/v1/c/codes/count?type=tm", {"GET"}),
        ("DELETE", "/v1/c/codes/count?type=tm", {"GET"}),
        ("PUT", "/v1/c/reserve?count=1&type=tm", {"GET", "POST"}),
        ("DELETE", "/v1/c/reserve?count=1&type=tm", {"GET", "POST"}),
        ("OPTIONS", "/v1/c/reserve?count=1&type=tm", {"GET", "POST"}),
        ("POST", "/metrics", {"GET"}),
        ("DELETE", "/heartbeat", {"GET"}),
        ("POST", "/livez", {"GET"}),
        ("PUT", "/readyz", {"GET"}),
        ("POST", "/openapi.json", {"GET"}),
        ("POST", "/docs", {"GET"}),
    ],
)
def test_methods_that_are_not_allowed(service: Service, method: str, target: str, allowed: set[str]) -> None:
    reply = service.request(method, target, json_body={})
    assert_problem(reply, 405, "methodNotAllowed")
    told = {name.strip() for name in (reply.header("Allow") or "").split(",")}
    assert allowed <= told
    assert method not in told


@pytest.mark.parametrize("path", ["/heartbeat", "/livez", "/readyz"])
def test_health(service: Service, path: str) -> None:
    reply = service.get(path, auth=None)
    assert reply.status == 200
    assert reply.media_type == "application/json"
    assert reply.json() == {"status": "ok"}


# Bodies

POSTS = ["codes", "assign", "release"]


@pytest.mark.parametrize("action", POSTS)
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"{",
        b"}",
        b"[]",
        b'["a"]',
        b'"codes"',
        b"5",
        b"null",
        b"true",
        b"{'codes': ['A']}",
        b'{"codes": ["A"],}',
        b'{"codes": ["A"]} x',
        b'{"codes": ["A"]}{}',
        b'{"codes": ["A\xff"]}',
        b'{"codes": ["A\n"]}',
        b"\xff\xfe{\x00}\x00",
        b'{"codes": [NaN]}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"\x00",
        b'{"codes": ["A"], "fileKey": tru}',
    ],
)
def test_bodies_that_are_no_json_object(service: Service, campaign: str, action: str, body: bytes) -> None:
    reply = service.post(f"/v1/{campaign}/{action}", body=body, headers=JSON)
    assert_problem(reply, 400, "invalidJson")


@pytest.mark.parametrize("option", ["header", "strict"])
@pytest.mark.parametrize("value", ["true", 1, "yes", [], {}])
def test_options_that_are_no_booleans(world: World, campaign: str, option: str, value: Any) -> None:
    key = world.put(campaign, csv_of(make_codes(2)))
    reply = world.service.upload(key, **{option: value})
    assert_problem(reply, 400, {"invalidJson"})
    assert not world.stored(campaign)


@pytest.mark.parametrize("action", POSTS)
@pytest.mark.parametrize(
    "media_type",
    [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/xml",
        "application/octet-stream",
        "text/json",
        "application/jsonx",
        "json",
        "*/*",
    ],
)
def test_media_types_that_are_not_json(service: Service, campaign: str, action: str, media_type: str) -> None:
    body = json.dumps({"codes": ["A"], "fileKey": f"codes/{campaign}/tm/x.csv"}).encode()
    reply = service.post(f"/v1/{campaign}/{action}", body=body, headers={"Content-Type": media_type})
    assert_problem(reply, 415, "unsupportedMediaType")


@pytest.mark.parametrize(
    "media_type",
    [
        "application/json",
        "application/json; charset=utf-8",
        "Application/JSON",
        'application/json;charset="UTF-8"',
        "application/json ; x=y",
    ],
)
def test_media_types_that_are_json(service: Service, campaign: str, media_type: str) -> None:
    reply = service.post(
        f"/v1/{campaign}/assign", body=b'{"codes": ["A"]}', headers={"Content-Type": media_type}
    )
    assert reply.status == 200, reply


def test_the_largest_body(service: Service, campaign: str) -> None:
    start = b'{"codes": ["A"]'
    body = start + b" " * (MAX_BODY - len(start) - 1) + b"}"
    assert len(body) == MAX_BODY
    assert service.post(f"/v1/{campaign}/assign", body=body, headers=JSON).json() == {
        "count": {"in": 1, "updated": 0}
    }
    reply = service.post(f"/v1/{campaign}/assign", body=body + b" ", headers=JSON)
    assert_problem(reply, 413, "payloadTooLarge")


@pytest.mark.parametrize("action", POSTS)
def test_a_body_of_33_mebibytes(service: Service, campaign: str, action: str) -> None:
    reply = service.post(f"/v1/{campaign}/{action}", body=b" " * (33 << 20), headers=JSON)
    assert_problem(reply, 413, "payloadTooLarge")


def test_a_body_that_does_not_say_how_long_it_is(service: Service, campaign: str) -> None:
    def chunks() -> Iterator[bytes]:
        yield b'{"codes": ["A"'
        for _ in range(33):
            yield b" " * (1 << 20)
        yield b"]}"

    reply = service.post(f"/v1/{campaign}/assign", body=chunks(), headers=JSON)
    assert_problem(reply, 413, "payloadTooLarge")
    reply = service.post(f"/v1/{campaign}/assign", body=iter([b'{"codes": ', b'["A"]}']), headers=JSON)
    assert reply.json() == {"count": {"in": 1, "updated": 0}}


def test_a_compressed_body_may_not_be_larger_either(service: Service, campaign: str) -> None:
    """33 MiB of blanks make 32 KiB of gzip: what counts is what the service has to hold."""
    headers = {**JSON, "Content-Encoding": "gzip"}
    body = gzip.compress(b'{"codes": ["A"]' + b" " * (33 << 20) + b"}")
    reply = service.post(f"/v1/{campaign}/assign", body=body, headers=headers)
    assert reply.status in {413, 415}, reply
    assert_problem(reply, reply.status, {"payloadTooLarge", "unsupportedMediaType"})


def test_a_body_that_is_announced_too_long_and_never_sent(service: Service, campaign: str) -> None:
    head = (
        f"POST /v1/{campaign}/assign HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token()}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {MAX_BODY + 1}\r\n\r\n"
    )
    assert_problem(parsed(raw(service, head.encode())), 413, "payloadTooLarge")


def test_a_body_may_wait_for_100_continue(service: Service, campaign: str) -> None:
    body = b'{"codes": ["A"]}'
    head = (
        f"POST /v1/{campaign}/assign HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token()}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\nExpect: 100-continue\r\n"
        "Connection: close\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", service.port), timeout=10) as connection:
        connection.sendall(head.encode())
        assert connection.recv(65536).startswith(b"HTTP/1.1 100")
        connection.sendall(body)
        received = b""
        while data := connection.recv(65536):
            received += data
    assert parsed(received).status == 200


def test_members_that_nobody_knows_do_no_harm(world: World, campaign: str) -> None:
    codes = make_codes(2)
    key = world.put(campaign, csv_of(codes))
    reply = world.service.upload(key, comment="ours")
    if reply.status == 200:
        assert_counts(reply, 2, 2, 0)
    else:
        assert_problem(reply, 400, "invalidJson")
        assert not world.stored(campaign)


# Headers


def requests() -> list[tuple[str, str, str, dict[str, Any], int]]:
    """One request for every kind of reply: name, method, target, options, status."""
    good = {"json_body": {"codes": ["A"]}}
    return [
        ("count", "GET", "/v1/c/codes/count?type=tm", {}, 200),
        ("reserve", "GET", "/v1/c/reserve?count=1&type=tm", {}, 200),
        ("reserve by POST", "POST", "/v1/c/reserve?count=1&type=tm", {}, 200),
        ("assign", "POST", "/v1/c/assign", good, 200),
        ("release", "POST", "/v1/c/release", good, 200),
        ("invalidJson", "POST", "/v1/c/assign", {"body": b"{", "headers": JSON}, 400),
        ("invalidType", "GET", "/v1/c/codes/count?type=x", {}, 400),
        ("invalidCampaignId", "GET", "/v1/%20/codes/count?type=tm", {}, 400),
        ("unauthorized", "GET", "/v1/c/codes/count?type=tm", {"auth": None}, 401),
        ("supremeUserRequired", "POST", "/v1/c/codes", {"auth": f"Bearer {token(isSupreme=False)}"}, 401),
        ("notFound", "GET", "/v1/c/nothing", {}, 404),
        ("fileNotFound", "POST", "/v1/c/codes", {"json_body": {"fileKey": "codes/c/tm/none"}}, 404),
        ("methodNotAllowed", "PUT", "/v1/c/codes", {}, 405),
        ("HEAD", "HEAD", "/v1/c/reserve?count=1&type=tm", {}, 405),
        ("payloadTooLarge", "POST", "/v1/c/assign", {"body": b" " * (33 << 20), "headers": JSON}, 413),
        (
            "unsupportedMediaType",
            "POST",
            "/v1/c/assign",
            {"body": b"{}", "headers": {"Content-Type": "a/b"}},
            415,
        ),
        ("metrics", "GET", "/metrics", {}, 200),
        ("heartbeat", "GET", "/heartbeat", {}, 200),
        ("livez", "GET", "/livez", {}, 200),
        ("readyz", "GET", "/readyz", {}, 200),
        ("openapi", "GET", "/openapi.json", {}, 200),
        ("docs", "GET", "/docs", {}, 200),
        ("dev token", "GET", "/dev/token", {}, 404),
        ("not found outside", "GET", "/nothing", {}, 404),
        ("not allowed outside", "POST", "/metrics", {}, 405),
    ]


@pytest.mark.parametrize("case", requests(), ids=lambda case: str(case[0]))
def test_every_reply_has_a_correlation_id(service: Service, case: tuple[Any, ...]) -> None:
    _, method, target, options, status = case
    sent = f"test-{uuid.uuid4().hex}"
    headers = {**options.get("headers", {}), "X-Correlation-ID": sent}
    reply = service.request(method, target, **{**options, "headers": headers})
    assert reply.status == status, reply
    assert reply.header("X-Correlation-ID") == sent
    if status >= 400 and method != "HEAD":
        assert reply.json()["correlationId"] == sent
    lines = service.log_lines_of(sent)
    assert lines, "no line of the log has the correlation ID"
    made = [service.request(method, target, **options).header("X-Correlation-ID") for _ in range(2)]
    assert all(made)
    assert made[0] != made[1]


@pytest.mark.parametrize(
    "case", [case for case in requests() if case[2].startswith("/v1")], ids=lambda case: str(case[0])
)
def test_no_reply_of_v1_is_stored(service: Service, case: tuple[Any, ...]) -> None:
    _, method, target, options, status = case
    reply = service.request(method, target, **options)
    assert reply.status == status
    assert reply.header("Cache-Control") == "no-store"


@pytest.mark.parametrize("status", [200, 404, 422])
def test_uploads_have_the_headers_too(world: World, campaign: str, status: int) -> None:
    key = world.put(campaign, b"A\x01\n" if status == 422 else csv_of(make_codes(1)))
    if status == 404:
        key += "x"
    reply = world.service.upload(key, strict=True)
    assert reply.status == status
    assert reply.header("Cache-Control") == "no-store"
    assert reply.header("X-Correlation-ID")


@pytest.mark.parametrize(
    "sent",
    [
        "",
        " ",
        "x" * 5000,
        'quote"',
        "back\\slash",
        "{json}",
        "caf\u00e9",
        "tab\there",
        "<script>",
        "\x7f",
    ],
)
def test_odd_correlation_ids(service: Service, sent: str) -> None:
    """Taken over or replaced, but never a fault, and the log stays one JSON object a line."""
    reply = service.get("/v1/c/codes/count?type=tm", headers={"X-Correlation-ID": sent})
    assert reply.status in {200, 400}
    assert reply.header("X-Correlation-ID")
    service.check_log()


def test_the_contracts_media_types(service: Service, campaign: str) -> None:
    reply = service.get(f"/v1/{campaign}/codes/count?type=tm")
    assert reply.media_type == "application/json"
    assert service.get("/metrics").media_type == "text/plain"
    assert service.get("/openapi.json").media_type == "application/json"
    assert service.get("/docs").media_type == "text/html"


def test_problems_have_types_and_titles_of_their_own(service: Service) -> None:
    problems = [
        service.request(case[1], case[2], **case[3]).json()
        for case in requests()
        if case[4] >= 400 and case[1] != "HEAD" and case[0] != "payloadTooLarge"
    ]
    for problem in problems:
        assert re.match(r"^(https?:|urn:|/|about:blank)", problem["type"])
    by_code = {problem["code"]: (problem["type"], problem["title"]) for problem in problems}
    for problem in problems:
        assert by_code[problem["code"]] == (problem["type"], problem["title"]), "RFC 9457, section 3.1.4"


def test_traceparent_is_honoured(service: Service) -> None:
    trace = uuid.uuid4().hex
    correlation = uuid.uuid4().hex
    headers = {"traceparent": f"00-{trace}-00f067aa0ba902b7-01", "X-Correlation-ID": correlation}
    assert service.get("/v1/c/codes/count?type=tm", headers=headers).status == 200
    lines = service.log_lines_of(correlation)
    assert lines
    assert all(trace in line.values() for line in lines), lines


@pytest.mark.parametrize(
    "header",
    [
        "",
        "rubbish",
        "00-" + "0" * 32 + "-00f067aa0ba902b7-01",
        "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01-extra",
        "x" * 4000,
    ],
)
def test_a_traceparent_that_is_none(service: Service, header: str) -> None:
    reply = service.get("/v1/c/codes/count?type=tm", headers={"traceparent": header})
    assert reply.status == 200


# What is not HTTP


@pytest.mark.parametrize(
    "sent",
    [
        b"\r\n\r\n\x00",
        b"rubbish\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /readyz HTTP/1.1\r\nHost: x\r\nbad header\r\n\r\n",
        b"GET /readyz HTTP/1.1\r\nHost: x\r\nX: \x00\r\n\r\n",
        b"POST /v1/c/assign HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n",
        b"POST /v1/c/assign HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 40 + b"\r\n\r\n",
        b"GET /readyz HTTP/1.1\r\nHost: x\r\nX-Big: " + b"y" * 100_000 + b"\r\n\r\n",
        b"GET /" + b"y" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"BREW /readyz HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
)
def test_what_is_not_http(service: Service, sent: bytes) -> None:
    received = raw(service, sent)
    assert received.startswith(b"HTTP/1."), received[:200]
    reply = parsed(received)
    assert 400 <= reply.status < 500
    assert reply.media_type == "application/problem+json"
    problem = json.loads(reply.body)
    assert {"type", "title", "status", "detail", "code", "correlationId"} <= set(problem)
    assert problem["status"] == reply.status
    assert problem["correlationId"] == reply.header("X-Correlation-ID")
    assert "yyyy" not in reply.body.decode()
    service.check_log()
    assert service.get("/livez").status == 200


@pytest.mark.parametrize(
    "chunks", [b"zz\r\nrubbish", b"5\r\nab\r\n0\r\n\r\n", b"-1\r\n\r\n", b"ffffffffffffffffff\r\nx"]
)
def test_a_chunked_body_that_is_broken(service: Service, chunks: bytes) -> None:
    head = (
        f"POST /v1/c/assign HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token()}\r\n"
        "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    received = raw(service, head.encode() + chunks, close=True)
    if received:
        reply = parsed(received)
        assert reply.status == 400
        assert reply.header("X-Correlation-ID")
        assert reply.media_type == "application/problem+json"
    assert service.get("/livez").status == 200


def test_many_requests_on_one_connection(service: Service) -> None:
    one = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
    last = b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    received = raw(service, one * 9 + last)
    assert received.count(b"HTTP/1.1 200 OK") == 10


def test_http_1_0(service: Service) -> None:
    reply = parsed(raw(service, b"GET /livez HTTP/1.0\r\n\r\n"))
    assert reply.status == 200
    assert json.loads(reply.body) == {"status": "ok"}


def test_clients_that_go_away_in_the_middle(world: World, campaign: str) -> None:
    """A client that hangs up changes nothing of what its request does."""
    codes = make_codes(50)
    world.stock(campaign, codes)
    body = json.dumps({"codes": codes}).encode()
    head = (
        f"POST /v1/{campaign}/assign HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token()}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode()
    for cut in (10, len(head) - 2, len(head) + 20):
        with socket.create_connection(("127.0.0.1", world.service.port), timeout=5) as connection:
            connection.sendall((head + body)[:cut])
    assert world.service.count(campaign)["available"] == 50

    def hang_up() -> None:
        with socket.create_connection(("127.0.0.1", world.service.port), timeout=5) as connection:
            connection.sendall(head + body)

    threads = [threading.Thread(target=hang_up) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert world.service.change(campaign, "assign", codes)["in"] == 50
    assert world.service.count(campaign) == {"available": 0, "reserved": 0, "assigned": 50}

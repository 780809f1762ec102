"""Requests that two parsers read differently: what a proxy took for one must not be two here, nor two one."""

import socket
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from .harness import Service, eventually, token

BODY = '{"codes": ["A"]}'
CHUNK = f"{len(BODY):x}\r\n{BODY}\r\n0\r\n\r\n"
LONG = f"Content-Length: {len(BODY)}\r\n"
CHUNKED = "Transfer-Encoding: chunked\r\n"

REFUSED_FRAMINGS = {
    "both, chunked first": (CHUNKED + LONG, CHUNK),
    "both, length first": ("Content-Length: 5\r\n" + CHUNKED, CHUNK),
    "two lengths": (LONG + "Content-Length: 0\r\n", BODY),
    "the same length twice": (LONG * 2, BODY),
    "a list of lengths": (f"Content-Length: {len(BODY)}, {len(BODY)}\r\n", BODY),
    "a length with its sign": (f"Content-Length: +{len(BODY)}\r\n", BODY),
    "a negative length": ("Content-Length: -1\r\n", BODY),
    "a hexadecimal length": ("Content-Length: 0x10\r\n", BODY),
    "a length as Python writes it": ("Content-Length: 1_6\r\n", BODY),
    "a length beyond 64 bits": ("Content-Length: 18446744073709551632\r\n", BODY),
    "an empty length": ("Content-Length: \r\n", BODY),
    "a blank before the colon of a length": (f"Content-Length : {len(BODY)}\r\n", BODY),
    "a blank before the colon of a coding": ("Transfer-Encoding : chunked\r\n", CHUNK),
    "a coding that is none": ("Transfer-Encoding: xchunked\r\n", CHUNK),
    "chunked and then something else": ("Transfer-Encoding: chunked, identity\r\n", CHUNK),
    "a second coding": (CHUNKED + "Transfer-Encoding: identity\r\n", CHUNK),
    "a vertical tab before a coding": ("Transfer-Encoding: \x0bchunked\r\n", CHUNK),
    "a quoted coding": ('Transfer-Encoding: "chunked"\r\n', CHUNK),
    "a coding on a folded line": ("Transfer-Encoding:\r\n chunked\r\n", CHUNK),
    "a folded line": ("X-A: b\r\n Content-Length: 5\r\n", BODY),
    "a length after a bare CR": (f"X-A: b\rContent-Length: {len(BODY)}\r\n", BODY),
    "a length after a bare LF": (f"X-A: b\nContent-Length: {len(BODY)}\r\n", BODY),
    "a NUL": ("X-A: b\x00\r\n" + LONG, BODY),
    "a header without a name": (": b\r\n" + LONG, BODY),
    "a header without a colon": ("Content-Length\r\n", BODY),
    "a second host": ("Host: other.example\r\n" + LONG, BODY),
    "an extension with a bare LF": (CHUNKED, f"{len(BODY):x};a\nb\r\n{BODY}\r\n0\r\n\r\n"),
    "chunks with bare LFs": (CHUNKED, f"{len(BODY):x}\n{BODY}\n0\n\n"),
    "a blank after a chunk's size": (CHUNKED, f"{len(BODY):x} \r\n{BODY}\r\n0\r\n\r\n"),
    "a chunk's size with 0x": (CHUNKED, f"0x{len(BODY):x}\r\n{BODY}\r\n0\r\n\r\n"),
    "a chunk's size with a sign": (CHUNKED, f"+{len(BODY):x}\r\n{BODY}\r\n0\r\n\r\n"),
    "a chunk's size as Python writes it": (CHUNKED, f"1_0\r\n{BODY}\r\n0\r\n\r\n"),
    "a chunk's size beyond 64 bits": (CHUNKED, f"1{'0' * 15}{len(BODY):x}\r\n{BODY}\r\n0\r\n\r\n"),
    "a chunk that is longer than it says": (CHUNKED, f"{len(BODY):x}\r\n{BODY}XX\r\n0\r\n\r\n"),
    "trailers without end": (CHUNKED, f"{len(BODY):x}\r\n{BODY}\r\n0\r\n" + "X-A: b\r\n" * 20_000 + "\r\n"),
}
TAKEN_FRAMINGS = {
    "a length": (LONG, BODY),
    "a length with blanks around": (f"Content-Length: \t{len(BODY)} \r\n", BODY),
    "chunks": (CHUNKED, CHUNK),
    "a coding in capitals": ("Transfer-Encoding:\tCHUNKED\r\n", CHUNK),
    "two chunks": (CHUNKED, f"1\r\n{BODY[0]}\r\n{len(BODY) - 1:X}\r\n{BODY[1:]}\r\n0\r\n\r\n"),
    "an extension": (CHUNKED, f"{len(BODY):x};name=value\r\n{BODY}\r\n0;a\r\n\r\n"),
    "leading zeros": (CHUNKED, f"000{len(BODY):x}\r\n{BODY}\r\n000\r\n\r\n"),
}
REFUSED_HEADS = {
    "bare LFs": b"GET /livez HTTP/1.1\nHost: x\n\n",
    "no host": b"GET /livez HTTP/1.1\r\n\r\n",
    "two hosts": b"GET /livez HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
    "tabs in the request line": b"GET\t/livez\tHTTP/1.1\r\nHost: x\r\n\r\n",
    "something after the version": b"GET /livez HTTP/1.1 x\r\nHost: x\r\n\r\n",
    "a method in small letters": b"get /livez HTTP/1.1\r\nHost: x\r\n\r\n",
    "a blank before a header": b"GET /livez HTTP/1.1\r\nHost: x\r\n X: y\r\n\r\n",
    "a NUL in the address": b"GET /livez\x00 HTTP/1.1\r\nHost: x\r\n\r\n",
    "bytes beyond ASCII in the address": b"GET /\xc3\xa9 HTTP/1.1\r\nHost: x\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "thousands of headers": b"GET /livez HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * 20_000 + b"\r\n",
}


@contextmanager
def talking(service: Service) -> Iterator[Callable[[bytes], bytes]]:
    """Give a function that sends bytes as they are and returns all that comes until the server closes."""
    with socket.create_connection(("127.0.0.1", service.port), timeout=20) as connection:

        def talk(sent: bytes) -> bytes:
            received = b""
            try:
                connection.sendall(sent)
                while data := connection.recv(65536):
                    received += data
            except (ConnectionResetError, BrokenPipeError):
                # What was refused is not read to its end.
                pass
            return received

        yield talk


def hidden_request(correlation: str) -> str:
    return (
        f"GET /v1/c/codes/count?type=tm HTTP/1.1\r\nHost: x\r\nX-Correlation-ID: {correlation}\r\n"
        f"Authorization: Bearer {token()}\r\nConnection: close\r\n\r\n"
    )


def post(headers: str, body: str, *, hidden: str, close: bool = False) -> bytes:
    head = (
        f"POST /v1/c/assign HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token()}\r\n"
        f"Content-Type: application/json\r\n{'Connection: close' if close else 'X-A: b'}\r\n"
    )
    return f"{head}{headers}\r\n{body}{hidden}".encode("latin-1")


def assert_never_served(service: Service, correlation: str) -> None:
    """The log is written in order: what was served before a later request stands before it."""
    later = uuid.uuid4().hex
    service.get("/livez", headers={"X-Correlation-ID": later})
    assert eventually(lambda: service.log_lines_of(later), limit=5)
    assert correlation not in service.log.read_text()


@pytest.mark.parametrize("case", REFUSED_FRAMINGS)
def test_a_body_whose_end_is_in_doubt(service: Service, case: str) -> None:
    """One refusal, the end of the connection, and nothing of what follows is taken for a request."""
    headers, body = REFUSED_FRAMINGS[case]
    correlation = f"hidden-{uuid.uuid4().hex}"
    with talking(service) as talk:
        received = talk(post(headers, body, hidden=hidden_request(correlation)))
    assert received.count(b"HTTP/1.") <= 1, received
    assert received == b"" or received.split(b" ", 2)[1] == b"400", received[:300]
    assert_never_served(service, correlation)


@pytest.mark.parametrize("case", TAKEN_FRAMINGS)
def test_a_body_whose_end_is_certain(service: Service, case: str) -> None:
    """What follows is the next request, and is served as such."""
    headers, body = TAKEN_FRAMINGS[case]
    correlation = f"next-{uuid.uuid4().hex}"
    with talking(service) as talk:
        received = talk(post(headers, body, hidden=hidden_request(correlation)))
    assert received.count(b"HTTP/1.1 200 OK") == 2, received
    assert b'{"count":{"in":1,"updated":0}}' in received
    assert correlation.encode() in received


@pytest.mark.parametrize("case", REFUSED_HEADS)
def test_a_head_that_is_in_doubt(service: Service, case: str) -> None:
    correlation = f"hidden-{uuid.uuid4().hex}"
    with talking(service) as talk:
        received = talk(REFUSED_HEADS[case] + hidden_request(correlation).encode())
    assert received.count(b"HTTP/1.") <= 1, received
    assert received == b"" or received.split(b" ", 2)[1] == b"400", received[:300]
    assert_never_served(service, correlation)


def test_the_body_of_a_get_is_no_request(service: Service) -> None:
    correlation = f"hidden-{uuid.uuid4().hex}"
    hidden = hidden_request(correlation)
    head = (
        f"GET /v1/c/codes/count?type=tm HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token()}\r\n"
        f"Connection: close\r\nContent-Length: {len(hidden)}\r\n\r\n"
    )
    with talking(service) as talk:
        received = talk((head + hidden).encode())
    assert received.count(b"HTTP/1.1 ") == 1
    assert_never_served(service, correlation)


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_a_refusal_without_a_token_reads_the_body_as_a_body(service: Service, version: str) -> None:
    """Who is refused before the body was read must not have it read as the next request."""
    correlation = f"hidden-{uuid.uuid4().hex}"
    hidden = hidden_request(correlation)
    head = (
        f"POST /v1/c/assign HTTP/{version}\r\nHost: x\r\nConnection: keep-alive\r\n"
        f"Content-Length: {len(hidden)}\r\n\r\n"
    )
    last = "GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    with talking(service) as talk:
        received = talk((head + hidden + last).encode())
    assert b" 401 " in received.split(b"\r\n", 1)[0]
    assert received.count(b"HTTP/1.") <= 2
    assert_never_served(service, correlation)


def test_a_request_may_not_change_its_connection(service: Service) -> None:
    """No upgrade, no tunnel, no trace: what comes back is HTTP/1.1, and repeats nothing of the request."""
    upgrade = (
        b"Connection: Upgrade, HTTP2-Settings, close\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n"
    )
    for line, headers, status in (
        (b"GET /livez", upgrade, b"200"),
        (b"GET /livez", b"Connection: Upgrade, close\r\nUpgrade: websocket\r\n", b"200"),
        (b"CONNECT elsewhere:80", b"Connection: close\r\n", b"404"),
        (b"TRACE /livez", b"Connection: close\r\nX-Secretly: secretly\r\n", b"405"),
    ):
        with talking(service) as talk:
            received = talk(line + b" HTTP/1.1\r\nHost: x\r\n" + headers + b"\r\n")
        assert received.split(b" ", 2)[1] == status, received
        assert b"secretly" not in received.lower()
        assert b"upgrade" not in received.lower()


@pytest.mark.parametrize("host", ["evil.example", "evil.example:1", "x/../y", "a b<script>", "[::1", ""])
def test_the_host_decides_nothing(service: Service, host: str) -> None:
    """No reply names an address made of what a caller says the service is called."""
    spoofed = f"X-Forwarded-Host: {host}\r\nForwarded: host={host}\r\nX-Forwarded-Proto: {host}\r\n"
    for path in ("/docs", "/openapi.json", "/v1/c/codes/count?type=tm", "/nothing"):
        request = f"GET {path} HTTP/1.1\r\nHost: {host}\r\n{spoofed}Authorization: Bearer {token()}\r\n"
        with talking(service) as talk:
            received = talk(f"{request}Connection: close\r\n\r\n".encode())
        assert received.split(b" ", 2)[1] in {b"200", b"404", b"400"}, received[:200]
        assert not host or host.encode() not in received


def test_headers_that_would_change_the_method_or_the_address(service: Service) -> None:
    headers = {
        "X-HTTP-Method-Override": "DELETE",
        "X-HTTP-Method": "DELETE",
        "X-Method-Override": "DELETE",
        "X-Original-URL": "/metrics",
        "X-Rewrite-URL": "/metrics",
    }
    reply = service.get("/v1/c/codes/count?type=tm&_method=DELETE", headers=headers)
    assert set(reply.json()) == {"available", "reserved", "assigned"}
    reply = service.get("/v1/c/codes/count?type=tm", headers=headers, auth=None)
    assert reply.status == 401


def test_of_two_tokens_the_first_is_judged(service: Service) -> None:
    for tokens, status in (((token(), "x"), b"200"), (("x", token()), b"401")):
        lines = "".join(f"Authorization: Bearer {each}\r\n" for each in tokens)
        request = f"GET /v1/c/codes/count?type=tm HTTP/1.1\r\nHost: x\r\n{lines}Connection: close\r\n\r\n"
        with talking(service) as talk:
            assert talk(request.encode()).split(b" ", 2)[1] == status

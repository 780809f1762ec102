"""The callers of the benchmarks send what they are told to and no more, and see who came away short."""

import json
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from benchmarks.callers import Load, Reply, call, request, tally
from benchmarks.processes import RequestError

LONG = "x" * 1_000_000


class Server(ThreadingHTTPServer):
    """Answers every request with the path and the body that it got, and remembers who sent what."""

    daemon_threads = True
    seen: Counter[tuple[str, int]]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        assert isinstance(self.server, Server)
        self.server.seen[self.path, self.client_address[1]] += 1
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/close":
            self.close_connection = True
            return
        content = json.dumps({"token": self.headers["Authorization"], "body": body.decode()}).encode()
        self.send_response(503 if self.path == "/fail" else 200)
        if self.path != "/endless":
            self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as running:
        running.seen = Counter()
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def test_callers_share_so_many_requests_and_keep_their_connections(server: Server) -> None:
    message = request("POST", "/ok", token="t", body=LONG)
    load = call(server.server_port, message, callers=3, requests=20)
    assert [reply.body for reply in load.replies] == 20 * [{"token": "Bearer t", "body": f'"{LONG}"'}]
    assert load.failures == 0
    assert len(server.seen) == 3
    assert server.seen.total() == 20
    assert 0 < load.percentile(50) <= load.percentile(99) <= load.seconds


def test_there_are_no_more_callers_than_requests(server: Server) -> None:
    assert len(call(server.server_port, request("POST", "/ok", token=""), callers=9, requests=2).replies) == 2
    assert len(server.seen) == 2


def test_callers_go_on_until_the_time_is_over(server: Server) -> None:
    load = call(server.server_port, request("POST", "/ok", token=""), callers=2, seconds=0.2)
    assert 0.2 <= load.seconds < 5
    assert len(load.replies) == server.seen.total() > 2


def test_an_error_is_a_failure(server: Server) -> None:
    load = call(server.server_port, request("POST", "/fail", token=""), requests=2)
    assert load.failures == 2
    lent = tally(load, wanted=10)
    assert (lent.short, lent.consistent) == (2, False)


@pytest.mark.parametrize("path", ["/close", "/endless"])
def test_a_reply_that_cannot_be_read_ends_the_load(server: Server, path: str) -> None:
    with pytest.raises(RequestError):
        call(server.server_port, request("POST", path, token=""), requests=1)


def test_what_was_lent_is_counted() -> None:
    lent = tally(replies([*"abc"], [*"bd"], [], [*"bef"]), wanted=3)
    assert lent.codes == [*"abcbdbef"]
    assert lent.sizes == [3, 2, 0, 3]
    assert (lent.short, lent.twice, lent.consistent) == (2, 2, True)


@pytest.mark.parametrize("change", [{"count": 1}, {"reserveId": "another"}])
def test_a_reply_that_contradicts_itself_is_noticed(change: dict[str, Any]) -> None:
    (reply,) = replies([*"ab"]).replies
    assert not tally(load({**reply.body, **change}), wanted=2).consistent


def replies(*codes: list[str]) -> Load:
    return load(
        *(
            {
                "reserveId": str(number),
                "codes": [{"code": code, "reserveId": str(number)} for code in some],
                "count": len(some),
            }
            for number, some in enumerate(codes)
        )
    )


def load(*bodies: dict[str, Any]) -> Load:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n"
    return Load([Reply(0.001, head + json.dumps(body).encode()) for body in bodies], 0.001)

"""Callers that cost next to nothing: each has a connection of its own, and sends its next request after every reply.

Replies are kept as they came. They are read after the clock has stopped: what that costs is nobody's speed.
"""

import json
import selectors
import socket
import time
from collections import Counter, deque
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from statistics import quantiles
from typing import Any, Final

from benchmarks.processes import RequestError

_SILENCE_SECONDS: Final = 60.0
_PIECE: Final = 1 << 18


@dataclass(frozen=True)
class Reply:
    """A whole response, head and body, and how many seconds it took from the request on."""

    seconds: float
    raw: bytes

    @property
    def status(self) -> int:
        """The status code."""
        return int(self.raw.split(b" ", 2)[1])

    @cached_property
    def body(self) -> Any:
        """The body, read as JSON."""
        return json.loads(self.raw.partition(b"\r\n\r\n")[2])


@dataclass(frozen=True, slots=True)
class Load:
    """What callers got: the replies in the order in which they came, and the seconds until the last."""

    replies: Sequence[Reply]
    seconds: float

    @property
    def failures(self) -> int:
        """How many replies were anything but 200."""
        return sum(reply.status != 200 for reply in self.replies)

    def percentile(self, percent: int) -> float:
        """Return the seconds within which so many of a hundred requests were answered."""
        seconds = [reply.seconds for reply in self.replies]
        return quantiles(seconds, n=100, method="inclusive")[percent - 1] if len(seconds) > 1 else seconds[0]


@dataclass(frozen=True, slots=True)
class Lent:
    """What a load of reserves lent: every code of every reply, and what was wrong with them.

    Attributes:
        codes: all of them, in the order of the replies.
        sizes: how many came in each reply.
        short: replies with fewer codes than were asked for, errors included.
        twice: codes beyond the first of their name.
        consistent: whether every reply was 200, and said of itself what was in it.

    """

    codes: Sequence[str]
    sizes: Sequence[int]
    short: int
    twice: int
    consistent: bool


def request(method: str, path: str, *, token: str, body: object = None) -> bytes:
    """Encode an HTTP/1.1 request (RFC 9112)."""
    content = b"" if body is None else json.dumps(body, separators=(",", ":")).encode()
    head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {token}\r\n"
    if method != "GET":
        head += f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n"
    return head.encode() + b"\r\n" + content


def call(
    port: int,
    message: bytes,
    *,
    callers: int = 1,
    seconds: float = 0.0,
    requests: int | None = None,
    pause: float = 0.0,
) -> Load:
    """Let callers send the same request, so many times together, or until so many seconds have passed.

    Whoever gets anything but a 200 asks again after ``pause`` seconds.

    Raises:
        RequestError: the server closed a connection, was silent for a minute, or sent a reply without its length.

    """
    with ExitStack() as stack:
        selector = stack.enter_context(selectors.DefaultSelector())
        lines = []
        for _ in range(callers if requests is None else min(callers, requests)):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            lines.append(_Line(connection))
            selector.register(connection, selectors.EVENT_READ, lines[-1])
        replies: list[Reply] = []
        resting: deque[tuple[float, _Line]] = deque()
        waiting, sent = len(lines), len(lines)
        started = now = time.perf_counter()
        for line in lines:
            line.send(message)
        while waiting:
            rest = resting[0][0] - time.perf_counter() if resting else _SILENCE_SECONDS
            ready = selector.select(max(0.0, rest))
            if not ready and not resting:
                raise RequestError(f"no reply within {_SILENCE_SECONDS:.0f} s")
            for key, _ in ready:
                reply = key.data.receive()
                if reply is None:
                    continue
                replies.append(reply)
                now = time.perf_counter()
                if now - started < seconds if requests is None else sent < requests:
                    sent += 1
                    if pause and reply.status != 200:
                        resting.append((now + pause, key.data))
                    else:
                        key.data.send(message)
                else:
                    waiting -= 1
            while resting and resting[0][0] <= time.perf_counter():
                resting.popleft()[1].send(message)
        return Load(replies, now - started)


def tally(load: Load, *, wanted: int) -> Lent:
    """Read the replies of reserves that asked for ``wanted`` codes each."""
    codes: list[str] = []
    sizes: list[int] = []
    consistent = True
    for reply in load.replies:
        body = reply.body if reply.status == 200 else {}
        lent = body.get("codes", [])
        consistent &= body.get("count") == len(lent)
        consistent &= all(code["reserveId"] == body["reserveId"] for code in lent)
        codes += [code["code"] for code in lent]
        sizes.append(len(lent))
    return Lent(
        codes,
        sizes,
        short=sum(size < wanted for size in sizes),
        twice=sum(times - 1 for times in Counter(codes).values()),
        consistent=consistent,
    )


class _Line:
    """One connection with one request under way."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._received = bytearray()
        self._expected = 0
        self._sent = 0.0

    def send(self, message: bytes) -> None:
        self._sent = time.perf_counter()
        self._connection.sendall(message)

    def receive(self) -> Reply | None:
        """Read what has come; return the reply once it is whole."""
        piece = self._connection.recv(_PIECE)
        if not piece:
            raise RequestError("the server closed the connection")
        self._received += piece
        if not self._expected:
            head, ended, _ = self._received.partition(b"\r\n\r\n")
            if not ended:
                return None
            self._expected = len(head) + len(ended) + _content_length(bytes(head))
        if len(self._received) < self._expected:
            return None
        reply = Reply(time.perf_counter() - self._sent, bytes(self._received))
        self._received.clear()
        self._expected = 0
        return reply


def _content_length(head: bytes) -> int:
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    raise RequestError("a reply without its length")

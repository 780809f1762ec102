"""The connections of callers: not too many of them, and none for long whose caller does nothing.

aiohttp closes a connection that has been idle for its keep-alive time. What it leaves to others: a head that comes
byte by byte, a reply that is not read, a connection that is closed and whose last bytes nobody takes, and the number
of all. One look a second at every connection finds those; a timer for each would cost every request more than this
costs a thousand connections.

NOTE: leans on the inside of aiohttp's RequestHandler; tests/unit/web/test_web_connections.py holds it to that.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from aiohttp.web_protocol import RequestHandler

KEEP_ALIVE_SECONDS: Final = 75.0
"""How long a connection may be idle: longer than load balancers leave theirs (60 s), so that they end it first."""

_LOOK_SECONDS: Final = 1.0
_MAKE_ROOM: Final = 16
_REFUSAL: Final = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
)


@dataclass(slots=True)
class Patience:
    """How long callers may take, in seconds, and how many connections there may be.

    Attributes:
        head: for the head of a request, from its first byte to its last.
        reader: in which a reader must take ``least`` bytes of a reply that waits for them.
        closing: for the last bytes of a connection that is closed.

    """

    head: float = 15.0
    reader: float = 30.0
    least: int = 1 << 20
    closing: float = 10.0
    connections: int = 8192


class Server(Protocol):
    """aiohttp's ``web.Server``."""

    @property
    def _connections(self) -> Mapping[Any, asyncio.Transport]: ...


class Watched(RequestHandler):
    """A connection that knows since when it has been kept waiting."""

    __slots__ = ("closed_since", "head_number", "head_since", "stalled_since", "stalled_size")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.head_since = 0.0
        self.head_number = -1
        self.stalled_since: float | None = None
        self.stalled_size = 0
        self.closed_since: float | None = None

    @property
    def idle(self) -> bool:
        """Whether no request is under way."""
        waiter = self._waiter
        return waiter is not None and not waiter.done()

    @property
    def idle_until(self) -> float:
        """When it has been idle for too long: the earlier, the longer it has been idle."""
        return self._next_keepalive_close_time

    @property
    def head_begun(self) -> bool:
        """Whether a request has begun whose head is not there yet."""
        return self.head_number == self._request_count and self.idle

    def data_received(self, data: bytes) -> None:
        """Take bytes; those that do not make a whole head begin one."""
        super().data_received(data)
        waiter = self._waiter
        if waiter is not None and not waiter.done() and self.head_number != self._request_count:
            self.head_number = self._request_count
            self.head_since = self._loop.time()

    def pause_writing(self) -> None:
        """Note that the caller does not read as fast as is written."""
        super().pause_writing()
        self.stalled_since, self.stalled_size = self._loop.time(), -1

    def resume_writing(self) -> None:
        """Note that the caller has caught up."""
        super().resume_writing()
        self.stalled_since = None


@dataclass(slots=True)
class Connections:
    """Looks after the connections of one server.

    Attributes:
        ended: how many were ended, by reason.

    """

    patience: Patience = field(default_factory=Patience)
    ended: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(("slowHead", "slowReader", "crowded", "refused"), 0)
    )
    server: Server | None = None
    _timer: asyncio.TimerHandle | None = None

    @property
    def open(self) -> int:
        """How many there are."""
        return 0 if self.server is None else len(self.server._connections)  # noqa: SLF001

    @property
    def newcomers(self) -> int:
        """How many have not had the head of a request yet."""
        if self.server is None:
            return 0
        return sum(one._request_count == 0 for one in self.server._connections)  # noqa: SLF001

    def start(self, server: Server) -> None:
        """Look after ``server`` from now on."""
        self.server = server
        self._timer = asyncio.get_running_loop().call_later(_LOOK_SECONDS, self._look)

    def stop(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()

    def opened(self, connection: Watched, transport: asyncio.Transport) -> None:
        """Make room for a connection that was just accepted; refuse it if every other has something to do."""
        if self.open <= self.patience.connections:
            return
        assert self.server is not None  # noqa: S101 - it has connections
        idle = [one for one in self.server._connections if one is not connection and one.idle]  # noqa: SLF001
        if not idle:
            self.ended["refused"] += 1
            # A moment later: aiohttp's task of the connection has to have begun before it can be ended.
            loop = asyncio.get_running_loop()
            loop.call_soon(loop.call_soon, _refuse, connection, transport)
            return
        # Many at once, since finding them takes a look at all.
        idle.sort(key=lambda one: one.idle_until)
        for one in idle[: max(1, self.patience.connections // _MAKE_ROOM)]:
            self.ended["crowded"] += 1
            one.force_close()

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        assert self.server is not None  # noqa: S101 - see start
        now = loop.time()
        for connection, transport in list(self.server._connections.items()):  # noqa: SLF001
            self._look_at(connection, transport, now)
        self._timer = loop.call_later(_LOOK_SECONDS, self._look)

    def _look_at(self, connection: Watched, transport: asyncio.Transport, now: float) -> None:
        patience = self.patience
        if connection.transport is None:
            # Closed by us, or lost; what is still to be sent may wait for a reader for ever.
            if connection.closed_since is None:
                connection.closed_since = now
            elif now - connection.closed_since > patience.closing:
                transport.abort()
        elif connection.stalled_since is not None:
            size = transport.get_write_buffer_size()
            if connection.stalled_size < 0:
                connection.stalled_size = size
            elif now - connection.stalled_since > patience.reader:
                if connection.stalled_size - size >= patience.least:
                    connection.stalled_since, connection.stalled_size = now, size
                else:
                    self.ended["slowReader"] += 1
                    transport.abort()
        elif connection.head_begun and now - connection.head_since > patience.head:
            self.ended["slowHead"] += 1
            connection.force_close()


def _refuse(connection: Watched, transport: asyncio.Transport) -> None:
    transport.write(_REFUSAL)
    connection.force_close()

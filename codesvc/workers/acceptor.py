"""How a worker takes connections from the sockets that all workers share.

Whoever is woken first would take all that wait, and keep them for as long as callers keep them open. So a worker takes
one at a time, and steps back for a millisecond while another holds fewer: then the other has taken the connection, or
is busy, and it is taken all the same. 64 connections at once over two workers, each busy for a millisecond with a
request, came out as 3 and 61 in the worst of several tries with a server of the event loop's own, 21 and 43 with a
socket of SO_REUSEPORT for each (which spreads by a hash), and 29 and 35 like this; over four workers 1-3-3-57,
8-12-21-23 and 15-16-16-17. It costs a tenth of a millisecond of CPU for each connection (not for each request).
"""

import asyncio
import logging
import socket
from collections.abc import Callable, Sequence
from typing import Any, Final

from codesvc.workers.shared import SharedPage

_STEP_BACK_SECONDS: Final = 0.001
_SHORT_OF_DESCRIPTORS_SECONDS: Final = 1.0

logger = logging.getLogger(__name__)


class Acceptor:
    """Accepts connections and hands each to a protocol, from ``start`` until ``stop``.

    ``connections`` tells how many of them are open.
    """

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        page: SharedPage,
        *,
        number: int,
        workers: int,
        protocol: Callable[[], asyncio.BaseProtocol],
        connections: Callable[[], int],
    ) -> None:
        self._sockets = sockets
        self._page = page
        self._number = number
        self._workers = workers
        self._protocol = protocol
        self._connections = connections
        self._opening: set[asyncio.Task[Any]] = set()
        self._waiting: dict[int, asyncio.TimerHandle] = {}
        self._loop = asyncio.get_running_loop()
        self._stopped = False

    def start(self) -> None:
        """Begin to accept."""
        self._tell()
        for one in self._sockets:
            self._loop.add_reader(one.fileno(), self._ready, one)

    def stop(self) -> None:
        """Accept no more, and close this process's hold of the sockets; those of the others go on."""
        if self._stopped:
            return
        self._stopped = True
        self._page.withdraw(self._number)
        for one in self._sockets:
            self._loop.remove_reader(one.fileno())
            one.close()
        for handle in self._waiting.values():
            handle.cancel()

    async def opened(self) -> None:
        """Wait until every connection that was accepted is one of the server's."""
        await asyncio.gather(*self._opening, return_exceptions=True)

    def tell(self) -> None:
        """Tell the others how many connections are open: they may have been closed since the last was accepted."""
        if not self._stopped:
            self._tell()

    def _tell(self) -> int:
        load = self._connections() + len(self._opening)
        self._page.set_load(self._number, load)
        return load

    def _ready(self, listening: socket.socket) -> None:
        if self._tell() > self._page.least_load(self._workers):
            self._pause(listening, _STEP_BACK_SECONDS)
        else:
            self._take(listening)

    def _pause(self, listening: socket.socket, seconds: float) -> None:
        self._loop.remove_reader(listening.fileno())
        self._waiting[listening.fileno()] = self._loop.call_later(seconds, self._resume, listening)

    def _resume(self, listening: socket.socket) -> None:
        del self._waiting[listening.fileno()]
        self._loop.add_reader(listening.fileno(), self._ready, listening)
        self._take(listening)

    def _take(self, listening: socket.socket) -> None:
        try:
            connection, _ = listening.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return  # another worker was faster, or the caller has gone
        except OSError as error:
            # No descriptor is left, or no memory. The connection stays in the queue, where another may take it.
            logger.warning("cannot accept", extra={"errno": error.errno})
            self._pause(listening, _SHORT_OF_DESCRIPTORS_SECONDS)
            return
        connection.setblocking(False)
        task = self._loop.create_task(self._open(connection))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)
        self._tell()

    async def _open(self, connection: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._protocol, connection)
        except OSError:
            connection.close()

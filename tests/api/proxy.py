"""A TCP proxy that stalls, cuts and refuses, between the service and what it depends on."""

import contextlib
import socket
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

_CHUNK: Final = 16 * 1024


class Proxy:
    """Forwards 127.0.0.1:port to a port of 127.0.0.1, from its start until its stop, as its switches say.

    Arguments:
        admits: is told the port that a connection comes from; where it says no, the connection is closed at once.

    Attributes:
        lost: replies that were lost on purpose so far.

    """

    def __init__(self, target_port: int, *, admits: Callable[[int], bool] = lambda _: True) -> None:
        self._admits = admits
        self.target_port = target_port
        self.port = 0
        self.lost = 0
        self._listener: socket.socket | None = None
        self._threads: list[threading.Thread] = []
        self._sockets: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._flowing = threading.Event()
        self._flowing.set()
        self._closing = False
        self._budget: int | None = None
        self._reached = threading.Event()
        self._lose: Callable[[bytes], bool] | None = None

    @property
    def stopped(self) -> bool:
        """Whether new connections are refused."""
        return self._listener is None

    def start(self) -> Self:
        """Listen; the port stays the same over a stop and a start."""
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port))
        listener.listen(64)
        self.port = listener.getsockname()[1]
        self._listener = listener
        self._closing = False
        self._spawn(self._accept, listener)
        return self

    def stop(self) -> None:
        """Refuse new connections and cut the old ones."""
        self._closing = True
        self._flowing.set()
        if self._listener is not None:
            # A shutdown wakes the thread in accept(); a close alone does not.
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None
        self.cut()
        for thread in self._threads:
            thread.join(5)
        self._threads.clear()

    def cut(self) -> None:
        """Reset every connection that is open."""
        with self._lock:
            sockets = list(self._sockets)
        for each in sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def stall(self) -> None:
        """Forward nothing until resume(); connections are still accepted."""
        self._flowing.clear()

    def stall_after(self, count: int) -> threading.Event:
        """Stall as soon as so many bytes came back from the target; the event says when."""
        with self._lock:
            self._budget = count
            self._reached = threading.Event()
            return self._reached

    def lose_reply(self, to: Callable[[bytes], bool]) -> None:
        """Let the next request for which ``to`` is true through, and cut its connection when the reply comes."""
        with self._lock:
            self._lose = to

    def resume(self) -> None:
        """Forward again, and lose nothing more."""
        with self._lock:
            self._budget = None
            self._lose = None
        self._flowing.set()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _spawn(self, target: object, *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)  # type: ignore[arg-type]
        with self._lock:
            self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                near, address = listener.accept()
            except OSError:
                return
            if not self._admits(address[1]):
                near.close()
                continue
            try:
                far = socket.create_connection(("127.0.0.1", self.target_port), timeout=10)
            except OSError:
                near.close()
                continue
            far.settimeout(None)
            for each in (near, far):
                each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._sockets |= {near, far}
            open_ways = [2]
            losing = threading.Event()
            self._spawn(self._pump, near, far, False, open_ways, losing)
            self._spawn(self._pump, far, near, True, open_ways, losing)

    def _pump(
        self,
        source: socket.socket,
        sink: socket.socket,
        back: bool,
        open_ways: list[int],
        losing: threading.Event,
    ) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(_CHUNK):
                if back and losing.is_set():
                    self.lost += 1
                    break
                if back:
                    self._spend(len(data))
                elif self._loses(data):
                    losing.set()
                self._flowing.wait()
                if self._closing:
                    break
                sink.sendall(data)
        for each in (source, sink):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        with self._lock:
            open_ways[0] -= 1
            if open_ways[0]:
                return
            self._sockets -= {source, sink}
        source.close()
        sink.close()

    def _loses(self, data: bytes) -> bool:
        with self._lock:
            if self._lose is None or not self._lose(data):
                return False
            self._lose = None
            return True

    def _spend(self, count: int) -> None:
        with self._lock:
            if self._budget is None:
                return
            self._budget -= count
            if self._budget <= 0:
                self._budget = None
                self._flowing.clear()
                self._reached.set()

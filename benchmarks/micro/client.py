"""A client that costs next to nothing: several keep-alive connections, each with one request under way."""

import selectors
import socket
from typing import Final, Self, cast

CONNECTIONS: Final = 8
_SECONDS: Final = 10.0


class KeepAlive:
    """Sends the same GET again and again to a server of this machine; use as a context manager."""

    def __init__(self, port: int, path: str, *, token: str, body: bytes) -> None:
        self._request = (
            f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {token}\r\n"
            "User-Agent: benchmark\r\nAccept: */*\r\n\r\n"
        ).encode()
        self._body = body
        self._selector = selectors.DefaultSelector()
        self._sockets = [socket.create_connection(("127.0.0.1", port)) for _ in range(CONNECTIONS)]
        for one in self._sockets:
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._selector.register(one, selectors.EVENT_READ)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._selector.close()
        for one in self._sockets:
            one.close()

    def get(self, requests: int) -> None:
        """Send so many requests, a multiple of CONNECTIONS, and wait for every reply.

        Raises:
            RuntimeError: a reply is not 200 with the expected body, or none comes for 10 s.

        """
        left = dict.fromkeys(self._sockets, requests // CONNECTIONS)
        received = dict.fromkeys(self._sockets, b"")
        for one in self._sockets:
            one.sendall(self._request)
        while left:
            ready = self._selector.select(_SECONDS)
            if not ready:
                raise RuntimeError("a reply did not come, or was not the expected one")
            for key, _ in ready:
                one = cast("socket.socket", key.fileobj)
                received[one] += one.recv(65536)
                if not received[one].startswith(b"HTTP/1.1 200 OK\r\n"):
                    raise RuntimeError(f"unexpected reply: {received[one][:60]!r}")
                if not received[one].endswith(b"\r\n\r\n" + self._body):
                    continue
                received[one] = b""
                left[one] -= 1
                if left[one]:
                    one.sendall(self._request)
                else:
                    del left[one]

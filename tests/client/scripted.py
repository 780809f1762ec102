"""An HTTP server that answers by a script: for what no codesvc says at a wish, such as rate limits."""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Self

COUNTS: Final = {"available": 1, "reserved": 2, "assigned": 3}
CHANGE: Final = {"count": {"in": 1, "updated": 1}}
RESERVED: Final = {"reserveId": "6a28d63e-debe-4fa1-a189-b0312eefb821", "codes": [], "count": 0}


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer; ``reset`` breaks the connection instead, after the request has been read."""

    status: int = 200
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    reset: bool = False
    echo_key: bool = False
    media_type: str = "application/json"


@dataclass(frozen=True, slots=True)
class Request:
    """What came."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes


def problem(status: int, code: str, **headers: str) -> Answer:
    """Make the answer that codesvc gives to what went wrong."""
    body = {"status": status, "code": code, "title": code, "detail": f"It is {code}", "correlationId": "c"}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(status, body, named, media_type="application/problem+json")


RESET: Final = Answer(reset=True)


class Scripted:
    """The server: gives one answer after the other, the last one again and again. Use as an async context manager."""

    def __init__(self, *answers: Answer) -> None:
        self.requests: list[Request] = []
        self.port = 0
        self._answers = list(answers)
        self._server: asyncio.Server | None = None
        self._serving: dict[asyncio.Task[Any], asyncio.StreamWriter] = {}

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        # Whoever still waits for a request hears that none will come.
        serving = dict(self._serving)
        for writer in serving.values():
            writer.close()
        await asyncio.gather(*serving)
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving[task] = writer
        try:
            self.requests.append(await _read(reader))
            answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
            if not answer.reset:
                writer.write(_written(answer, self.requests[-1]))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client has gone
        finally:
            writer.close()
            del self._serving[task]


async def _read(reader: asyncio.StreamReader) -> Request:
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    first, *lines = head.strip().split("\r\n")
    method, target, _version = first.split(" ")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Request(method, target, headers, body)


def _written(answer: Answer, request: Request) -> bytes:
    body = answer.body.encode() if isinstance(answer.body, str) else json.dumps(answer.body).encode()
    headers = {"Content-Type": answer.media_type, "Content-Length": str(len(body)), "Connection": "close"}
    if answer.echo_key:
        headers["Idempotency-Key"] = request.headers["idempotency-key"]
    lines = [f"{name}: {value}\r\n" for name, value in {**headers, **answer.headers}.items()]
    return f"HTTP/1.1 {answer.status} Told\r\n{''.join(lines)}\r\n".encode() + body

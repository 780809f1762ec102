"""A worker's side: what it inherits from the supervisor, and how the two keep in touch."""

import asyncio
import itertools
import logging
import os
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Final, Protocol, Self

from codesvc.errors import SettingsError
from codesvc.workers.acceptor import Acceptor
from codesvc.workers.channel import Kind, Message, messages, send
from codesvc.workers.shared import SharedPage

SIGN_OF_LIFE_SECONDS: Final = 1.0
"""How often a worker tells its figures without being asked."""

_GATHER_SECONDS: Final = 2.0
"""What the supervisor may take to answer; it waits for the other workers for a part of it."""

logger = logging.getLogger(__name__)


class Server(Protocol):
    """What accepted connections are handed to: aiohttp's ``web.Server``."""

    def __call__(self) -> asyncio.BaseProtocol:
        """Make the protocol of one connection."""
        ...

    @property
    def connections(self) -> Sequence[object]:
        """The connections that are open."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Inheritance:
    """What the supervisor hands to a worker, as one word of its command line: file descriptors, but for two."""

    number: int
    """1 to ``workers``; who takes the place of a worker that died takes its number."""
    workers: int
    channel: int
    page: int
    sockets: tuple[int, ...]

    def __str__(self) -> str:
        """Write it as ``parse`` reads it."""
        return ",".join(map(str, (self.number, self.workers, self.channel, self.page, *self.sockets)))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read what ``str`` has written.

        Raises:
            SettingsError: it is something else.

        """
        try:
            number, workers, channel, page, *sockets = map(int, text.split(","))
        except ValueError:
            raise SettingsError("--worker: is for the supervisor's own use") from None
        return cls(number=number, workers=workers, channel=channel, page=page, sockets=tuple(sockets))


class Member:
    """This process as one of several workers.

    Attributes:
        number: 1 to the number of workers.

    """

    def __init__(self, inheritance: Inheritance) -> None:
        self.number = inheritance.number
        self._workers = inheritance.workers
        try:
            for fd in (inheritance.channel, inheritance.page, *inheritance.sockets):
                os.set_inheritable(fd, False)
            self._page = SharedPage(inheritance.page)
            self._channel = socket.socket(fileno=inheritance.channel)
            self._sockets = [socket.socket(fileno=fd) for fd in inheritance.sockets]
        except (OSError, ValueError):
            raise SettingsError("--worker: is for the supervisor's own use") from None
        self._writer: asyncio.StreamWriter | None = None
        self._figures: Callable[[], bytes] | None = None
        self._questions = itertools.count(1)
        self._asked: dict[int, asyncio.Future[list[bytes]]] = {}
        self._acceptor: Acceptor | None = None

    @property
    def first(self) -> bool:
        """Whether this is the worker that does what is to be done once."""
        return self.number == 1

    @property
    def log_lock(self) -> int:
        """The file to lock while log lines are written."""
        return self._page.fd

    @property
    def port(self) -> int:
        """The port that is listened on."""
        return int(self._sockets[0].getsockname()[1])

    @asynccontextmanager
    async def connected(self, drain: Callable[[], None]) -> AsyncIterator[None]:
        """Listen to the supervisor; when it says so, or is gone, ``drain`` is called.

        A worker whose supervisor is gone also ceases to accept, so that another service can have the address.
        """
        reader, self._writer = await asyncio.open_unix_connection(sock=self._channel)
        listening = asyncio.create_task(self._listen(reader, drain))
        try:
            yield
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)
            if self._figures is not None:
                # The last word: what was counted since the last sign of life is not lost.
                send(self._writer, Kind.FIGURES, body=self._figures())
            self._writer.close()
            with suppress(ConnectionError):
                await self._writer.wait_closed()

    @asynccontextmanager
    async def serving(self, server: Server | None, figures: Callable[[], bytes]) -> AsyncIterator[None]:
        """Accept connections for ``server``, and tell the supervisor so; ``figures`` are those of the metrics."""
        if server is None or self._writer is None:
            raise RuntimeError("there is no server yet, or no supervisor")
        self._figures = figures
        self._acceptor = acceptor = Acceptor(
            self._sockets,
            self._page,
            number=self.number,
            workers=self._workers,
            protocol=server,
            connections=lambda: len(server.connections),
        )
        acceptor.start()
        send(self._writer, Kind.READY)
        life = asyncio.create_task(self._show_life(self._writer, figures, acceptor))
        try:
            yield
        finally:
            acceptor.stop()
            life.cancel()
            await asyncio.gather(life, return_exceptions=True)

    def leave(self) -> None:
        """Accept no more: the other workers do."""
        if self._acceptor is not None:
            self._acceptor.stop()

    async def cease(self) -> None:
        """Accept no more, and wait until what was accepted is a connection of the server."""
        self.leave()
        if self._acceptor is not None:
            await self._acceptor.opened()

    async def other_figures(self, own: bytes) -> list[bytes]:
        """Return the figures of all other processes: the supervisor and the workers that died included.

        ``own`` are this process's at this moment: what is shown once must not be forgotten when it dies.

        Raises:
            TimeoutError: the supervisor does not answer, so that nothing true can be said.

        """
        if self._writer is None:
            raise TimeoutError
        question = next(self._questions)
        answer: asyncio.Future[list[bytes]] = asyncio.get_running_loop().create_future()
        self._asked[question] = answer
        send(self._writer, Kind.GATHER, question, own)
        try:
            async with asyncio.timeout(_GATHER_SECONDS):
                return await answer
        finally:
            del self._asked[question]

    async def _listen(self, reader: asyncio.StreamReader, drain: Callable[[], None]) -> None:
        async for message in messages(reader):
            self._hear(message, drain)
        logger.warning("the supervisor is gone")
        drain()
        self.leave()

    def _hear(self, message: Message, drain: Callable[[], None]) -> None:
        if message.kind is Kind.DRAIN:
            drain()
        elif message.kind is Kind.ASK and self._writer is not None and self._figures is not None:
            send(self._writer, Kind.FIGURES, message.number, self._figures())
        elif message.kind is Kind.OTHERS:
            answer = self._asked.get(message.number)
            if answer is not None and not answer.done():
                answer.set_result(message.body.split(b"\n"))

    async def _show_life(
        self, writer: asyncio.StreamWriter, figures: Callable[[], bytes], acceptor: Acceptor
    ) -> None:
        while True:
            await asyncio.sleep(SIGN_OF_LIFE_SECONDS)
            acceptor.tell()
            send(writer, Kind.FIGURES, body=figures())

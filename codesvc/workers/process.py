"""One worker, as its supervisor sees it."""

import asyncio
import itertools
import os
import signal
import socket
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from codesvc.workers.channel import Kind, Message, messages, send
from codesvc.workers.member import Inheritance
from codesvc.workers.shared import SharedPage

_ROOT: Final = Path(__file__).parents[2]

COMMAND: Final = (sys.executable, "-P", "-m", "codesvc", "serve", "--worker")
"""What runs a worker; a word that tells what it inherits comes after it."""

_MAX_QUESTIONS: Final = 8
"""A worker that does not answer is not asked any more."""


class WorkerProcess:
    """A process from its start until its end.

    Attributes:
        ready: it has begun to accept connections.
        silent: for how many ticks of the supervisor nothing was heard of it.

    """

    def __init__(self, number: int, *, heard: Callable[["WorkerProcess", Message], None]) -> None:
        self.number = number
        self.ready = False
        self.silent = 0
        self.started = 0.0
        self._heard = heard
        self._process: subprocess.Popen[bytes] | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._ended = asyncio.Event()
        self._questions = itertools.count(1)
        self._asked: dict[int, asyncio.Future[None]] = {}

    @property
    def pid(self) -> int:
        """The process's id."""
        if self._process is None:
            raise RuntimeError("the worker was never started")
        return self._process.pid

    @property
    def code(self) -> int | None:
        """The exit code, minus the signal's number after a signal, or None while it runs."""
        return None if self._process is None else self._process.returncode

    async def run(
        self, command: Sequence[str], page: SharedPage, sockets: Sequence[socket.socket], workers: int
    ) -> None:
        """Start the process, listen to it, and return when it has ended and all that it said was heard."""
        ours, theirs = socket.socketpair()
        inheritance = Inheritance(
            number=self.number,
            workers=workers,
            channel=theirs.fileno(),
            page=page.fd,
            sockets=tuple(one.fileno() for one in sockets),
        )
        with theirs:
            # NOTE: a group of its own, so that a terminal's Ctrl-C reaches the supervisor only, which passes it on.
            self._process = subprocess.Popen(  # noqa: ASYNC220, S603 - it returns at once; our own program
                [*command, str(inheritance)],
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(), page.fd, *inheritance.sockets),
                env=_environment(workers),
                process_group=0,
            )
        self.started = asyncio.get_running_loop().time()
        reader, self._writer = await asyncio.open_unix_connection(sock=ours)
        try:
            async for message in messages(reader):
                self.silent = 0
                self._hear(message)
            await self._ended.wait()
        finally:
            self._writer.close()
            with suppress(ConnectionError):
                await self._writer.wait_closed()

    def reap(self) -> None:
        """See whether the process has ended: to be called after SIGCHLD."""
        if self._process is not None and self._process.poll() is not None:
            self._ended.set()

    def tell(self, kind: Kind, number: int = 0, body: bytes = b"") -> None:
        """Say something to it; a worker that only starts hears it when it has started."""
        if self._writer is not None:
            send(self._writer, kind, number, body)

    def ask(self) -> asyncio.Future[None]:
        """Ask for its figures; the future is done when they were heard, which may be never."""
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if len(self._asked) >= _MAX_QUESTIONS or not self.ready:
            answer.set_result(None)
        else:
            question = next(self._questions)
            self._asked[question] = answer
            self.tell(Kind.ASK, question)
        return answer

    def kill(self) -> None:
        """End it with SIGKILL."""
        if self._process is not None and self._process.returncode is None:
            with suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGKILL)

    def wait(self, seconds: float) -> None:
        """Wait for its end, and block the loop meanwhile."""
        if self._process is not None:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(seconds)

    def stopped(self) -> bool:
        """Tell whether somebody has stopped it, as a debugger does (proc(5): the states T and t)."""
        try:
            state = Path(f"/proc/{self.pid}/stat").read_bytes().rpartition(b")")[2].split()[0]
        except (OSError, IndexError):
            return False
        return state in {b"T", b"t"}

    def _hear(self, message: Message) -> None:
        if message.kind is Kind.READY:
            self.ready = True
        self._heard(self, message)
        if message.kind is Kind.FIGURES:
            answer = self._asked.pop(message.number, None)
            if answer is not None and not answer.done():
                answer.set_result(None)


def _environment(workers: int) -> dict[str, str]:
    """Return the environment of a worker: it runs the code that the supervisor runs, wherever that was found."""
    environment = dict(os.environ)
    environment["CODESVC_WORKERS"] = str(workers)
    if str(_ROOT) not in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
        environment["PYTHONPATH"] = os.pathsep.join(
            part for part in (str(_ROOT), environment.get("PYTHONPATH")) if part
        )
    return environment

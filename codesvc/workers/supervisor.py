"""The process that starts the workers, replaces those that die, and ends them all."""

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from codesvc.observability.logs import configure_logging
from codesvc.settings import Settings
from codesvc.version import __version__
from codesvc.workers.channel import Kind, Message
from codesvc.workers.figures import KeptFigures
from codesvc.workers.process import COMMAND, WorkerProcess
from codesvc.workers.shared import SharedPage
from codesvc.workers.sockets import listening_sockets

EXIT_OK: Final = 0
EXIT_FAILURE: Final = 1
EXIT_SETTINGS: Final = 2
"""What a process ends with when a setting cannot be used; it has said so in one line."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long the supervisor waits for what, in seconds."""

    drain: float
    """From the first signal on, for a worker to end by itself."""
    figures: float = 0.3
    """For a worker to tell its figures; then those that it told last are taken."""
    steady: float = 30.0
    """A worker that served for so long did not die at its start."""
    first: float = 0.5
    """Before the second try in a row to replace one that dies at its start; doubled with each further try."""
    longest: float = 30.0
    tick: float = 1.0
    """Between two looks at who has gone silent."""
    warned: int = 10
    """Ticks without a word after which a worker is reported."""
    hung: int = 60
    """Ticks without a word after which it is killed."""
    tries: int = 5
    """How often a worker may die at its start while no other serves."""


def supervise(settings: Settings, workers: int) -> int:
    """Serve the API with so many processes until SIGTERM or SIGINT; return this process's exit code.

    The first signal drains every worker, the second one ends all of them at once.

    Raises:
        SettingsError: the address cannot be listened on.

    """
    sockets = listening_sockets(settings)
    page = SharedPage.create()
    configure_logging(
        settings.log_level.value, form=settings.log_format, probes=settings.log_probes, lock=page.fd
    )
    # A worker drains within the setting, and then has connections to close and spans to flush.
    patience = Patience(drain=settings.drain_seconds + 8.0)
    port = sockets[0].getsockname()[1]
    fields = {"workers": workers, "host": settings.host, "port": port, "version": __version__}
    logger.info("supervising", extra={**fields, "pid": os.getpid()})
    with asyncio.Runner() as runner:
        code = runner.run(Supervisor(sockets, page, workers, patience=patience).run())
    logger.info("all workers have ended", extra={"exitCode": code})
    return code


class Supervisor:
    """Keeps so many workers running on the sockets."""

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        page: SharedPage,
        workers: int,
        *,
        patience: Patience,
        command: Sequence[str] = COMMAND,
    ) -> None:
        self._sockets = sockets
        self._page = page
        self._workers = workers
        self._patience = patience
        self._command = command
        self._figures = KeptFigures()
        self._running: dict[int, WorkerProcess] = {}
        self._ending = asyncio.Event()
        self._first_ready = asyncio.Event()
        self._code = EXIT_OK
        self._gathering: set[asyncio.Task[None]] = set()

    async def run(self) -> int:
        """Run the workers until a signal, or until none of them can be started; return the exit code."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGCHLD, self._reap)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._take, number)
        watching = asyncio.create_task(self._watch())
        try:
            # The first one alone: what is wrong with the settings is said once, and what it sets up is there for
            # the others.
            places = [asyncio.create_task(self._keep(1))]
            await self._one_of(self._first_ready, self._ending)
            if not self._ending.is_set():
                places += [asyncio.create_task(self._keep(number)) for number in range(2, self._workers + 1)]
            await self._ending.wait()
            await self._drain(places)
        finally:
            watching.cancel()
            for worker in self._running.values():
                worker.kill()
        return self._code

    async def _keep(self, number: int) -> None:
        """Keep one place filled: start a worker, and another one when it has died."""
        failures = 0
        while not self._ending.is_set():
            worker = await self._serve(number)
            if self._ending.is_set():
                # One that never served had nothing to drain.
                if worker.ready and worker.code != EXIT_OK:
                    self._code = self._code or EXIT_FAILURE
                return
            lived = asyncio.get_running_loop().time() - worker.started
            failures = 0 if worker.ready and lived >= self._patience.steady else failures + 1
            if not worker.ready and not self._anybody_serves():
                if worker.code == EXIT_SETTINGS:
                    self._end(EXIT_SETTINGS)
                    return
                if failures >= self._patience.tries:
                    logger.error("no worker can be started", extra={"tries": failures})
                    self._end(EXIT_FAILURE)
                    return
            await self._pause(failures)
            if not self._ending.is_set():
                self._figures.replaced()

    async def _serve(self, number: int) -> WorkerProcess:
        """Run one worker from its start to its end."""
        worker = self._running[number] = WorkerProcess(number, heard=self._hear)
        try:
            await worker.run(self._command, self._page, self._sockets, self._workers)
        finally:
            del self._running[number]
            self._page.withdraw(number)
            self._figures.bury(number)
        level = logging.INFO if self._ending.is_set() and worker.code == EXIT_OK else logging.WARNING
        fields = {"worker": number, "pid": worker.pid, "exitCode": worker.code, "served": worker.ready}
        logger.log(level, "worker ended", extra=fields)
        return worker

    async def _pause(self, failures: int) -> None:
        """Wait before a worker is replaced: not at all for the first that died, then longer and longer."""
        if failures > 1:
            seconds = min(self._patience.longest, self._patience.first * 2.0 ** min(failures - 2, 30))
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._ending.wait()

    async def _drain(self, places: Sequence[asyncio.Task[None]]) -> None:
        """Tell every worker once that it is to end, and see to it that it does."""
        for worker in self._running.values():
            worker.tell(Kind.DRAIN)
        _, left = await asyncio.wait(places, timeout=self._patience.drain)
        if left:
            logger.error("workers did not end", extra={"killed": sorted(self._running)})
            for worker in self._running.values():
                worker.kill()
            self._code = self._code or EXIT_FAILURE
            await asyncio.wait(places)
        for place in places:
            place.result()

    async def _watch(self) -> None:
        """Look for workers that say nothing any more.

        Ticks are counted, not seconds: while the machine sleeps, or this process is stopped, nobody grows silent.
        Nor does a worker that somebody has stopped.
        """
        patience = self._patience
        while True:
            await asyncio.sleep(patience.tick)
            for worker in self._running.values():
                if worker.stopped():
                    continue
                worker.silent += 1
                if worker.silent in {patience.warned, patience.hung}:
                    fields = {
                        "worker": worker.number,
                        "pid": worker.pid,
                        "seconds": worker.silent * patience.tick,
                    }
                    logger.warning("worker does not answer", extra=fields)
                if worker.silent >= patience.hung:
                    worker.kill()

    def _hear(self, worker: WorkerProcess, message: Message) -> None:
        if message.kind is Kind.READY:
            self._first_ready.set()
            if self._ending.is_set():
                worker.tell(Kind.DRAIN)
        elif message.kind is Kind.FIGURES:
            self._figures.note(worker.number, message.body)
        elif message.kind is Kind.GATHER:
            self._figures.note(worker.number, message.body)
            task = asyncio.create_task(self._gather(worker, message.number))
            self._gathering.add(task)
            task.add_done_callback(self._gathering.discard)

    async def _gather(self, asking: WorkerProcess, question: int) -> None:
        asked = [other.ask() for other in self._running.values() if other is not asking]
        if asked:
            await asyncio.wait(asked, timeout=self._patience.figures)
        asking.tell(Kind.OTHERS, question, b"\n".join(self._figures.all_but(asking.number)))

    def _anybody_serves(self) -> bool:
        return any(worker.ready for worker in self._running.values())

    def _end(self, code: int) -> None:
        self._code = code
        self._ending.set()

    def _reap(self) -> None:
        for worker in self._running.values():
            worker.reap()

    def _take(self, number: int) -> None:
        if self._ending.is_set():
            for worker in self._running.values():
                worker.kill()
            for worker in self._running.values():
                worker.wait(1.0)
            # What a shell reports for a process that a signal ended.
            os._exit(128 + number)
        logger.info("draining", extra={"workers": sorted(self._running)})
        self._ending.set()

    @staticmethod
    async def _one_of(*events: asyncio.Event) -> None:
        waits = [asyncio.create_task(event.wait()) for event in events]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()

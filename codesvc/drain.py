"""The end of a process: what is under way may end, nothing new begins."""

import asyncio
import os
import signal
import time
from collections.abc import Callable
from typing import Final

_POLL_SECONDS: Final = 0.05


class Drain:
    """The end of a process: told by a signal, over when nothing is under way or the time is up."""

    def __init__(self) -> None:
        self._signal = asyncio.Event()
        self._taken = False
        self._delay = 0.0
        self._first: Callable[[], None] = _nothing
        self._second: Callable[[int], None] = _end_at_once

    def begin(self) -> None:
        """Begin it without a signal; once begun, nothing more happens."""
        self._signal.set()

    def begun(self) -> bool:
        """Tell whether the process is going away."""
        return self._signal.is_set()

    def listen(
        self,
        *,
        first: Callable[[], None] | None = None,
        second: Callable[[int], None] | None = None,
        delay: float = 0.0,
    ) -> None:
        """Take SIGTERM and SIGINT: ``first`` is called, and for a further one ``second`` with its number.

        ``delay`` is in seconds between ``first`` and the drain. By default a second signal ends the process at once.
        """
        self._first, self._second, self._delay = first or _nothing, second or _end_at_once, delay
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._take, number)

    async def signalled(self) -> None:
        """Wait for the signal."""
        await self._signal.wait()

    async def finish(self, active: Callable[[], int], seconds: float, hurry: Callable[[], None]) -> None:
        """Wait until nothing is ``active``, for ``seconds`` at most; after three quarters of them, call ``hurry``.

        Uploads have no bound of their own, so they are hurried: they end at the next batch, with counts that hold.
        """
        started = time.monotonic()
        hurried = False
        while active() and (waited := time.monotonic() - started) < seconds:
            if not hurried and waited >= 0.75 * seconds:
                hurried = True
                hurry()
            await asyncio.sleep(_POLL_SECONDS)

    def _take(self, number: int) -> None:
        if self._taken:
            self._second(number)
            return
        self._taken = True
        self._first()
        if self._delay:
            asyncio.get_running_loop().call_later(self._delay, self._signal.set)
        else:
            self._signal.set()


def _end_at_once(number: int) -> None:
    # What a shell reports for a process that a signal ended.
    os._exit(128 + number)


def _nothing() -> None:
    return None

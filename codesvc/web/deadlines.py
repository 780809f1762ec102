"""A limit on how long a request waits for the inventory, at next to no cost for those that need not wait."""

import asyncio
from collections.abc import Awaitable
from typing import Any, Final, TypeVar

from codesvc.errors import DatabaseUnavailableError

T = TypeVar("T")

_LOOKS: Final = 50
"""How often it is looked whether the time is up, in the time that an operation may take."""


class Deadlines:
    """Ends operations that take longer than ``seconds``, at most a fiftieth of that too late.

    ``asyncio.timeout`` sets a timer for every operation and takes it back, which costs more than all else
    that the edge does with a token; here one timer looks after all of them.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._due: dict[asyncio.Task[Any], float] = {}
        self._late: set[asyncio.Task[Any]] = set()
        self._looking = False
        self._loop: asyncio.AbstractEventLoop | None = None

    async def within(self, operation: Awaitable[T]) -> T:
        """Await ``operation``.

        Raises:
            DatabaseUnavailableError: the time was up.

        """
        # Asked without its loop, asyncio would look for it by the number of the process: a system call.
        task = None if self._loop is None else asyncio.current_task(self._loop)
        if task is None:
            task = asyncio.current_task()
            assert task is not None  # noqa: S101 - a coroutine that runs is run by a task
            self._loop = task.get_loop()
        loop = task.get_loop()
        self._due[task] = loop.time() + self._seconds
        if not self._looking:
            self._looking = True
            loop.call_later(self._seconds / _LOOKS, self._look, loop)
        try:
            return await operation
        except asyncio.CancelledError:
            # Another may have cancelled the task as well: then it is to end.
            if task in self._late and not task.uncancel():
                raise DatabaseUnavailableError("The database did not answer in time") from None
            raise
        finally:
            del self._due[task]
            self._late.discard(task)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        # Every operation has the same time, so the first is due first.
        for task, due in self._due.items():
            if due > now:
                break
            if task not in self._late:
                self._late.add(task)
                task.cancel()
        self._looking = bool(self._due)
        if self._looking:
            loop.call_later(self._seconds / _LOOKS, self._look, loop)

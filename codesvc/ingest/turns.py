"""Turns: so many uploads run at once, so many more wait, and no further one is taken."""

import asyncio
from collections import deque
from dataclasses import dataclass

from codesvc.errors import TooManyUploadsError


@dataclass(frozen=True, slots=True)
class Bounds:
    """How many uploads run at once in this process, and how many more may wait for their turn."""

    running: int
    waiting: int


class Turns:
    """Who may run: so many at once, the others in the order in which they came."""

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._running = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def check(self) -> None:
        """Raise TooManyUploadsError if no one else may even wait."""
        if self._running >= self._bounds.running and len(self._waiting) >= self._bounds.waiting:
            raise TooManyUploadsError("This process has as many uploads as it takes.")

    def ask(self) -> asyncio.Future[None]:
        """Ask for a turn: it is there when the future is done. Whoever asked gives it back in the end."""
        self.check()
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self._running < self._bounds.running:
            self._running += 1
            turn.set_result(None)
        else:
            self._waiting.append(turn)
        return turn

    def give_back(self, turn: asyncio.Future[None]) -> None:
        """Let the next one have it, or wait no longer."""
        if turn in self._waiting:
            self._waiting.remove(turn)
            turn.cancel()
            return
        if turn.cancelled():
            return  # it was passed over when its time came
        while self._waiting:
            following = self._waiting.popleft()
            # One whose wait was broken off is about to give it back.
            if not following.cancelled():
                following.set_result(None)
                return
        self._running -= 1

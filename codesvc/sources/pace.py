"""The lowest rate at which a part of an object has to come: a store that is slower does not deliver."""

import asyncio
from types import TracebackType
from typing import Final

LEAST_BYTES: Final = 64 * 1024
"""What has to come of a part in each window of time, unless that is all of it."""

WINDOW_SECONDS: Final = 60.0


class Pace:
    """Ends a try of a part whose bytes come too slowly. Use as an async context manager, once for each try.

    The client's own limit is on silence alone: a byte now and then would keep it waiting for ever. A window goes on
    from one try to the next, so that a store that breaks off after a few bytes, again and again, is slow too. Nothing
    but the store can hold a part up: it is read as fast as it comes, whatever its reader does meanwhile.

    Attributes:
        missed: how many windows in a row have passed with too little; each ended a try.

    """

    __slots__ = ("_limit", "_mark", "_position", "_until", "missed")

    def __init__(self, position: int) -> None:
        self.missed = 0
        self._limit: asyncio.Timeout | None = None
        self._begin(position)

    async def __aenter__(self) -> None:
        self._limit = asyncio.timeout_at(self._until)
        await self._limit.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._limit is not None  # noqa: S101 - it was entered
        try:
            await self._limit.__aexit__(kind, error, trace)
        finally:
            if self._limit.expired():
                self.missed += 1
                self._begin(self._position)

    def reached(self, position: int) -> None:
        """Tell up to which byte the part has come."""
        self._position = position
        if position - self._mark >= LEAST_BYTES:
            self.missed = 0
            self._begin(position)
            assert self._limit is not None  # noqa: S101 - bytes come within a try
            self._limit.reschedule(self._until)

    def _begin(self, position: int) -> None:
        self._position = self._mark = position
        self._until = asyncio.get_running_loop().time() + WINDOW_SECONDS

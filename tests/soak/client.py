"""Requests to any of the services, each of them timed and counted."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import aiohttp

from .fleet import Fleet
from .ledger import Fault, Ledger

# The service promises 30 s; the rest is for a machine that has other things to do.
SLOW_SECONDS = 31.0
_GIVE_UP_SECONDS = 90.0


Going = Callable[[], bool]
"""Tells whether there is still time."""


class Kind(StrEnum):
    UPLOAD = "upload"
    RESERVE = "reserve"
    ASSIGN = "assign"
    RELEASE = "release"
    COUNT = "count"
    LOOK = "look at an upload"


@dataclass(frozen=True, slots=True)
class Told:
    """What came back. ``body`` is None unless the status was 200 or 202: then nobody knows what has been done."""

    body: Any
    sent: float
    ended: float
    refused: str | None = None
    """The problem's code, where it was told that nothing has been done: there was not enough."""


class Client:
    """Sends every request to a service at random, over connections that are kept."""

    def __init__(
        self, session: aiohttp.ClientSession, fleet: Fleet, ledger: Ledger, chance: random.Random
    ) -> None:
        self.outcomes: Counter[tuple[Kind, str]] = Counter()
        self.slowest = 0.0
        self._session = session
        self._fleet = fleet
        self._ledger = ledger
        self._chance = chance

    async def ask(
        self, kind: Kind, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> Told:
        """Send it once: a POST with a body or for a reservation, so that the client does not repeat it unasked."""
        url = f"http://127.0.0.1:{self._chance.choice(self._fleet.ports)}/v1/{path}"
        method = "GET" if kind in {Kind.COUNT, Kind.LOOK} else "POST"
        still = self._fleet.stood_still()
        sent = time.monotonic()
        outcome, told = "lost", None
        try:
            async with self._session.request(method, url, json=body, headers=headers) as response:
                told = await response.json(content_type=None)
                outcome = "200" if response.status == 202 else str(response.status)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
            outcome = "lost"
        ended = time.monotonic()
        self.outcomes[kind, outcome] += 1
        seconds = ended - sent - (self._fleet.stood_still() - still)
        self.slowest = max(self.slowest, seconds)
        refused = told.get("code") if outcome == "409" and isinstance(told, dict) else None
        # What came under a key may come again while the first is still under way, or its process has just died.
        if outcome not in {"200", "503", "lost"} and refused not in {"notEnoughCodes", "idempotencyKeyInUse"}:
            self._ledger.fault(Fault.STATUS, f"{kind}: {outcome} {told}")
        if seconds > SLOW_SECONDS:
            self._ledger.fault(Fault.SLOW, f"{kind}: {outcome} after {seconds:.1f} s")
        if outcome != "200" and refused != "notEnoughCodes":
            # What Retry-After asks for, shortened: the sooner they come again, the more they disturb.
            await asyncio.sleep(self._chance.uniform(0.1, 1.0))
        return Told(told if outcome == "200" else None, sent, ended, refused)


def session(token: str) -> aiohttp.ClientSession:
    """Make a session for all callers."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        timeout=aiohttp.ClientTimeout(total=_GIVE_UP_SECONDS),
        headers={"Authorization": f"Bearer {token}"},
    )

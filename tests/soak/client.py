"""Requests to any of the services, each of them timed and counted."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import aiohttp

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


@dataclass(frozen=True, slots=True)
class Told:
    """What came back. ``body`` is None unless the status was 200: then nobody knows what has been done."""

    body: Any
    sent: float
    ended: float


class Client:
    """Sends every request to a service at random, over connections that are kept."""

    def __init__(
        self, session: aiohttp.ClientSession, ports: Sequence[int], ledger: Ledger, chance: random.Random
    ) -> None:
        self.outcomes: Counter[tuple[Kind, str]] = Counter()
        self.slowest = 0.0
        self._session = session
        self._ports = ports
        self._ledger = ledger
        self._chance = chance

    async def ask(self, kind: Kind, path: str, body: Any = None) -> Told:
        """Send it once: a POST with a body or for a reservation, so that the client does not repeat it unasked."""
        url = f"http://127.0.0.1:{self._chance.choice(self._ports)}/v1/{path}"
        method = "GET" if kind is Kind.COUNT else "POST"
        sent = time.monotonic()
        outcome, told = "lost", None
        try:
            async with self._session.request(method, url, json=body) as response:
                outcome, told = str(response.status), await response.json(content_type=None)
        except (aiohttp.ClientError, TimeoutError, OSError):
            outcome = "lost"
        ended = time.monotonic()
        self.outcomes[kind, outcome] += 1
        self.slowest = max(self.slowest, ended - sent)
        if outcome not in {"200", "503", "lost"}:
            self._ledger.fault(Fault.STATUS, f"{kind}: {outcome} {told}")
        if ended - sent > SLOW_SECONDS:
            self._ledger.fault(Fault.SLOW, f"{kind}: {outcome} after {ended - sent:.1f} s")
        if outcome != "200":
            # What Retry-After asks for, shortened: the sooner they come again, the more they disturb.
            await asyncio.sleep(self._chance.uniform(0.1, 1.0))
        return Told(told if outcome == "200" else None, sent, ended)


def session(token: str) -> aiohttp.ClientSession:
    """Make a session for all callers."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        timeout=aiohttp.ClientTimeout(total=_GIVE_UP_SECONDS),
        headers={"Authorization": f"Bearer {token}"},
    )

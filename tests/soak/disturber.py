"""Does to one part after another what happens to parts: kills, stops for a while, cuts, and puts it right again."""

import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from enum import StrEnum

from api.harness import Service
from pymongo.errors import AutoReconnect

from codesvc.local.mongod import Mongod

from .fleet import Fleet

# In seconds: how long all is whole, how long a process stays away, and how long one stands still.
_WHOLE = (0.5, 3.0)
_AWAY = (0.2, 4.0)
_STILL = (0.5, 4.0)
_ROOM = 6.0
# A rollback on a machine that has other things to do.
_WHOLE_AGAIN = 300.0
_DRAIN = 40.0

# Longer than the lease of an upload: others take up what the process had, and then it goes on.
_LONG_STILL = (28.0, 33.0)
_LONG_FROM = 300.0
_SHORT = 40.0


def longest_still(seconds: float) -> float:
    """Tell for how long at most a process is stopped, in a run of so many seconds."""
    return _LONG_STILL[1] if seconds >= _LONG_FROM else _STILL[1]


class Disturbance(StrEnum):
    """The kinds, in the order of the report."""

    PRIMARY_KILLED = "primary of MongoDB killed (SIGKILL)"
    SECONDARY_KILLED = "secondary of MongoDB killed (SIGKILL)"
    PRIMARY_STOOD_STILL = "primary of MongoDB stopped and continued"
    PRIMARY_STEPPED_DOWN = "primary of MongoDB told to step down"
    SERVICE_KILLED = "service killed (SIGKILL)"
    SERVICE_ENDED = "service drained and started anew (SIGTERM)"
    SERVICE_STOOD_STILL = "service stopped and continued"
    SERVICE_LONG_STILL = "service stopped for longer than a lease"
    STORAGE_CUT = "connections to S3 cut"
    STORAGE_STALLED = "connections to S3 stalled"


class Disturber:
    """For the thread that started the processes: a process dies with the thread that started it.

    Attributes:
        done: how often each kind was done.

    """

    def __init__(self, fleet: Fleet, chance: random.Random, seconds: float) -> None:
        self.done: Counter[Disturbance] = Counter()
        self._fleet = fleet
        self._chance = chance
        self._ended = threading.Event()
        kinds: dict[Disturbance, tuple[float, Callable[[], None]]] = {
            Disturbance.PRIMARY_KILLED: (5, self._kill_primary),
            Disturbance.SECONDARY_KILLED: (2, self._kill_secondary),
            Disturbance.PRIMARY_STOOD_STILL: (2, self._stop_primary),
            Disturbance.PRIMARY_STEPPED_DOWN: (2, self._step_down),
            Disturbance.SERVICE_KILLED: (6, self._kill_service),
            Disturbance.SERVICE_ENDED: (3, self._end_service),
            Disturbance.SERVICE_STOOD_STILL: (3, lambda: self._stop_service(_STILL)),
            Disturbance.STORAGE_CUT: (3, fleet.storage.cut),
            Disturbance.STORAGE_STALLED: (2, self._stall_storage),
        }
        if seconds < _SHORT:
            # What a service leaves behind takes the length of a lease to be taken up.
            kinds = {kind: how for kind, how in kinds.items() if not kind.startswith("service")}
        if seconds >= _LONG_FROM:
            kinds[Disturbance.SERVICE_LONG_STILL] = (1, lambda: self._stop_service(_LONG_STILL))
        self.kinds = kinds

    def run(self, until: float, ended: threading.Event) -> None:
        """Disturb, put it right, wait until all is whole, and so on; one part at a time."""
        self._ended = ended
        # Each kind has its turn in good time, however few there are; then they come as they come.
        first = [
            kind for kind in (Disturbance.PRIMARY_KILLED, Disturbance.SERVICE_KILLED) if kind in self.kinds
        ]
        others = [kind for kind in self.kinds if kind not in first]
        self._chance.shuffle(others)
        turns = [*first, *others]
        while not ended.wait(self._chance.uniform(*_WHOLE)) and time.monotonic() < until - _ROOM:
            kind = turns.pop(0) if turns else self._next()
            self.kinds[kind][1]()
            self.done[kind] += 1

    def _next(self) -> Disturbance:
        return self._chance.choices(list(self.kinds), [weight for weight, _ in self.kinds.values()])[0]

    def _wait(self, span: tuple[float, float]) -> None:
        self._ended.wait(self._chance.uniform(*span))

    # MongoDB.

    def _kill_primary(self) -> None:
        self._kill(self._fleet.members.primary())

    def _kill_secondary(self) -> None:
        primary = self._fleet.members.primary()
        self._kill(self._chance.choice([one for one in self._fleet.members.members if one is not primary]))

    def _kill(self, victim: Mongod) -> None:
        victim.kill()
        try:
            self._wait(_AWAY)
        finally:
            victim.launch()
        self._fleet.members.wait_until_whole(limit=_WHOLE_AGAIN)

    def _stop_primary(self) -> None:
        primary = self._fleet.members.primary()
        with self._fleet.standing_still(primary.pid):
            self._wait(_STILL)
        self._fleet.members.wait_until_whole(limit=_WHOLE_AGAIN)

    def _step_down(self) -> None:
        with self._fleet.members.primary().client() as client, suppress(AutoReconnect):
            client.admin.command("replSetStepDown", 3, secondaryCatchUpPeriodSecs=2)
        self._fleet.members.wait_until_whole(limit=_WHOLE_AGAIN)

    # The service.

    def _service(self) -> Service:
        return self._chance.choice(self._fleet.services)

    def _kill_service(self) -> None:
        victim = self._service()
        victim.process.kill()
        self._restart(victim)

    def _end_service(self) -> None:
        victim = self._service()
        victim.signal(signal.SIGTERM)
        code = victim.wait(limit=_DRAIN)
        if code != 0:
            raise RuntimeError(
                f"codesvc serve ended with {code} after SIGTERM:\n{victim.log.read_text()[-4000:]}"
            )
        self._restart(victim)

    def _restart(self, service: Service) -> None:
        self._wait(_AWAY)
        service.launch()
        service.wait_until_ready()

    def _stop_service(self, span: tuple[float, float]) -> None:
        victim = self._service()
        with self._fleet.standing_still(victim.process.pid):
            self._wait(span)

    # S3.

    def _stall_storage(self) -> None:
        self._fleet.storage.stall()
        try:
            self._wait(_STILL)
        finally:
            self._fleet.storage.resume()

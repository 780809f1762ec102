"""Kills one mongod after another, as crashes would."""

import random
import threading
import time
from collections import Counter

from codesvc.local.mongod import ReplicaSet

# In seconds: how long the set stays whole, and how long a member stays away.
_WHOLE = (1.0, 4.0)
_AWAY = (0.5, 4.0)
_ROOM = 6.0
# A rollback on a machine that has other things to do.
_WHOLE_AGAIN = 300.0


class Killer:
    """For the thread that started the members: a process dies with the thread that started it."""

    def __init__(self, members: ReplicaSet, chance: random.Random) -> None:
        self.kills: Counter[str] = Counter()
        self._members = members
        self._chance = chance

    def run(self, until: float, ended: threading.Event) -> None:
        """Kill, wait, start it again, wait until the set is whole, and so on; at most one is down at a time."""
        while not ended.wait(self._chance.uniform(*_WHOLE)) and time.monotonic() < until - _ROOM:
            primary = self._members.primary()
            victim = primary
            if self._chance.random() < 0.3:
                victim = self._chance.choice([one for one in self._members.members if one is not primary])
            victim.kill()
            self.kills["primary" if victim is primary else "secondary"] += 1
            try:
                ended.wait(self._chance.uniform(*_AWAY))
            finally:
                victim.launch()
            self._members.wait_until_whole(limit=_WHOLE_AGAIN)

"""Turns: so many uploads run at once, so many more wait, and no further one is taken; nobody waits for one campaign.

Whoever waits is let in by the campaign: first the one of which the fewest run, and of those the one that was served
longest ago; within a campaign, in the order in which they came. That alone would not help while long uploads hold every
place. So, where there are eight places or more, some are kept: an eighth for small files, whose size is known while
they wait, and an eighth for the first upload of a campaign of which none runs. Likewise an eighth of those that may
wait is kept from any one campaign.
"""

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import Final

from codesvc.errors import TooManyUploadsError

SMALL_BYTES: Final = 4 << 20
"""A file up to this size is done within seconds."""

_KEPT: Final = 8
"""One place in so many is kept for those who would wait for long otherwise."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """How many uploads run at once in this process, and how many more may wait for their turn."""

    running: int
    waiting: int


class Turn:
    """What an upload asked for: it may run when ``granted`` is done."""

    __slots__ = ("campaign_id", "further", "granted", "running", "small")

    def __init__(self, campaign_id: str, granted: asyncio.Future[None]) -> None:
        self.campaign_id = campaign_id
        self.granted = granted
        self.running = False
        self.small = False
        """Whether the file is known to be small."""
        self.further = False
        """Whether others of its campaign ran when its turn came."""


class Turns:
    """Who may run, and who is next."""

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._kept = bounds.running // _KEPT
        self._running: dict[str, set[Turn]] = {}
        # By campaign, the one that was served longest ago first.
        self._waiting: dict[str, deque[Turn]] = {}

    @property
    def waiting(self) -> int:
        """How many wait."""
        return sum(map(len, self._waiting.values()))

    def check(self, campaign_id: str) -> None:
        """Raise TooManyUploadsError if an upload of the campaign could neither run nor even wait."""
        if self._fits(campaign_id):
            return
        most = self._bounds.waiting
        own = len(self._waiting.get(campaign_id, ()))
        if self.waiting >= most or own >= most - most // _KEPT:
            raise TooManyUploadsError("This process has as many uploads as it takes.")

    @property
    def idle(self) -> bool:
        """Whether an upload of any campaign and size would run at once."""
        return not self._waiting and (False, True) in self._room()

    @property
    def full(self) -> bool:
        """Whether no upload at all may even wait."""
        return self.waiting >= self._bounds.waiting

    def ask(self, campaign_id: str, *, accepted: bool = False) -> Turn:
        """Ask for a turn. Whoever asked gives it back in the end, whether it came or not.

        An upload that has been ``accepted`` before, by whatever process, is not refused.
        """
        if not accepted:
            self.check(campaign_id)
        turn = Turn(campaign_id, asyncio.get_running_loop().create_future())
        # Nobody is overtaken who might have the same place: whoever waits has been looked at whenever one came free.
        if self._fits(campaign_id):
            self._grant(turn)
        else:
            self._waiting.setdefault(campaign_id, deque()).append(turn)
        return turn

    def measured(self, turn: Turn, size: int) -> None:
        """Note how long the file is, in bytes, as soon as that is known; a small one may have its turn at once."""
        turn.small = size <= SMALL_BYTES
        self._let_in()

    def give_back(self, turn: Turn) -> None:
        """Let others have it, or wait no longer."""
        if turn.running:
            turn.running = False
            of_campaign = self._running[turn.campaign_id]
            of_campaign.discard(turn)
            if not of_campaign:
                del self._running[turn.campaign_id]
        else:
            queue = self._waiting.get(turn.campaign_id)
            if queue is not None and turn in queue:
                self._take_out(turn, queue)
        turn.granted.cancel()
        self._let_in()

    def _let_in(self) -> None:
        while (turn := self._next()) is not None:
            self._take_out(turn, self._waiting[turn.campaign_id])
            if turn.campaign_id in self._waiting:
                # Behind all others who wait.
                self._waiting[turn.campaign_id] = self._waiting.pop(turn.campaign_id)
            self._grant(turn)

    def _next(self) -> Turn | None:
        """Find whose turn it is."""
        best: Turn | None = None
        fewest = self._bounds.running
        room = self._room()
        for campaign_id, queue in self._waiting.items() if room else ():
            running = len(self._running.get(campaign_id, ()))
            if running < fewest:
                further = running > 0
                # One whose wait was broken off is about to give it back.
                fitting = (one for one in queue if (one.small, further) in room and not one.granted.done())
                found = next(fitting, None)
                if found is not None:
                    best, fewest = found, running
        return best

    def _fits(self, campaign_id: str) -> bool:
        """Tell whether one more upload of a campaign may run, of whose size nothing is known yet."""
        return (False, campaign_id in self._running) in self._room()

    def _room(self) -> frozenset[tuple[bool, bool]]:
        """Tell for which kinds of uploads there is a place: whether small, and whether others of its campaign run."""
        running = [turn for turns in self._running.values() for turn in turns]
        large = [turn for turn in running if not turn.small]
        places, kept = self._bounds.running, self._kept
        for_any = len(running) < places
        for_further = for_any and sum(turn.further for turn in running) < places - kept
        for_large = for_any and len(large) < places - kept
        for_both = for_further and for_large and sum(turn.further for turn in large) < places - 2 * kept
        kinds = {
            (True, False): for_any,
            (True, True): for_further,
            (False, False): for_large,
            (False, True): for_both,
        }
        return frozenset(kind for kind, there in kinds.items() if there)

    def _grant(self, turn: Turn) -> None:
        of_campaign = self._running.setdefault(turn.campaign_id, set())
        turn.running, turn.further = True, bool(of_campaign)
        of_campaign.add(turn)
        turn.granted.set_result(None)

    def _take_out(self, turn: Turn, queue: deque[Turn]) -> None:
        queue.remove(turn)
        if not queue:
            del self._waiting[turn.campaign_id]

"""The rule of Idempotency-Key: a request that is sent again under its key gets the reply that it got the first time.

Whoever comes first claims the key, in one write, before anything else is done; the claim has a lease, by the clock of
the store. Then the work is done, and its reply is kept under the key before anybody is told of it. So:

* Of two who come at once, one has the claim, and the other hears that it is in use.
* Where a process dies in the middle, its lease ends, and the next who comes takes the claim over. Whatever the dead one
  may have done goes by a name that was written down with the claim (a reservation's, an upload's): it is taken back, or
  it is found, before anything is done anew.
* Who only stood still, and finds that its claim was taken over, takes back what it has done meanwhile and asks again.
* Where the reply cannot be kept, nobody gets it: the caller is told to try again, and this process goes on trying to
  keep it, so that the next try finds it.

A reply is kept if the work has done something; work that raises an error gives its key back.
"""

import asyncio
import logging
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from codesvc.errors import CodesvcError, DatabaseUnavailableError, KeyInUseError, KeyReusedError
from codesvc.models import KeptReply, KeyClaim, KeyedRequest, KeyStanding

logger = logging.getLogger(__name__)

_IN_USE: Final = "The first request with this key is still under way."
_REUSED: Final = "The key was used for another request."
# How often a claim is renewed within its lease.
_RENEWALS: Final = 5
# How long a caller whose request failed waits for its key to be given back.
_TIDY_SECONDS: Final = 2.0
_PAUSE_SECONDS: Final = 1.0
_GOODBYE_SECONDS: Final = 1.0
# Claims that one request may lose before it gives up.
_ROUNDS: Final = 3
# What is seen to after its request has ended; beyond so many at once, it is tried once and left to the lease.
_MOST_TASKS: Final = 1_000


@dataclass(frozen=True, slots=True)
class Answer:
    """A reply; ``replayed`` if an earlier request had it first."""

    reply: KeptReply
    replayed: bool


class Work(Protocol):
    """What is to be done once."""

    def new_name(self) -> str:
        """Make a name for what will be done."""

    async def perform(self, name: str, /) -> KeptReply:
        """Do it, under a name."""

    async def recover(self, names: Sequence[str], /) -> KeptReply | CodesvcError | None:
        """See to what earlier tries may have done: return what they have come to, or take it back and return None.

        Raises:
            KeyInUseError: it still goes on.

        """

    async def give_up(self, name: str, /) -> bool:
        """Take back what was done under a name and was not told to anybody; True where it goes on all the same."""


class Keys(Protocol):
    """Where keys are kept. Every method raises DatabaseUnavailableError or DatabaseRefusedError."""

    @property
    def lease_seconds(self) -> float:
        """How long a claim holds."""

    async def claim(self, asked: KeyedRequest, claim_id: str, name: str) -> KeyClaim | KeyStanding:
        """Claim a key, unless another has it."""

    async def renew(self, claim: KeyClaim) -> bool:
        """Begin the lease anew, if the claim still stands; tell whether it did."""

    async def keep(self, claim: KeyClaim, reply: KeptReply) -> bool:
        """Keep the reply, if the claim still stands; tell whether it did."""

    async def let_go(self, claim: KeyClaim, names: Sequence[str]) -> None:
        """End the claim, so that the next request takes over what goes by ``names``."""

    async def free(self, asked: KeyedRequest, claim_id: str) -> None:
        """End the claim, so that the key is as if it had never been used."""


class Told(Protocol):
    """Counts what becomes of requests with a key."""

    def keyed_request(self, outcome: str) -> None:
        """Tell ``first``, ``taken_over``, ``replayed``, ``in_use``, ``reused``, or ``lost``."""


class Idempotency:
    """Does work once for each key."""

    def __init__(self, keys: Keys, told: Told) -> None:
        self._keys = keys
        self._told = told
        self._tasks: set[asyncio.Task[Any]] = set()

    async def close(self) -> None:
        """Give what is still being tidied up a moment, then leave it to the leases."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_GOODBYE_SECONDS)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def once(self, asked: KeyedRequest, work: Work) -> Answer:
        """Do the work, or return the reply of who has done it.

        Raises:
            KeyReusedError: the key was used for something else.
            KeyInUseError: somebody does it at this moment.
            CodesvcError: what the work raised, or that the key or the reply could not be kept: to try again is right.

        """
        for _ in range(_ROUNDS):
            answer = await self._round(asked, work)
            if answer is not None:
                return answer
        raise KeyInUseError(_IN_USE)

    async def _round(self, asked: KeyedRequest, work: Work) -> Answer | None:
        """Claim the key and do the work; None where the claim was lost meanwhile."""
        claim_id = uuid.uuid4().hex
        until = time.monotonic() + self._keys.lease_seconds
        try:
            claim = await self._keys.claim(asked, claim_id, work.new_name())
        except BaseException:
            # It may have been carried out all the same.
            self._see_to(lambda: self._keys.free(asked, claim_id))
            raise
        if isinstance(claim, KeyStanding):
            return self._standing(asked, claim)
        self._told.keyed_request("taken_over" if claim.earlier else "first")
        lease = _Lease(self._keys, claim, until)
        try:
            reply = await self._reply(claim, work, lease)
            if reply is not None:
                try:
                    if await self._keys.keep(claim, reply):
                        return Answer(reply, replayed=False)
                except BaseException:
                    self._see_to(lambda: self._keep_late(claim, work, reply))
                    raise
        finally:
            lease.stop()
        self._told.keyed_request("lost")
        # Whatever becomes of this request, what nobody will be told of is taken back.
        await asyncio.wait({self._see_to(lambda: work.give_up(claim.name))})
        return None

    def _standing(self, asked: KeyedRequest, standing: KeyStanding) -> Answer:
        if standing.fingerprint != asked.fingerprint:
            self._told.keyed_request("reused")
            raise KeyReusedError(_REUSED)
        if standing.reply is None:
            self._told.keyed_request("in_use")
            raise KeyInUseError(_IN_USE)
        self._told.keyed_request("replayed")
        return Answer(standing.reply, replayed=True)

    async def _reply(self, claim: KeyClaim, work: Work, lease: "_Lease") -> KeptReply | None:
        """Find the reply of an earlier try or do the work; None where it is too late for that."""
        # What earlier tries have left is not seen to while that is under way, or could not be asked.
        left = claim.earlier
        try:
            if claim.earlier:
                come_to = await work.recover(claim.earlier)
                left = ()
                if isinstance(come_to, CodesvcError):
                    raise come_to  # noqa: TRY301 - it ends as one that was raised here
                if come_to is not None:
                    return come_to
            if lease.over:
                return None  # this process stood still, and another may have begun
            return await work.perform(claim.name)
        except BaseException as error:
            tidying = self._see_to(lambda: self._tidy(claim, work, left))
            if isinstance(error, Exception):
                await asyncio.wait({tidying}, timeout=_TIDY_SECONDS)
            raise

    async def _tidy(self, claim: KeyClaim, work: Work, earlier: Sequence[str]) -> None:
        goes_on = await work.give_up(claim.name)
        names = [*earlier, claim.name] if goes_on else list(earlier)
        if names:
            await self._keys.let_go(claim, names)
        else:
            await self._keys.free(claim.asked, claim.id)

    async def _keep_late(self, claim: KeyClaim, work: Work, reply: KeptReply) -> None:
        if not await self._keys.keep(claim, reply):
            await work.give_up(claim.name)

    def _see_to(self, act: Callable[[], Awaitable[object]]) -> asyncio.Task[None]:
        """Do something in a task of its own, again and again while the database does not answer."""
        task = asyncio.create_task(self._persist(act, again=len(self._tasks) < _MOST_TASKS))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _persist(self, act: Callable[[], Awaitable[object]], *, again: bool) -> None:
        # When the lease is over, whoever comes next sees to it.
        until = time.monotonic() + (2 * self._keys.lease_seconds if again else 0.0)
        while True:
            try:
                await act()
            except DatabaseUnavailableError as error:
                if time.monotonic() >= until:
                    logger.warning("a key was left to its lease", extra={"reason": str(error)})
                    return
                await asyncio.sleep(_PAUSE_SECONDS)
            except CodesvcError as error:
                logger.warning("a key was left to its lease", extra={"reason": str(error)})
                return
            except Exception:
                logger.exception("a key was left to its lease")
                return
            else:
                return


class _Lease:
    """Renews a claim from time to time: what takes a moment only never comes to that."""

    def __init__(self, keys: Keys, claim: KeyClaim, until: float) -> None:
        self._keys = keys
        self._claim = claim
        self._until = until
        self._every = keys.lease_seconds / _RENEWALS
        self._task: asyncio.Task[None] | None = None
        self._timer = asyncio.get_running_loop().call_later(self._every, self._begin)

    @property
    def over(self) -> bool:
        """Whether the claim may be another's by now."""
        return time.monotonic() >= self._until

    def stop(self) -> None:
        """Renew it no more."""
        self._timer.cancel()
        if self._task is not None:
            self._task.cancel()

    def _begin(self) -> None:
        self._task = asyncio.create_task(self._renew())

    async def _renew(self) -> None:
        while True:
            until = time.monotonic() + self._keys.lease_seconds
            try:
                if not await self._keys.renew(self._claim):
                    return
            except CodesvcError as error:
                # The next try comes long before the lease is over.
                logger.info("the claim of a key was not renewed", extra={"reason": str(error)})
            else:
                self._until = until
            await asyncio.sleep(self._every)

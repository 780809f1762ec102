"""Lending codes: callers that wait together are served together, by one statement each in one command.

Of each campaign and type, one lender takes whoever waits, hands them candidates that it has read ahead, and holds those
for them, each code only if it is still available. The server says how many it held: if all of them, everybody has what
was asked for, in one round trip. If not, another process was faster with some; what was held is read back, and the rest
is taken from further candidates. No code is lent twice, since each is held by a condition.

But those who take codes one after the other could split the last ones between them, so that each is short though one
of them need not have been. So none of this is final where codes run out. Whoever finds too few candidates gives back
what it holds, and goes another way, which is the only one on which anybody may be told that there are no more:

* no process lends any other way: each that did has heard that the type is scarce, and has said that it has stopped
  (codesvc/datastore/motion.py), and no other has begun to before the last look at what is left, and
* what is left is found and held in one transaction, all or nothing.

A standalone server has neither transactions nor anything that is told between processes: there, one caller at a time is
served, each code held by a condition. No code is lent twice, but two processes may split the last ones.
"""

import asyncio
import contextvars
import random
import time
from collections import deque
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AbstractContextManager, asynccontextmanager
from datetime import datetime
from typing import Final

import pymongo
from pymongo.errors import OperationFailure, PyMongoError, WriteConcernError

from codesvc.datastore.campaigns import Campaign, Campaigns
from codesvc.datastore.candidates import Candidate, Candidates
from codesvc.datastore.client import Mongo, commit, transaction
from codesvc.datastore.failures import may_be_sent_again, translated
from codesvc.datastore.holds import Holds
from codesvc.datastore.motion import Motion
from codesvc.datastore.orders import (
    Dealer,
    Lent,
    Order,
    Request,
    Share,
    date_alike,
    deal_the_last,
    missing,
    unfilled,
)
from codesvc.datastore.telemetry import Telemetry
from codesvc.errors import DatabaseUnavailableError
from codesvc.models import CodeType

# Codes that are held by one command, and commands of one lender that are under way at once.
_CODES_PER_COMMAND: Final = 1_250
_WORKERS: Final = 3
# Callers are served together while they want so many codes at the most; one who wants more is served alone.
_CODES_TOGETHER: Final = 1_000

_ROUNDS: Final = 8
_PLENTY: Final = 1_000
_PLENTY_SECONDS: Final = 1.0
_POLL_SECONDS: Final = 0.05
_FIRST_PAUSE: Final = 0.002
_LONGEST_PAUSE: Final = 0.1
_SECOND_LOOKS: Final = (0.01, 0.02, 0.04, 0.08)
_REMEMBERED_LENDERS: Final = 10_000
_WRITE_CONFLICT: Final = 112
_TRANSIENT: Final = "TransientTransactionError"
_TOO_LATE: Final = "The database did not settle a reservation in time."


class Lending:
    """Holds codes for callers.

    Raises:
        DatabaseUnavailableError: no answer in time.
        DatabaseRefusedError: the server refused.

    """

    def __init__(self, mongo: Mongo, campaigns: Campaigns, motion: Motion, telemetry: Telemetry) -> None:
        self._mongo = mongo
        self._campaigns = campaigns
        self._motion = motion
        self._telemetry = telemetry
        self._lenders: dict[tuple[str, CodeType], _Lender] = {}

    async def reserve(self, request: Request) -> Lent:
        """Hold as many codes as are wanted, or all that are left, or none if those are fewer than the minimum."""
        key = (request.campaign_id, request.code_type)
        lender = self._lenders.get(key)
        if lender is None:
            if len(self._lenders) >= _REMEMBERED_LENDERS:
                self._lenders = {key: one for key, one in self._lenders.items() if one.busy}
            with translated():
                transactions = (await self._mongo.deployment()).transactions
            kind = _Lender if transactions else _StandaloneLender
            lender = self._lenders.setdefault(
                key, kind(self._mongo, self._campaigns, self._motion, self._telemetry, *key)
            )
        return await lender.serve(request)


class _Lender:
    """Serves the callers of one campaign and type: those who wait together in the order in which they came.

    Who comes while others are being served may overtake them.
    """

    def __init__(
        self,
        mongo: Mongo,
        campaigns: Campaigns,
        motion: Motion,
        telemetry: Telemetry,
        campaign_id: str,
        code_type: CodeType,
    ) -> None:
        self._mongo = mongo
        self._campaigns = campaigns
        self._motion = motion
        self._telemetry = telemetry
        self._campaign_id = campaign_id
        self._type = code_type
        self._candidates = Candidates(mongo.codes, campaign_id, code_type)
        self._holds = Holds(mongo, self._candidates, campaign_id, code_type)
        self._waiting: deque[Order] = deque()
        self._workers: set[asyncio.Task[None]] = set()
        self._turn = asyncio.Lock()
        self._scarce = False
        self._looked_for_plenty = float("-inf")
        self._freely = 0
        self._nobody_freely = asyncio.Event()
        self._nobody_freely.set()

    @property
    def busy(self) -> bool:
        """Whether anybody waits."""
        return bool(self._workers)

    async def serve(self, request: Request) -> Lent:
        """Hold codes for one caller."""
        loop = asyncio.get_running_loop()
        deadline = time.monotonic() + self._mongo.timeout
        order = Order(request, loop.create_future(), deadline, contextvars.copy_context())
        self._waiting.append(order)
        if len(self._workers) < _WORKERS:
            # In a context of its own: it outlives the request that it is begun for.
            worker = asyncio.create_task(self._work(), context=contextvars.Context())
            self._workers.add(worker)
            worker.add_done_callback(self._workers.discard)
        try:
            async with asyncio.timeout_at(loop.time() + self._mongo.timeout + 1):
                return await order.result
        except TimeoutError:
            raise DatabaseUnavailableError(_TOO_LATE) from None

    async def _work(self) -> None:
        while self._waiting:
            orders = self._next()
            try:
                with self._lending(orders), translated(), pymongo.timeout(self._mongo.timeout):
                    await self._fill(orders)
            except Exception as error:  # noqa: BLE001 - it is the callers' to see
                for order in orders:
                    order.fail(error)
            except BaseException as error:
                for order in orders:
                    order.fail(DatabaseUnavailableError(_TOO_LATE))
                raise error from None
        self._candidates.forget_later()

    def _lending(self, orders: Sequence[Order]) -> AbstractContextManager[None]:
        callers = [order.context for order in orders]
        return self._telemetry.shared_operation("lend", callers, codes=missing(orders))

    def _next(self) -> list[Order]:
        """Take those who waited longest; who has gone away meanwhile is passed over."""
        orders: list[Order] = []
        codes = 0
        while self._waiting and (not orders or codes + self._waiting[0].request.count <= _CODES_TOGETHER):
            order = self._waiting.popleft()
            if not order.result.done():
                orders.append(order)
                codes += order.request.count
        if len(orders) > 1:
            date_alike(orders)
        return orders

    async def _fill(self, orders: Sequence[Order]) -> None:
        if orders and not self._scarce:
            await self._lend_freely(orders)
        left = unfilled(orders)
        if left:
            async with self._alone(left):
                await self._lend_the_last(left)
        await self._finish(orders)

    async def _finish(self, orders: Sequence[Order]) -> None:
        for order in orders:
            order.finish()
        if gone := [order for order in orders if order.deserted]:
            async with self._motion.writing(self._campaign_id):
                await self._give_back(gone)

    # Where there are plenty.

    async def _lend_freely(self, orders: Sequence[Order]) -> None:
        """Hold codes without a transaction; an order that is not filled afterwards holds nothing."""
        self._freely += 1
        self._nobody_freely.clear()
        try:
            async with self._motion.writing(self._campaign_id, lends=self._type.value) as mark:
                if self._type.value in mark.scarce:
                    self._scarce = True
                    return
                for _ in range(_ROUNDS):
                    if not await self._hold_some(orders):
                        break
                    for order in orders:
                        if not order.missing:
                            order.finish()
                    if not unfilled(orders):
                        return
                await self._give_back(unfilled(orders))
        finally:
            self._freely -= 1
            if not self._freely:
                self._nobody_freely.set()

    async def _hold_some(self, orders: Sequence[Order]) -> bool:
        """Hold candidates for what is missing; False where there are too few."""
        commands: list[asyncio.Task[None]] = []
        wanted = missing(orders)
        dealer = Dealer(orders)
        limit = asyncio.Semaphore(_WORKERS)
        taken: list[Candidate] = []
        try:
            while wanted > 0:
                some = min(wanted, _CODES_PER_COMMAND)
                found = await self._candidates.take(some, orders[0].request.cut_off)
                taken += found
                if len(found) < some:
                    return False
                wanted -= some
                part = list(dealer.deal(found))
                # The next candidates are read while these are being held.
                await limit.acquire()
                command = asyncio.create_task(self._hold(part))
                command.add_done_callback(lambda _: limit.release())
                commands.append(command)
            return True
        finally:
            outcomes = await asyncio.gather(*commands, return_exceptions=True)
            self._candidates.done(taken)
            for outcome in outcomes:
                if isinstance(outcome, BaseException):
                    raise outcome

    async def _hold(self, shares: Sequence[Share]) -> None:
        """Hold codes in one command, and add those that are held to their orders."""
        wanted = sum(len(share.candidates) for share in shares)
        held, doubtful = await self._until_answered(shares)
        if held == wanted:
            for share in shares:
                share.held()
            return
        if not doubtful:
            self._telemetry.reserve_conflicts(wanted - held)
        found = await self._holds.read_back(shares)
        for share in shares:
            # A candidate that was read where a failover had not come through yet may be held for the order already.
            anew = found.difference(one.code for one in share.order.held)
            share.order.held += [one for one in share.candidates if one.code in anew]
        if doubtful:
            # Once a later write is acknowledged by a majority, so is what was read.
            await self._motion.confirm(self._campaign_id)

    async def _until_answered(self, shares: Sequence[Share]) -> tuple[int, bool]:
        """Hold codes; tell how many the last command held, and whether others may be held by one before it.

        A command whose connection is lost may have been carried out, or be carried out only after the codes have been
        looked at: it would hold them for an order that has got others by then. So it is sent again: once that is
        answered, each code is held, by whichever of the two, and there is nothing left for a late one to do.
        """
        deadline = max(share.order.deadline for share in shares)
        pause = _FIRST_PAUSE
        doubtful = False
        while True:
            try:
                return await self._holds.hold(shares), doubtful
            except WriteConcernError:
                await asyncio.sleep(pause)
                return 0, True  # carried out, but perhaps not lastingly
            except PyMongoError as error:
                if not may_be_sent_again(error) or time.monotonic() > deadline:
                    raise
            doubtful = True
            self._telemetry.command_retried()
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    async def _give_back(self, orders: Iterable[Order]) -> None:
        for order in orders:
            await self._holds.give_back(order)

    # Where they may run out.

    @asynccontextmanager
    async def _alone(self, orders: Sequence[Order]) -> AsyncIterator[None]:
        """Wait until nobody else in this process lends these codes."""
        try:
            async with asyncio.timeout(max(0.0, min(order.deadline for order in orders) - time.monotonic())):
                await self._turn.acquire()
        except TimeoutError:
            raise DatabaseUnavailableError(_TOO_LATE) from None
        try:
            self._scarce = True
            await self._nobody_freely.wait()
            yield
        finally:
            self._turn.release()

    async def _lend_the_last(self, orders: Sequence[Order]) -> None:
        """Hold codes in transactions; what is missing afterwards is not there."""
        deadline = max(order.deadline for order in orders)
        async with self._motion.writing(self._campaign_id):
            await self._motion.stop_lending(self._campaign_id, self._type.value)
            while True:
                campaign = await self._campaigns.read(self._campaign_id)
                try:
                    await self._hold_in_transaction(orders, campaign, deadline)
                except _UnprovenError:
                    await self._stop_others(deadline)
                else:
                    break
            if not unfilled(orders):
                await self._look_for_plenty(orders[0].request.cut_off)

    def _lent_by_others(self, campaign: Campaign) -> bool:
        return campaign.is_lent(self._type.value, but=self._campaigns.process)

    async def _stop_others(self, deadline: float) -> None:
        """Let every other process know that the type is scarce, and wait until each has said that it has stopped."""
        name = self._type.value
        while time.monotonic() < deadline:
            campaign = await self._campaigns.read(self._campaign_id)
            if not self._lent_by_others(campaign):
                return
            if name not in campaign.scarce:
                await self._campaigns.set_scarce(self._campaign_id, name, scarce=True)
            await asyncio.sleep(_POLL_SECONDS)
        raise DatabaseUnavailableError(_TOO_LATE)

    async def _look_for_plenty(self, cut_off: datetime) -> None:
        """Go back to the faster way where there are many codes again."""
        now = time.monotonic()
        if now - self._looked_for_plenty < _PLENTY_SECONDS:
            return
        self._looked_for_plenty = now
        if len(await self._look(_PLENTY, cut_off)) == _PLENTY:
            if self._type.value in (await self._campaigns.read(self._campaign_id)).scarce:
                await self._campaigns.set_scarce(self._campaign_id, self._type.value, scarce=False)
            self._scarce = False

    async def _look(self, count: int, cut_off: datetime) -> list[Candidate]:
        """Find candidates that are not to be held."""
        found = await self._candidates.take(count, cut_off)
        self._candidates.done(found)
        return found

    async def _hold_in_transaction(
        self, orders: Sequence[Order], campaign: Campaign, deadline: float
    ) -> None:
        """Hold what is missing, or all that is left, which the campaign from before and after has to prove."""
        pause = _FIRST_PAUSE
        while time.monotonic() < deadline:
            try:
                await self._try_in_transaction(orders, campaign, deadline)
            except _InTheWayError:
                # Another process, or an assign of just these codes.
                await asyncio.sleep(random.uniform(0, pause))  # noqa: S311 - no secret
                pause = min(2 * pause, _LONGEST_PAUSE)
            else:
                return
        raise DatabaseUnavailableError(_TOO_LATE)

    async def _try_in_transaction(self, orders: Sequence[Order], before: Campaign, deadline: float) -> None:
        wanted = missing(orders)
        try:
            async with transaction(self._mongo) as session:
                found = await self._candidates.find(wanted, orders[0].request.cut_off, session)
                if len(found) < wanted:
                    after = await self._campaigns.read(self._campaign_id)
                    quiet = not any(map(self._lent_by_others, (before, after)))
                    if not quiet or after.lending != before.lending:
                        # What was not found may be held for a moment only. Nothing is held here: the others would
                        # miss it in turn.
                        raise _UnprovenError
                shares, refused = deal_the_last(orders, found)
                if shares:
                    dealt = sum(len(share.candidates) for share in shares)
                    held = await self._holds.hold(shares, session)
                    if held != dealt:
                        self._telemetry.reserve_conflicts(dealt - held)
                        raise _InTheWayError
                    await commit(
                        session,
                        deadline=deadline,
                        pause=_FIRST_PAUSE,
                        retried=self._telemetry.command_retried,
                    )
        except PyMongoError as error:
            if isinstance(error, OperationFailure) and error.code == _WRITE_CONFLICT:
                self._telemetry.reserve_conflicts(1)  # or more: the server stops at the first
            if error.has_error_label(_TRANSIENT):
                raise _InTheWayError from error
            raise
        for share in shares:
            share.held()
        for order in refused:
            order.refused = True


class _StandaloneLender(_Lender):
    """Without transactions: one caller at a time."""

    async def _fill(self, orders: Sequence[Order]) -> None:
        for order in orders:
            # What is missing to a minimum may be held for a moment only, by another process that gives it back.
            for pause in _SECOND_LOOKS:
                async with self._alone([order]):
                    if await self._filled(order):
                        break
                await asyncio.sleep(random.uniform(pause / 2, pause))  # noqa: S311 - no secret
            else:
                order.refused = True
            await self._finish([order])

    async def _filled(self, order: Order) -> bool:
        """Hold what there is, or nothing if that is less than the minimum: then return False."""
        minimum = order.request.minimum
        if minimum and len(await self._look(minimum, order.request.cut_off)) < minimum:
            return False
        while order.missing and await self._hold_some([order]):
            pass
        if order.missing:
            found = await self._candidates.take(order.missing, order.request.cut_off)
            try:
                if found:
                    await self._hold([Share(order, found)])
            finally:
                self._candidates.done(found)
        if len(order.held) >= minimum:
            return True
        await self._give_back([order])
        return False


class _UnprovenError(Exception):
    """There may be more codes than were found; nothing is held."""


class _InTheWayError(Exception):
    """Another writer was faster with a part of what was to be held; nothing is."""

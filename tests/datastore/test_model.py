"""Any history of uploads, reservations, changes, waits and foreign writes goes as a plain model says.

Three processes share one database and the test's clock; what several are asked at once has to have some order.
"""

import asyncio
import itertools
import sys
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import AsyncExitStack
from datetime import datetime, timedelta
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from codesvc.datastore.indexes import ensure_indexes
from codesvc.models import CodeType, Reservation, Status

from .model import Code, Model
from .operations import (
    Assign,
    Count,
    CountStatus,
    Operation,
    Release,
    Reserve,
    Upload,
    explained,
    written,
)
from .rig import START, TTL, Documents, Rig, opened, stored

T = TypeVar("T")

# Each process has its own driver and way of uploading.
SETTINGS: list[dict[str, Any]] = [
    {"mongo_driver": "motor"},
    {"mongo_driver": "pymongo"},
    {"mongo_driver": "motor", "write_strategy": "upsert"},
]
MOMENT = timedelta(milliseconds=1)
CODES = [f"CODE-{number:02}" for number in range(14)] + ["é", "\uffff", "😀"]

PROCESSES = st.integers(0, len(SETTINGS) - 1)
TYPES = st.sampled_from(list(CodeType))
SOME_CODES = st.lists(st.sampled_from(CODES), min_size=1, max_size=8)
ANY_CODE = st.lists(st.sampled_from(CODES), min_size=1, max_size=1)
MANY_CODES = st.lists(st.sampled_from(CODES), min_size=6, max_size=24)
SIZES = st.integers(1, 4) | st.integers(1, len(CODES) + 2)
# An index into what there is at the time, whose number is not known when it is drawn.
ONE_OF_THEM = st.integers(0, 99)

# What is asked at once is not asked at the same moment: a little later, it meets another step of those before it.
MILLISECONDS = st.integers(0, 12)
Asked = tuple[int, Operation, int]
"""A process, what it is asked, and after how many milliseconds."""

RESERVES = st.tuples(PROCESSES, st.builds(Reserve, TYPES, SIZES), MILLISECONDS)
COUNTS = st.tuples(PROCESSES, st.builds(Count, TYPES), MILLISECONDS)
# One code each: what changes several codes changes them one after the other, and others may come in between.
CHANGES = st.tuples(
    PROCESSES,
    st.builds(Assign, ANY_CODE) | st.builds(Release, ANY_CODE) | st.builds(Upload, ANY_CODE, TYPES),
    MILLISECONDS,
)

# How a foreign writer leaves a code that there is.
FOREIGN_DATES = st.sampled_from(
    [timedelta(hours=25), TTL, TTL - MOMENT, timedelta(hours=1), timedelta(0), -timedelta(minutes=3)]
)


class World:
    """Three processes on one database; they, and their event loop, last longer than a history."""

    def __init__(self, uri: str, documents: Documents) -> None:
        self.documents = documents
        self.rigs: dict[int, Rig] = {}
        self.now = START
        self._uri = uri
        self._names = (f"model-{number}" for number in itertools.count())
        self._runner = asyncio.Runner()
        self._stacks: dict[int, AsyncExitStack] = {}
        self._complaints: list[dict[str, Any]] = []

    def start(self) -> None:
        def complain(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
            self._complaints.append(context)

        self._runner.get_loop().set_exception_handler(complain)
        self.run(self._start())

    def stop(self) -> None:
        try:
            for stack in self._stacks.values():
                self.run(stack.aclose())
        finally:
            self._runner.close()
        assert self._complaints == []

    def run(self, what: Coroutine[Any, Any, T]) -> T:
        return self._runner.run(what)

    def restart(self, process: int) -> None:
        self.run(self._restart(process))

    def new_campaign(self) -> str:
        return next(self._names)

    def set_clock(self, now: datetime) -> None:
        self.now = now
        for rig in self.rigs.values():
            rig.clock.now = now

    async def _start(self) -> None:
        for process in range(len(SETTINGS)):
            await self._open(process)
        await ensure_indexes(self.rigs[0].mongo, timeout=None)

    async def _open(self, process: int) -> None:
        stack = self._stacks[process] = AsyncExitStack()
        rig = opened(self._uri, self.documents.database.name, **SETTINGS[process])
        self.rigs[process] = await stack.enter_async_context(rig)
        self.rigs[process].clock.now = self.now

    async def _restart(self, process: int) -> None:
        await self._stacks.pop(process).aclose()
        await self._open(process)


@pytest.fixture
def world(mongo_uri: str, documents: Documents) -> Iterator[World]:
    made = World(mongo_uri, documents)
    try:
        made.start()
        yield made
    finally:
        made.stop()


class History(RuleBasedStateMachine):
    """The life of one campaign. A neighbour holds the same codes, and nothing that happens here is its business."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world
        # Another history's clock is not turned back: processes have seen it.
        world.set_clock(world.now + 3 * TTL)
        campaign_id = world.new_campaign()
        self.model = Model(campaign_id, world.now)
        self.neighbour = Model(campaign_id + "-2", world.now)
        self.replies: list[Reservation] = []
        self.watching: Sequence[int] = ()

    @initialize(
        stock=st.lists(st.sampled_from(CODES), max_size=len(CODES), unique=True),
        watching=st.sampled_from([(0, 1, 2), (0, 1, 2), (0,), (1,), ()]),
    )
    def begin(self, stock: list[str], watching: Sequence[int]) -> None:
        """Some processes are asked for counts after every step, others seldom: both must be right when they are."""
        self.watching = watching
        self._do(0, Upload(CODES, CodeType.TM), self.neighbour)
        self._do(1, Reserve(CodeType.TM, 3), self.neighbour)
        if stock:
            self._do(0, Upload(stock, CodeType.TM))

    @rule(
        process=PROCESSES,
        codes=SOME_CODES | MANY_CODES,
        code_type=TYPES,
        batch_size=st.sampled_from([None, 2]),
    )
    def upload(self, process: int, codes: list[str], code_type: CodeType, batch_size: int | None) -> None:
        self._do(process, Upload(codes, code_type, batch_size))

    @rule(process=PROCESSES, code_type=TYPES, count=SIZES)
    def reserve(self, process: int, code_type: CodeType, count: int) -> None:
        self.replies.append(self._do(process, Reserve(code_type, count)))

    @rule(process=PROCESSES, codes=SOME_CODES)
    def assign(self, process: int, codes: list[str]) -> None:
        self._do(process, Assign([*codes, "unknown"]))

    @rule(process=PROCESSES, codes=SOME_CODES)
    def release(self, process: int, codes: list[str]) -> None:
        self._do(process, Release([*codes, "unknown"]))

    @rule(
        process=PROCESSES, which=ONE_OF_THEM, change=st.sampled_from([Assign, Release]), twice=st.booleans()
    )
    def change_what_was_lent(
        self, process: int, which: int, change: Callable[[list[str]], Operation], *, twice: bool
    ) -> None:
        """Send back what a reservation lent, however long ago; a caller may send it again elsewhere."""
        if self.replies:
            codes = [one.code for one in self.replies[-1 - which % len(self.replies)].codes]
            self._do(process, change(codes))
            if twice:
                self._do((process + 1) % len(SETTINGS), change(codes))

    @rule(process=PROCESSES, code_type=TYPES)
    def count(self, process: int, code_type: CodeType) -> None:
        self._do(process, Count(code_type))
        for status in Status:
            self._do(process, CountStatus(code_type, status))

    @rule(process=PROCESSES)
    def restart(self, process: int) -> None:
        """Another process takes its place, which has seen nothing of all this."""
        self.world.restart(process)

    @rule(milliseconds=st.integers(1, 5_000))
    def wait(self, milliseconds: int) -> None:
        self._wait_until(self.model.now + milliseconds * MOMENT)

    @rule(time=st.sampled_from([TTL / 2, TTL - MOMENT, TTL, 2 * TTL]))
    def wait_long(self, time: timedelta) -> None:
        self._wait_until(self.model.now + time)

    @rule(which=ONE_OF_THEM, moments=st.sampled_from([-1, 0, 0, 1]))
    def wait_for_the_end_of_a_hold(self, which: int, moments: int) -> None:
        ends = sorted(
            {one.reserved + TTL for one in self.model.codes.values() if one.reserved and not one.assigned}
        )
        coming = [end for end in ends if end > self.model.now]
        if coming:
            self._wait_until(max(self.model.now, coming[which % len(coming)] + moments * MOMENT))

    @rule(
        codes=SOME_CODES,
        code_type=TYPES,
        held=FOREIGN_DATES | st.none(),
        assigned=st.sampled_from([None, None, timedelta(days=2)]),
    )
    def foreign_insert(
        self, codes: list[str], code_type: CodeType, held: timedelta | None, assigned: timedelta | None
    ) -> None:
        now = self.model.now
        for code in set(codes) - self.model.codes.keys():
            self.model.codes[code] = Code(
                code_type,
                saved=now - timedelta(days=3),
                reserved=None if held is None else now - held,
                reserve_id=None if held is None else "foreign",
                assigned=None if assigned is None else now - assigned,
            )
            self.world.documents.insert_one(self.model.documents()[code])

    @rule(codes=SOME_CODES)
    def foreign_delete(self, codes: list[str]) -> None:
        self.world.documents.delete_many(self._foreign(codes))
        for code in codes:
            self.model.codes.pop(code, None)

    @rule(codes=SOME_CODES, held=FOREIGN_DATES)
    def foreign_hold(self, codes: list[str], held: timedelta) -> None:
        """Move the beginning of holds, as one does who will not wait for their end, or hold what was not held."""
        self._change(codes, {"$set": {"date.reserved": self.model.now - held, "reserveId": "foreign"}})

    @rule(codes=SOME_CODES)
    def foreign_release(self, codes: list[str]) -> None:
        self._change(codes, {"$unset": {"date.reserved": "", "reserveId": ""}})

    @rule(codes=SOME_CODES, assigned=st.booleans())
    def foreign_assign(self, codes: list[str], *, assigned: bool) -> None:
        field = {"date.assigned": self.model.now - TTL}
        self._change(codes, {"$set": field} if assigned else {"$unset": field})

    @rule(codes=SOME_CODES, code_type=TYPES)
    def foreign_type(self, codes: list[str], code_type: CodeType) -> None:
        self._change(codes, {"$set": {"type": code_type.value}})

    @rule(
        reserves=st.lists(RESERVES, min_size=2, max_size=8),
        counts=st.lists(COUNTS, max_size=4),
    )
    def reserve_at_once(self, reserves: list[Asked], counts: list[Asked]) -> None:
        """Callers of all processes reserve at once, some count: all as if one came after the other."""
        self._at_once([*reserves, *counts])

    @rule(
        reserves=st.lists(RESERVES, min_size=1, max_size=3),
        changes=st.lists(CHANGES, min_size=1, max_size=3),
    )
    def everything_at_once(self, reserves: list[Asked], changes: list[Asked]) -> None:
        self._at_once([*reserves, *changes])

    @invariant()
    def documents_are_the_models(self) -> None:
        for model in (self.model, self.neighbour):
            assert self._stored(model) == model.documents()

    @invariant()
    def counts_are_exact(self) -> None:
        self._all_count(self.watching)

    def teardown(self) -> None:
        try:
            # After a failure, another would hide it.
            if sys.exc_info()[0] is None:
                self._all_count(range(len(SETTINGS)))
        finally:
            self.world.documents.delete_many(
                {"_id.campaign_id": {"$in": [self.model.campaign_id, self.neighbour.campaign_id]}}
            )

    def _do(self, process: int, operation: Operation, model: Model | None = None) -> Any:
        model = model or self.model
        [reply] = self._ask([(process, operation, 0)], model)
        operation.explain(model, reply)
        return reply

    def _at_once(self, asked: list[Asked]) -> None:
        replies = self._ask(asked, self.model)
        told = [(operation, reply) for (_, operation, _), reply in zip(asked, replies, strict=True)]
        found = explained(self.model, told, self._stored(self.model))
        assert found is not None, f"no order of these explains replies and documents: {written(told)}"
        self.model = found
        self.replies += [reply for reply in replies if isinstance(reply, Reservation)]

    def _all_count(self, processes: Sequence[int]) -> None:
        for model in (self.model, self.neighbour):
            asked = [(process, Count(code_type), 0) for process in processes for code_type in CodeType]
            for (_, count, _), reply in zip(asked, self._ask(asked, model), strict=True):
                count.explain(model, reply)

    def _ask(self, asked: Sequence[Asked], model: Model) -> list[Any]:
        async def ask(process: int, operation: Operation, milliseconds: int) -> Any:
            if milliseconds:
                await asyncio.sleep(milliseconds / 1000)
            return await operation.ask(self.world.rigs[process], model.campaign_id)

        async def ask_all() -> list[Any]:
            return await asyncio.gather(*(ask(*one) for one in asked))

        return self.world.run(ask_all())

    def _wait_until(self, now: datetime) -> None:
        self.world.set_clock(now)
        self.model.now = self.neighbour.now = now

    def _foreign(self, codes: list[str]) -> dict[str, Any]:
        return {"_id": {"$in": [{"campaign_id": self.model.campaign_id, "code": code} for code in codes]}}

    def _change(self, codes: list[str], change: dict[str, Any]) -> None:
        """Change documents past the service, and read back what they have become."""
        self.world.documents.update_many(self._foreign(codes), change)
        for code, one in stored(self.world.documents, **self._foreign(codes)).items():
            self.model.codes[code] = Code(
                CodeType(one["type"]),
                one["date"]["saved"],
                one["date"].get("reserved"),
                one.get("reserveId"),
                one["date"].get("assigned"),
            )

    def _stored(self, model: Model) -> dict[str, dict[str, Any]]:
        return stored(self.world.documents, **{"_id.campaign_id": model.campaign_id})


# PyMongo's asyncio client forgets the socket with which it is just connecting when it is closed.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.timeout(600)  # a history that fails is made short, which takes its time
def test_every_history_goes_as_the_model_says(world: World) -> None:
    class HistoryHere(History):
        def __init__(self) -> None:
            super().__init__(world)

    run_state_machine_as_test(
        HistoryHere,
        settings=settings(
            max_examples=30,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )

"""Three processes that share one database and the test's clock, and what hypothesis asks of them."""

import asyncio
import itertools
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from datetime import datetime, timedelta
from typing import Any, TypeVar

from hypothesis import strategies as st

from codesvc.datastore.indexes import ensure_indexes
from codesvc.models import CodeType

from .model import Model
from .operations import Assign, Count, Operation, Release, Reserve, Upload, explained, written
from .rig import START, TTL, Documents, Rig, opened, stored

T = TypeVar("T")

# Each process has its own driver and way of uploading.
SETTINGS: list[dict[str, Any]] = [
    {"mongo_driver": "motor"},
    {"mongo_driver": "pymongo"},
    {"mongo_driver": "motor", "write_strategy": "upsert"},
]
CODES = [f"CODE-{number:02}" for number in range(14)] + ["é", "\uffff", "😀"]

PROCESSES = st.integers(0, len(SETTINGS) - 1)
TYPES = st.sampled_from(list(CodeType))
ANY_CODE = st.lists(st.sampled_from(CODES), min_size=1, max_size=1)
SIZES = st.integers(1, 4) | st.integers(1, len(CODES) + 2)

# What is asked at once is not asked at the same moment: a little later, it meets another step of those before it.
MILLISECONDS = st.sampled_from([0, 0, 0, 0, 1, 2, 4, 8, 12])
Asked = tuple[int, Operation, int]
"""A process, what it is asked, and after how many milliseconds."""

# How long a hold lasts; most last as long as is usual.
LENGTHS = st.sampled_from([TTL, TTL, TTL, TTL - timedelta(milliseconds=1), TTL / 2, timedelta(seconds=1)])


@st.composite
def reserve(draw: st.DrawFn) -> Reserve:
    """A reserve, with a least number of codes or without."""
    count = draw(SIZES)
    minimum = draw(st.sampled_from([0, 0, 1, count]) | st.integers(0, count))
    return Reserve(draw(TYPES), count, minimum, draw(LENGTHS))


RESERVES = st.tuples(PROCESSES, reserve(), MILLISECONDS)
COUNTS = st.tuples(PROCESSES, st.builds(Count, TYPES), MILLISECONDS)
# One code each: what changes several codes changes them one after the other, and others may come in between.
CHANGES = st.tuples(
    PROCESSES,
    st.builds(Assign, ANY_CODE) | st.builds(Release, ANY_CODE) | st.builds(Upload, ANY_CODE, TYPES),
    MILLISECONDS,
)


class Processes:
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
        self.failures: list[str] = []
        """What happened whenever something failed: what depends on timing need not fail again when it is repeated."""

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

    def ask(self, model: Model, asked: Sequence[Asked]) -> list[Any]:
        """Ask all of it at once, and return the replies in the same order."""

        async def ask(process: int, operation: Operation, milliseconds: int) -> Any:
            if milliseconds:
                await asyncio.sleep(milliseconds / 1000)
            return await operation.ask(self.rigs[process], model.campaign_id)

        async def ask_all() -> list[Any]:
            return await asyncio.gather(*(ask(*one) for one in asked))

        return self.run(ask_all())

    def at_once(self, model: Model, asked: Sequence[Asked], steps: list[str]) -> tuple[Model, list[Any]]:
        """Ask all of it at once; return what the model is after it, whatever the order, and the replies.

        What happens is written down in ``steps``.
        """
        replies = self.ask(model, asked)
        for (process, operation, after), reply in zip(asked, replies, strict=True):
            steps.append(f"at once, process {process}, after {after} ms: {written(operation, reply)}")
        told = [(operation, reply) for (_, operation, _), reply in zip(asked, replies, strict=True)]
        found = explained(model, told, self.stored(model))
        assert found is not None, "what was asked at once happened in no order"
        return found, replies

    def stored(self, model: Model) -> dict[str, dict[str, Any]]:
        """Return the documents of the model's campaign by code."""
        return stored(self.documents, **{"_id.campaign_id": model.campaign_id})

    def delete(self, *models: Model) -> None:
        campaigns = [model.campaign_id for model in models]
        self.documents.delete_many({"_id.campaign_id": {"$in": campaigns}})

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


@contextmanager
def started(uri: str, documents: Documents) -> Iterator[Processes]:
    made = Processes(uri, documents)
    try:
        made.start()
        yield made
    finally:
        made.stop()


@contextmanager
def telling(processes: Processes) -> Iterator[None]:
    """Print what failed first, and what failed last, which hypothesis may have made shorter."""
    try:
        yield
    except BaseException:
        for steps in dict.fromkeys(processes.failures[:1] + processes.failures[-1:]):
            print(f"What failed:\n{steps}")
        raise

"""Any history of uploads, reservations, changes, waits and foreign writes goes as a plain model says.

Three processes share one database and the test's clock; what several are asked at once has to have some order.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.errors import HypothesisException
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from codesvc.models import CodeType, Reservation, Status

from .model import Code, Model
from .operations import (
    Assign,
    AssignHeld,
    Count,
    CountStatus,
    Look,
    Operation,
    Release,
    ReleaseHeld,
    Reserve,
    Upload,
    written,
)
from .processes import (
    CHANGES,
    CODES,
    COUNTS,
    PROCESSES,
    RESERVES,
    SETTINGS,
    TYPES,
    Asked,
    Processes,
    reserve,
    started,
    telling,
)
from .rig import TTL, Documents, stored

MOMENT = timedelta(milliseconds=1)

SOME_CODES = st.lists(st.sampled_from(CODES), min_size=1, max_size=8)
MANY_CODES = st.lists(st.sampled_from(CODES), min_size=6, max_size=24)
# An index into what there is at the time, whose number is not known when it is drawn.
ONE_OF_THEM = st.integers(0, 99)
# How long ago a foreign writer lets a hold begin.
FOREIGN_DATES = st.sampled_from(
    [timedelta(hours=25), TTL, TTL - MOMENT, timedelta(hours=1), timedelta(0), -timedelta(minutes=3)]
)


@pytest.fixture
def processes(mongo_uri: str, documents: Documents) -> Iterator[Processes]:
    with started(mongo_uri, documents) as running:
        yield running


class History(RuleBasedStateMachine):
    """The life of one campaign. A neighbour holds the same codes, and nothing that happens here is its business."""

    def __init__(self, processes: Processes) -> None:
        super().__init__()
        self.processes = processes
        # Another history's clock is not turned back: processes have seen it.
        processes.set_clock(processes.now + 3 * TTL)
        campaign_id = processes.new_campaign()
        self.model = Model(campaign_id, processes.now)
        self.neighbour = Model(campaign_id + "-2", processes.now)
        self.replies: list[Reservation] = []
        self.watching: Sequence[int] = ()
        self.steps: list[str] = []

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

    @rule(process=PROCESSES, wanted=reserve())
    def reserve(self, process: int, wanted: Reserve) -> None:
        if reply := self._do(process, wanted):
            self.replies.append(reply)

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

    @rule(process=PROCESSES, which=ONE_OF_THEM, change=st.sampled_from([Look, AssignHeld, ReleaseHeld]))
    def ask_of_a_reservation(self, process: int, which: int, change: Callable[[str], Operation]) -> None:
        """However long ago it was, and whoever holds its codes by now."""
        if self.replies:
            self._do(process, change(self.replies[-1 - which % len(self.replies)].reserve_id))

    @rule(process=PROCESSES, code_type=TYPES)
    def count(self, process: int, code_type: CodeType) -> None:
        self._do(process, Count(code_type))
        for status in Status:
            self._do(process, CountStatus(code_type, status))

    @rule(process=PROCESSES)
    def restart(self, process: int) -> None:
        """Another process takes its place, which has seen nothing of all this."""
        self.processes.restart(process)
        self.steps.append(f"process {process} is another")

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
            self.processes.documents.insert_one(self.model.documents()[code])
            self.steps.append(f"foreign: insert {code}: {self.model.codes[code]}")

    @rule(codes=SOME_CODES)
    def foreign_delete(self, codes: list[str]) -> None:
        self.processes.documents.delete_many(self._foreign(codes))
        self.steps.append(f"foreign: delete {sorted(set(codes))}")
        for code in codes:
            self.model.codes.pop(code, None)

    @rule(codes=SOME_CODES, held=FOREIGN_DATES)
    def foreign_hold(self, codes: list[str], held: timedelta) -> None:
        """Move the beginning of holds, as one does who will not wait for their end, or hold what was not held."""
        self._change(codes, {"$set": {"date.reserved": self.model.now - held, "reserveId": "foreign"}})

    @rule(codes=SOME_CODES)
    def foreign_release(self, codes: list[str]) -> None:
        self._change(codes, {"$unset": {"date.reserved": "", "date.held": "", "reserveId": ""}})

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
        """Callers of all processes reserve at once, as if one came after the other; some count amid that."""
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
            assert self.processes.stored(model) == model.documents()

    @invariant()
    def counts_are_exact(self) -> None:
        self._all_count(self.watching)

    def teardown(self) -> None:
        error = sys.exc_info()[1]
        try:
            # After a failure, another would hide it.
            if error is None:
                self._all_count(range(len(SETTINGS)))
        except AssertionError as late:
            error = late
            raise
        finally:
            if isinstance(error, Exception) and not isinstance(error, HypothesisException):
                self.processes.failures.append("\n".join([*self.steps, f"{type(error).__name__}: {error}"]))
            self.processes.delete(self.model, self.neighbour)

    def _do(self, process: int, operation: Operation, model: Model | None = None) -> Any:
        model = model or self.model
        [reply] = self.processes.ask(model, [(process, operation, 0)])
        where = "" if model is self.model else "neighbour, "
        self.steps.append(f"{where}process {process}: {written(operation, reply)}")
        operation.explain(model, reply)
        return reply

    def _at_once(self, asked: list[Asked]) -> None:
        self.model, replies = self.processes.at_once(self.model, asked, self.steps)
        self.replies += [reply for reply in replies if isinstance(reply, Reservation)]

    def _all_count(self, processes: Sequence[int]) -> None:
        self.steps.append(f"processes {list(processes)} count")
        for model in (self.model, self.neighbour):
            asked = [(process, Count(code_type), 0) for process in processes for code_type in CodeType]
            for (_, count, _), reply in zip(asked, self.processes.ask(model, asked), strict=True):
                count.explain(model, reply)

    def _wait_until(self, now: datetime) -> None:
        self.steps.append(f"{now - self.model.now} go by")
        self.processes.set_clock(now)
        self.model.now = self.neighbour.now = now

    def _foreign(self, codes: list[str]) -> dict[str, Any]:
        return {"_id": {"$in": [{"campaign_id": self.model.campaign_id, "code": code} for code in codes]}}

    def _change(self, codes: list[str], change: dict[str, Any]) -> None:
        """Change documents past the service, and read back what they have become."""
        self.processes.documents.update_many(self._foreign(codes), change)
        self.steps.append(f"foreign: {change} of {sorted(set(codes))}")
        for code, one in stored(self.processes.documents, **self._foreign(codes)).items():
            self.model.codes[code] = Code(
                CodeType(one["type"]),
                one["date"]["saved"],
                one["date"].get("reserved"),
                one.get("reserveId"),
                one["date"].get("assigned"),
                one["date"].get("held"),
            )


# PyMongo's asyncio client forgets the socket with which it is just connecting when it is closed.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.timeout(600)  # a history that fails is made short, which takes its time
def test_every_history_goes_as_the_model_says(processes: Processes) -> None:
    class HistoryHere(History):
        def __init__(self) -> None:
            super().__init__(processes)

    with telling(processes):
        run_state_machine_as_test(
            HistoryHere,
            settings=settings(
                max_examples=25,
                stateful_step_count=30,
                deadline=None,
                suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
            ),
        )

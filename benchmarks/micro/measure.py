"""Times one round of one contender, or nothing where what it finds is wrong."""

import traceback
from collections.abc import Callable
from typing import Any, Protocol

Key = tuple[str, str, str]
"""Suite, case, contender."""


class Timer(Protocol):
    """What is used of pytest-benchmark's fixture."""

    extra_info: dict[str, Any]

    def pedantic(self, target: Callable[[], object], *, rounds: int, iterations: int) -> object:
        """Call ``target`` and note how long it took."""


class Measure:
    """The rounds of one suite; ``faults`` remembers what is wrong with whom, over all of them."""

    def __init__(self, timer: Timer, suite: str, faults: dict[Key, str]) -> None:
        self._timer = timer
        self._suite = suite
        self._faults = faults

    def __call__(
        self, case: str, contender: str, run: Callable[[], object], *, amount: int, right: Callable[[], bool]
    ) -> None:
        """Time ``run``, which does ``amount`` units.

        ``right`` says whether that counts; it is called once for all rounds, and warms up what it calls.
        """
        key = (self._suite, case, contender)
        if key not in self._faults:
            self._faults[key] = _fault(right)
        fault = self._faults[key]
        self._timer.extra_info.update(
            suite=self._suite, case=case, contender=contender, amount=amount, fault=fault
        )
        self._timer.pedantic(_nothing if fault else run, rounds=1, iterations=1)


def _fault(right: Callable[[], bool]) -> str:
    """Say what is wrong with a contender's result; empty if it is right."""
    try:
        return "" if right() else "the result is wrong"
    except Exception:  # noqa: BLE001 - a contender that fails has no figure, and the others still have theirs
        return traceback.format_exc(limit=-3)


def _nothing() -> None:
    """Be timed instead of what is wrong."""

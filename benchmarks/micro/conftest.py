"""Rounds that take turns, on one core, and a check before a time counts.

pytest-benchmark would time one contender after the other, and a machine that slows down meanwhile would decide who
wins. Here every test is one round of one contender, and the tests of a case are ordered round by round.
"""

import os

# Read when polars is imported.
os.environ["POLARS_MAX_THREADS"] = "1"

import traceback
from collections.abc import Callable, Iterator
from typing import Any, Final

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

ROUNDS: Final = 5

Key = tuple[str, str, str]
"""Suite, case, contender."""

_FAULTS: Final[pytest.StashKey[dict[Key, str]]] = pytest.StashKey()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--quick", action="store_true", help="one round on small data: the benchmarks still run")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "round_number" in metafunc.fixturenames:
        metafunc.parametrize("round_number", range(1 if metafunc.config.getoption("--quick") else ROUNDS))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places: dict[object, int] = {}

    def place(item: pytest.Item) -> tuple[int, int, int]:
        parameters: dict[str, Any] = item.callspec.params if isinstance(item, pytest.Function) else {}
        case = (item.path, parameters.get("case"))
        return (
            places.setdefault(item.path, len(places)),
            places.setdefault(case, len(places)),
            parameters.get("round_number", 0),
        )

    items.sort(key=place)


class Measure:
    """Times one round of one contender; or nothing, if what it finds is wrong."""

    def __init__(self, benchmark: BenchmarkFixture, suite: str, faults: dict[Key, str]) -> None:
        self._benchmark = benchmark
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
        self._benchmark.extra_info.update(
            suite=self._suite, case=case, contender=contender, amount=amount, fault=fault
        )
        timed = _nothing if fault else run
        self._benchmark.pedantic(timed, rounds=1, iterations=1)  # type: ignore[no-untyped-call]


@pytest.fixture
def measure(benchmark: BenchmarkFixture, request: pytest.FixtureRequest, round_number: int) -> Measure:
    benchmark.extra_info["round"] = round_number
    faults = request.config.stash.setdefault(_FAULTS, {})
    return Measure(benchmark, request.path.stem.removeprefix("test_"), faults)


@pytest.fixture(scope="session")
def quick(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--quick"))


@pytest.fixture(scope="session", autouse=True)
def server_core() -> Iterator[int]:
    """Keep this process to the last core; a server that it starts may have the first."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[-1]})
    yield cores[0]
    os.sched_setaffinity(0, cores)


def _fault(right: Callable[[], bool]) -> str:
    """Say what is wrong with a contender's result; empty if it is right."""
    try:
        return "" if right() else "the result is wrong"
    except Exception:  # noqa: BLE001 - a contender that fails has no figure, and the others still have theirs
        return traceback.format_exc(limit=-3)


def _nothing() -> None:
    """Be timed instead of what is wrong."""

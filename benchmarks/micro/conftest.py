"""Rounds that take turns, on one core, and a check before a time counts.

pytest-benchmark would time one contender after the other, and a machine that slows down meanwhile would decide who
wins. Here every test is one round of one contender, and the tests of a case are ordered round by round.
"""

import os

# Read when polars is imported.
os.environ["POLARS_MAX_THREADS"] = "1"

from collections.abc import Iterator
from typing import Any, Final

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.micro.measure import Key, Measure

ROUNDS: Final = 5
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

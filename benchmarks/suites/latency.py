"""Who else is served while an upload runs: the event loop's lag, and a reserve beside it."""

import threading
import time
from collections.abc import Callable
from statistics import median, quantiles

from benchmarks.bench import CAMPAIGN, Bench, Step
from benchmarks.processes import Caller, ServiceUnderTest
from benchmarks.report import Report, Table, Target

_PROBES = 200
_PAUSE = 0.005


def run(bench: Bench, report: Report, rounds: int) -> None:  # noqa: ARG001 - the probes are the rounds
    """Reserve one code at a time, first alone and then beside an upload."""
    count = 100_000 if report.quick else 4_000_000
    stock = bench.file(50_000, seed=3)
    file = bench.file(count)
    with bench.database() as name, bench.service(name) as running, running.caller() as probe:
        bench.upload(running, name, Step("stock", stock), stored=0)
        _probe(probe, 20)
        idle, _ = _watch(probe, running, lambda probes: probes < _PROBES)
        done = threading.Event()
        outcome = []

        def upload() -> None:
            outcome.append(bench.upload(running, name, Step("beside", file), stored=stock.codes))
            done.set()

        thread = threading.Thread(target=upload)
        thread.start()
        busy, lags = _watch(probe, running, lambda _probes: not done.is_set())
        thread.join()
    right = outcome[0].rate is not None
    lag = quantiles(lags, n=100)[98] if len(lags) > 2 else 0.0
    ratio = median(busy) / median(idle)
    report.tables.append(
        Table(
            "Beside an upload",
            ("figure", "idle", "beside"),
            [
                [
                    "reserve of one code, median, ms",
                    f"{1000 * median(idle):.2f}",
                    f"{1000 * median(busy):.2f}",
                ],
                ["event loop lag, 99th percentile, ms", "", f"{1000 * lag:.1f}"],
            ],
        )
    )
    report.targets += [
        Target(
            "event loop lag beside an upload, p99",
            "< 50 ms",
            f"{1000 * lag:.1f} ms",
            lag < 0.05 if right else None,
        ),
        Target("reserve beside an upload, of idle", "< 3.00", f"{ratio:.2f}", ratio < 3 if right else None),
    ]


def _watch(
    caller: Caller, running: ServiceUnderTest, going_on: Callable[[int], bool]
) -> tuple[list[float], list[float]]:
    """Reserve and read the event loop's lag by turns, with pauses: the same way, whatever else is going on."""
    seconds: list[float] = []
    lags: list[float] = []
    while going_on(len(seconds)):
        seconds += _probe(caller, 1)
        lags.append(running.metric("event_loop_lag_seconds"))
        time.sleep(_PAUSE)
    return seconds, lags


def _probe(caller: Caller, times: int) -> list[float]:
    seconds = []
    for _ in range(times):
        started = time.perf_counter()
        caller.call("POST", f"/v1/{CAMPAIGN}/reserve?type=tm&count=1")
        seconds.append(time.perf_counter() - started)
    return seconds

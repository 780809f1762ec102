"""Metrics: aioprometheus holds and renders them; what every request touches waits in plain cells.

aioprometheus finds a series by encoding its labels as JSON, twice for each observation, and walks every
bucket: 14 µs for one counter and one histogram. So what requests touch is a list: some hundred observations at a
time are sorted into cells, which takes 0.2 µs each in a loop (and several times that in the middle of a request), and
the cells are poured into the library's collectors when somebody reads them.

NOTE: aioprometheus does not escape label values. Every value used here comes from a closed set.
"""

import asyncio
import gc
import os
import resource
import threading
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Final

from aioprometheus.collectors import Counter, Gauge, Histogram, Registry
from aioprometheus.histogram import Histogram as HistogramValue
from aioprometheus.renderer import render as render_registry

LATENCY_BUCKETS: Final = (
    *(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0),
)
"""Upper bounds in seconds: from a reserve out of memory to an upload of a hundred million codes."""


_MAX_NOTED: Final = 256

Values = tuple[str | int, ...]
"""The values of a series' labels, in the order of their names."""


class Merge(StrEnum):
    """How the values that several processes of one pod have for one series become the pod's value."""

    SUM = "sum"
    MAX = "max"
    MIN = "min"


class MergedGauge(Gauge):
    """A gauge that says how it is merged. Counters and histograms need not: they are added up.

    A series that not every process shows is merged from those that do.
    """

    def __init__(self, name: str, doc: str, *, merge: Merge, registry: Registry) -> None:
        super().__init__(name, doc, registry=registry)
        self.merge = merge

    def show(self, series: Iterable[tuple[dict[str, str], float]]) -> None:
        """Show just these series: labels and values."""
        self.values.clear()
        for labels, value in series:
            self.set(labels, value)


class PlainCounter:
    """A counter with fixed label names.

    Series in ``known`` are shown from the start, so that their first step is seen as one.
    """

    def __init__(
        self,
        name: str,
        doc: str,
        registry: Registry,
        *,
        labels: tuple[str, ...] = (),
        known: Iterable[Values] = (),
    ) -> None:
        self._labels = labels
        self._collector = Counter(name, doc, registry=registry)
        self._cells: dict[Values, float] = dict.fromkeys(known if labels else ((),), 0)

    def add(self, values: Values = (), amount: float = 1) -> None:
        """Add to one series; ``values`` are the labels' values, in the order of their names."""
        self._cells[values] = self._cells.get(values, 0) + amount

    def collect(self) -> None:
        """Bring the library's collector up to date."""
        for values, amount in list(self._cells.items()):
            self._collector.set(dict(zip(self._labels, map(str, values), strict=True)), amount)


class LatencyHistogram:
    """A histogram of seconds with fixed label names, and optionally a counter of the same observations.

    Series in ``known`` are shown from the start.
    """

    def __init__(
        self,
        name: str,
        doc: str,
        labels: tuple[str, ...],
        registry: Registry,
        *,
        counter: Counter | None = None,
        known: Iterable[Values] = (),
    ) -> None:
        self._labels = labels
        self._collector = Histogram(name, doc, registry=registry, buckets=LATENCY_BUCKETS)
        self._counter = counter
        self._cells: dict[Values, _Cell] = {}
        self._noted: list[tuple[Values, float]] = []
        for values in known:
            self._make(values)

    def observe(self, values: Values, seconds: float) -> None:
        """Record one observation; ``values`` are the labels' values, in the order of their names."""
        self._noted.append((values, seconds))
        if len(self._noted) >= _MAX_NOTED:
            self._sort_in()

    def _sort_in(self) -> None:
        for values, seconds in self._noted:
            cell = self._cells.get(values) or self._make(values)
            cell.counts[bisect_left(LATENCY_BUCKETS, seconds)] += 1
            cell.sum += seconds
        self._noted.clear()

    def collect(self) -> None:
        """Bring the library's collectors up to date."""
        self._sort_in()
        for cell in self._cells.values():
            if cell.value is None:
                cell.value = HistogramValue(*LATENCY_BUCKETS)
                self._collector.set_value(cell.labels, cell.value)
            total = 0
            for bound, count in zip(cell.value.buckets, cell.counts, strict=True):
                total += count
                cell.value.buckets[bound] = total
            cell.value.observations = total
            cell.value.sum = cell.sum
            if self._counter is not None:
                self._counter.set(cell.labels, total)

    def _make(self, values: Values) -> "_Cell":
        cell = self._cells[values] = _Cell(dict(zip(self._labels, map(str, values), strict=True)))
        return cell


class EventLoopLag:
    """How late the event loop runs what is due: a timer every half second, and by how much it was missed."""

    INTERVAL: Final = 0.5
    WINDOW: Final = 120
    """Samples that the maximum looks back on: one minute."""

    def __init__(self, registry: Registry) -> None:
        self._last = MergedGauge(
            "event_loop_lag_seconds",
            "How late the event loop ran its last timer.",
            merge=Merge.MAX,
            registry=registry,
        )
        self._worst = MergedGauge(
            "event_loop_lag_max_seconds",
            "The latest a timer ran during the last minute.",
            merge=Merge.MAX,
            registry=registry,
        )
        self._samples: deque[float] = deque([0.0], maxlen=self.WINDOW)
        self._handle: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin to measure the running loop; once begun, further calls do nothing."""
        if self._handle is None:
            self._schedule(asyncio.get_running_loop())

    def stop(self) -> None:
        """Cease to measure."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def collect(self) -> None:
        """Bring the library's collectors up to date."""
        self._last.set({}, round(self._samples[-1], 6))
        self._worst.set({}, round(max(self._samples), 6))

    def _schedule(self, loop: asyncio.AbstractEventLoop) -> None:
        due = loop.time() + self.INTERVAL
        self._handle = loop.call_at(due, self._tick, loop, due)

    def _tick(self, loop: asyncio.AbstractEventLoop, due: float) -> None:
        self._samples.append(max(0.0, loop.time() - due))
        self._schedule(loop)


class RuntimeMetrics:
    """Figures of the process and of the garbage collector, named as by Prometheus's own client."""

    def __init__(self, registry: Registry) -> None:
        def gauge(name: str, doc: str, merge: Merge = Merge.SUM) -> MergedGauge:
            return MergedGauge(name, doc, merge=merge, registry=registry)

        def counter(name: str, doc: str) -> Counter:
            return Counter(name, doc, registry=registry)

        self._resident = gauge("process_resident_memory_bytes", "Resident memory size in bytes.")
        self._virtual = gauge("process_virtual_memory_bytes", "Virtual memory size in bytes.")
        self._cpu = counter("process_cpu_seconds_total", "Total user and system CPU time spent in seconds.")
        self._open_fds = gauge("process_open_fds", "Number of open file descriptors.")
        self._max_fds = gauge("process_max_fds", "Maximum number of open file descriptors.", Merge.MIN)
        self._threads = gauge("process_threads", "Number of Python threads.")
        self._collections = counter(
            "python_gc_collections_total", "Number of times this generation was collected."
        )
        self._collected = counter("python_gc_objects_collected_total", "Objects collected during gc.")
        self._uncollectable = counter(
            "python_gc_objects_uncollectable_total", "Uncollectable objects found during gc."
        )
        gauge(
            "process_start_time_seconds", "Start time of the process since unix epoch in seconds.", Merge.MIN
        ).set({}, _start_time())

    def collect(self) -> None:
        """Bring the library's collectors up to date."""
        times = os.times()
        self._cpu.set({}, round(times.user + times.system, 6))
        self._max_fds.set({}, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
        self._threads.set({}, threading.active_count())
        try:
            virtual, resident = Path("/proc/self/statm").read_bytes().split()[:2]
            self._virtual.set({}, int(virtual) * resource.getpagesize())
            self._resident.set({}, int(resident) * resource.getpagesize())
            self._open_fds.set({}, len(os.listdir("/proc/self/fd")))  # noqa: PTH208 - names are enough
        except OSError:
            # NOTE: kibibytes, and the peak: the best there is without /proc.
            self._resident.set({}, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
        for generation, stats in enumerate(gc.get_stats()):
            labels = {"generation": str(generation)}
            self._collections.set(labels, stats["collections"])
            self._collected.set(labels, stats["collected"])
            self._uncollectable.set(labels, stats["uncollectable"])


def show_service(registry: Registry, version: str) -> None:
    """Show which build this is, and that it is one process that serves and has replaced none."""
    MergedGauge(
        "codesvc_build_info", "The version that runs; the value is 1.", merge=Merge.MAX, registry=registry
    ).set({"version": version}, 1)
    MergedGauge("codesvc_workers", "Processes that serve.", merge=Merge.SUM, registry=registry).set({}, 1)
    Counter("codesvc_worker_restarts_total", "Workers that died and were replaced.", registry=registry).set(
        {}, 0
    )


def render(registry: Registry, accept: Sequence[str] = ()) -> tuple[bytes, str]:
    """Render every collector; returns the text and its content type.

    aioprometheus knows one format, the Prometheus text format 0.0.4, and gives it whatever is asked for.
    """
    body, headers = render_registry(registry, list(accept))
    return body, headers["Content-Type"]


class _Cell:
    __slots__ = ("counts", "labels", "sum", "value")

    def __init__(self, labels: dict[str, str]) -> None:
        self.labels = labels
        self.counts = [0] * (len(LATENCY_BUCKETS) + 1)
        self.sum = 0.0
        self.value: HistogramValue | None = None


def _start_time() -> float:
    """When the process began: field 22 of /proc/self/stat, in clock ticks since the boot (proc(5))."""
    try:
        ticks = int(Path("/proc/self/stat").read_bytes().rpartition(b")")[2].split()[19])
        boot = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
        return round(boot + ticks / os.sysconf("SC_CLK_TCK"), 3)
    except (OSError, AttributeError):
        return time.time()

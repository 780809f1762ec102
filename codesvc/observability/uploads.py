"""Metrics of uploads: what has passed, and what those that run at this moment are doing."""

from collections.abc import Callable
from time import monotonic
from typing import Final, Protocol

from aioprometheus.collectors import Registry

from codesvc.observability.metrics import LatencyHistogram, Merge, MergedGauge, PlainCounter

CODE_TYPES: Final = ("tm", "external")
UPLOAD_OUTCOMES: Final = ("inserted", "updated", "invalid")
"""What becomes of a row."""

ENDS: Final = ("succeeded", "rejected", "failed", "cancelled")
"""What becomes of an upload."""

LEFT: Final = ("handed_over", "lapsed")
"""How an upload was left that another process takes over."""

REASONS: Final = ("drain", "unavailable", "lost")
"""Why a process leaves an upload to others."""


class Running(Protocol):
    """An upload under way.

    Attributes:
        batches_waiting: batches that are ready to be written and are not yet.
        moved: when bytes were last read or a batch was last confirmed, by the monotonic clock.

    """

    batches_waiting: int
    moved: float


class UploadMetrics:
    """Counts uploads, their codes and their batches; belongs to the thread of the event loop.

    Attributes:
        running: the uploads under way.
        batches: those being written.
        queued: tells how many uploads wait for their turn, whenever the metrics are read.

    """

    def __init__(self, registry: Registry) -> None:
        self.codes = PlainCounter(
            "upload_codes_total",
            "Codes that uploads inserted or updated, and invalid rows.",
            registry,
            labels=("type", "outcome"),
            known=[(code_type, outcome) for code_type in CODE_TYPES for outcome in UPLOAD_OUTCOMES],
        )
        self.bytes = PlainCounter("upload_bytes_total", "Bytes of files that uploads read.", registry)
        self.ended = PlainCounter(
            "uploads_total",
            "Uploads that have ended, by type and outcome.",
            registry,
            labels=("type", "outcome"),
            known=[(code_type, end) for code_type in CODE_TYPES for end in ENDS],
        )
        self.taken_over = PlainCounter(
            "uploads_taken_over_total",
            "Uploads that this process took over, from one that left them or whose lease had run out.",
            registry,
            labels=("from",),
            known=[(one,) for one in LEFT],
        )
        self.handed_over = PlainCounter(
            "uploads_handed_over_total",
            "Uploads that this process left to others, by reason.",
            registry,
            labels=("reason",),
            known=[(one,) for one in REASONS],
        )
        self.duration = LatencyHistogram(
            "upload_duration_seconds",
            "Seconds from the beginning of an upload to its end.",
            ("outcome",),
            registry,
            known=[(end,) for end in ENDS],
        )
        self.batch_duration = LatencyHistogram(
            "upload_batch_duration_seconds",
            "Seconds that the bulk write of one batch took, retries included.",
            ("outcome",),
            registry,
            known=[("ok",), ("error",)],
        )
        self.running: set[Running] = set()
        self.batches = 0
        self.queued: Callable[[], int] = int

        def gauge(name: str, doc: str, merge: Merge = Merge.SUM) -> MergedGauge:
            return MergedGauge(name, doc, merge=merge, registry=registry)

        self._in_flight = gauge(
            "upload_batches_in_flight", "Batches of uploads being written at this moment."
        )
        self._waiting = gauge("upload_batches_waiting", "Batches that are ready, and wait to be written.")
        self._running = gauge("uploads_running", "Uploads under way.")
        self._queued = gauge("uploads_queued", "Uploads that wait for their turn.")
        self._stalled = gauge(
            "upload_stalled_seconds",
            "The longest time for which an upload under way has neither read nor stored anything.",
            Merge.MAX,
        )

    def collect(self) -> None:
        """Bring the library's collectors up to date."""
        counters = (self.codes, self.bytes, self.ended, self.taken_over, self.handed_over)
        for part in (*counters, self.duration, self.batch_duration):
            part.collect()
        now = monotonic()
        self._in_flight.set({}, self.batches)
        self._waiting.set({}, sum(one.batches_waiting for one in self.running))
        self._running.set({}, len(self.running))
        self._queued.set({}, self.queued())
        self._stalled.set({}, round(max((now - one.moved for one in self.running), default=0.0), 3))

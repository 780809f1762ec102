"""Metrics of what codesvc depends on: the connections to MongoDB, and the requests to S3."""

from collections.abc import Callable
from threading import Lock

from aioprometheus.collectors import Registry

from codesvc.observability.metrics import LatencyHistogram, Merge, MergedGauge, PlainCounter

DatabaseView = Callable[[], tuple[int, float | None]]
"""Tells how many connections there may be (0: no limit), and how many seconds the furthest secondary is behind."""

_OK = {True: ("ok",), False: ("failed",)}


class DatabaseMetrics:
    """Connections and retries. What is told here may come from any thread: Motor works in several.

    Attributes:
        view: asked whenever the metrics are read.

    """

    def __init__(self, registry: Registry) -> None:
        self.view: DatabaseView | None = None
        self._lock = Lock()
        self._open = 0
        self._in_use = 0
        self._retries = PlainCounter(
            "datastore_retries_total",
            "Commands sent to MongoDB again after a network error or a failover.",
            registry,
        )
        self._checkout = LatencyHistogram(
            "datastore_pool_checkout_seconds",
            "Seconds that an operation waited for a connection to MongoDB.",
            ("outcome",),
            registry,
            known=_OK.values(),
        )

        def gauge(name: str, doc: str, merge: Merge = Merge.SUM) -> MergedGauge:
            return MergedGauge(name, doc, merge=merge, registry=registry)

        self._connections = gauge("datastore_pool_connections", "Connections to MongoDB, by state.")
        self._max = gauge("datastore_pool_max_connections", "Connections to MongoDB that there may be.")
        self._lag = gauge(
            "datastore_replica_lag_seconds",
            "How far the furthest secondary is behind the primary, as the driver sees it.",
            Merge.MAX,
        )

    def retried(self) -> None:
        """Count a command that is sent again."""
        with self._lock:
            self._retries.add()

    def connections(self, *, opened: int = 0, taken: int = 0) -> None:
        """Add to the connections that are open, and to those in use."""
        with self._lock:
            self._open += opened
            self._in_use += taken

    def awaited(self, seconds: float, *, ok: bool) -> None:
        """Note how long an operation waited for a connection, and whether it got one, which is then in use."""
        with self._lock:
            self._in_use += ok
            self._checkout.observe(_OK[ok], seconds)

    def collect(self) -> None:
        """Bring the library's collectors up to date."""
        with self._lock:
            self._retries.collect()
            self._checkout.collect()
            self._connections.set({"state": "open"}, self._open)
            self._connections.set({"state": "in_use"}, self._in_use)
        if self.view is not None:
            most, lag = self.view()
            self._max.set({}, most)
            self._lag.show([] if lag is None else [({}, round(lag, 3))])


class StorageMetrics:
    """Requests to S3; belongs to the thread of the event loop."""

    def __init__(self, registry: Registry) -> None:
        self._requests = LatencyHistogram(
            "storage_request_duration_seconds",
            "Seconds from sending a request to S3 to the head of its reply.",
            ("operation", "outcome"),
            registry,
            known=[("GetObject", "ok"), ("GetObject", "error")],
        )
        self._retries = PlainCounter("storage_retries_total", "Requests sent to S3 again.", registry)

    def requested(self, operation: str, seconds: float, *, ok: bool) -> None:
        """Note one request, and whether S3 answered as it should."""
        self._requests.observe((operation, "ok" if ok else "error"), seconds)

    def retried(self) -> None:
        """Count a request that is sent again."""
        self._retries.add()

    def collect(self) -> None:
        """Bring the library's collectors up to date."""
        self._requests.collect()
        self._retries.collect()

"""Telemetry: what the other rooms report to. Each states a Protocol with the methods it uses."""

import contextvars
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from time import monotonic, perf_counter
from types import TracebackType
from typing import Final, Protocol

from aioprometheus.collectors import Counter, Registry
from opentelemetry import context as context_api
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, Tracer

from codesvc.observability.dependencies import DatabaseMetrics, DatabaseView, StorageMetrics
from codesvc.observability.load import Load, LoadMetrics
from codesvc.observability.merging import figures, merged
from codesvc.observability.metrics import (
    EventLoopLag,
    LatencyHistogram,
    PlainCounter,
    RuntimeMetrics,
    render,
    show_service,
)
from codesvc.observability.spans import UNTOLD, UNTOLD_SCOPE, SharedScope, Told, ToldScope
from codesvc.observability.stock import ReserveMetrics, StockMetrics
from codesvc.observability.tracing import NO_SCOPE, SpanScope, active_tracer, unrecorded
from codesvc.observability.uploads import UPLOAD_OUTCOMES, UploadMetrics

_KEYED_OUTCOMES: Final = ("first", "taken_over", "replayed", "in_use", "reused", "lost")
_CHECK_OUTCOMES: Final = {True: "equal", False: "different"}


class _Part(Protocol):
    def collect(self) -> None:
        """Bring the library's collectors up to date."""


class Telemetry:
    """The metrics of one process, and its spans where tracing is on.

    Make it after configure_tracing. All methods belong to the thread of the event loop, but for those of ``database``.

    Attributes:
        tracer: None while tracing is off.
        registry: every metric of this process; :meth:`collect` brings it up to date.
        event_loop_lag: start it once the loop runs, and stop it before the loop ends.
        database: the connections to MongoDB report to it, from any thread.
        stock: samples of the whole stock are reported to it.

    """

    def __init__(self, *, tracer: Tracer | None = None, version: str = "") -> None:
        self.tracer = active_tracer() if tracer is None else tracer
        self.registry = registry = Registry()
        self._http = LatencyHistogram(
            "http_response_duration_seconds",
            "Seconds from a request's head to its response, by route template.",
            ("method", "path", "status"),
            registry,
            counter=Counter("http_request_count", "Requests answered, by route template.", registry=registry),
        )
        self._datastore = LatencyHistogram(
            "datastore_operation_duration_seconds",
            "Seconds that an operation of the datastore took.",
            ("operation", "outcome"),
            registry,
        )
        self._checks = PlainCounter(
            "count_checks_total",
            "Comparisons of counts that were kept with the index, by outcome.",
            registry,
            labels=("outcome",),
            known=[(outcome,) for outcome in _CHECK_OUTCOMES.values()],
        )
        self._keyed = PlainCounter(
            "idempotency_key_requests_total",
            "Requests with an Idempotency-Key, by what became of them.",
            registry,
            labels=("outcome",),
            known=[(outcome,) for outcome in _KEYED_OUTCOMES],
        )
        self._load = LoadMetrics(registry)
        self._upload = UploadMetrics(registry)
        self._reserve = ReserveMetrics(registry)
        self._storage = StorageMetrics(registry)
        self.database = DatabaseMetrics(registry)
        self.stock = StockMetrics(registry)
        self.event_loop_lag = EventLoopLag(registry)
        self._runtime = RuntimeMetrics(registry)
        show_service(registry, version)
        self._parts: tuple[_Part, ...] = (
            *(
                self._http,
                self._datastore,
                self._checks,
                self._keyed,
                self._load,
                self._upload,
                self._reserve,
            ),
            *(self._storage, self.database, self.stock, self.event_loop_lag, self._runtime),
        )

    def http_request(self, labels: tuple[str, str, int], seconds: float) -> None:
        """Count one request; ``labels`` are its method, route template and status."""
        self._http.observe(labels, seconds)

    def datastore_operation(self, name: str, /, **attributes: str | int) -> AbstractContextManager[None]:
        """Time one operation of the datastore under ``name``, and make a span of it with ``attributes``."""
        if self.tracer is None or unrecorded():
            return _Timed(self._datastore, name, None)
        scope = SpanScope(self.tracer, f"datastore.{name}", attributes=_named("datastore", attributes))
        return _Timed(self._datastore, name, scope)

    def counts_checked(self, *, equal: bool) -> None:
        """Count a comparison of counts that were kept with the index."""
        self._checks.add((_CHECK_OUTCOMES[equal],))

    def keyed_request(self, outcome: str) -> None:
        """Count what became of a request with an Idempotency-Key: one of ``_KEYED_OUTCOMES``."""
        self._keyed.add((outcome,))

    def reserved(self, code_type: str, *, requested: int, lent: int, expired: int) -> None:
        """Count one reserve that was answered; ``expired`` codes of those lent had a hold that had expired."""
        self._reserve.reserved(code_type, requested=requested, lent=lent, expired=expired)

    def reserve_conflicts(self, count: int) -> None:
        """Count codes that were about to be lent when somebody else took them."""
        self._reserve.conflicts(count)

    def command_retried(self) -> None:
        """Count a command that is sent to MongoDB again; from any thread."""
        self.database.retried()

    def watch_database(self, view: DatabaseView) -> None:
        """Ask ``view`` for the state of the connections whenever the metrics are read."""
        self.database.view = view

    def shared_operation(
        self, name: str, callers: Sequence[contextvars.Context], /, **attributes: str | int
    ) -> AbstractContextManager[None]:
        """Make one span of what is done at once for several callers, who wait in ``callers``.

        It is a child of the first caller's whose trace is recorded, under that one's correlation ID, and bound to
        the others by links, in both directions.
        """
        if self.tracer is None or not callers:
            return NO_SCOPE
        return SharedScope(self.tracer, f"datastore.{name}", callers, attributes)

    def storage_operation(
        self, name: str, /, *, method: str, bucket: str, key: str, **attributes: str | int
    ) -> AbstractContextManager[Told]:
        """Make a span of one operation of the object store, which is told what became of it.

        ``method`` is the store's name for its requests, as in ``GetObject``.
        """
        if self.tracer is None or unrecorded():
            return UNTOLD_SCOPE
        # OpenTelemetry's semantic conventions for AWS and S3.
        told = {
            "rpc.system": "aws-api",
            "rpc.service": "S3",
            "rpc.method": method,
            "aws.s3.bucket": bucket,
            "aws.s3.key": key,
            **_named("storage", attributes),
        }
        return ToldScope(SpanScope(self.tracer, f"storage.{name}", attributes=told))

    def storage_request(self, operation: str, seconds: float, *, ok: bool) -> None:
        """Note one request to the object store, from sending it to the head of its reply."""
        self._storage.requested(operation, seconds, ok=ok)

    def storage_retried(self) -> None:
        """Count a request that is sent to the object store again."""
        self._storage.retried()

    def watch_load(self, load: Load) -> None:
        """Ask ``load`` how much the process has taken on whenever the metrics are read."""
        self._load.load = load

    def watch_queue(self, queued: Callable[[], int]) -> None:
        """Ask ``queued`` for the uploads that wait for their turn whenever the metrics are read."""
        self._upload.queued = queued

    def upload_taken_over(self, *, handed_over: bool) -> None:
        """Count an upload that this process has taken over: from one that left it, or from one that had gone."""
        self._upload.taken_over.add(("handed_over" if handed_over else "lapsed",))

    def upload_handed_over(self, *, reason: str) -> None:
        """Count an upload that ended here and goes on elsewhere: ``drain``, ``unavailable`` or ``lost``."""
        self._upload.handed_over.add((reason,))

    def upload(self, *, campaign_id: str, code_type: str) -> "AbstractContextManager[UploadTelemetry]":
        """Make a span of a whole upload, and hand out what its parts report to."""
        return _UploadScope(self._upload, self.tracer, campaign_id, code_type)

    def collect(self) -> None:
        """Bring every metric in the registry up to date."""
        for part in self._parts:
            part.collect()

    def render(self, accept: Sequence[str] = ()) -> tuple[bytes, str]:
        """Return the metrics in the Prometheus text format, and its content type."""
        self.collect()
        return render(self.registry, accept)

    def figures(self) -> bytes:
        """Return the metrics as one process tells them to another: see codesvc.observability.merging."""
        self.collect()
        return figures(self.registry)

    def render_merged(self, told: Sequence[bytes], accept: Sequence[str] = ()) -> tuple[bytes, str]:
        """Return the metrics of several processes as one; ``told`` are the figures of each, this one's included."""
        return render(merged(self.registry, told), accept)


class UploadTelemetry:
    """What one upload reports, while it runs, so that somebody who reads the metrics sees it move.

    Attributes:
        outcome: how it ended, empty while it runs.
        batches_waiting: batches that are ready to be written and are not yet.
        moved: when bytes were last read or a batch was last confirmed, by the monotonic clock.

    """

    def __init__(
        self, metrics: UploadMetrics, tracer: Tracer | None, code_type: str, span: Span | None
    ) -> None:
        self._metrics = metrics
        self._tracer = tracer
        self._labels = {outcome: (code_type, outcome) for outcome in UPLOAD_OUTCOMES}
        self._span = span
        # Kept, so that a batch is the upload's child whichever task writes it.
        self._context: Context | None = None if span is None else context_api.get_current()
        self._totals = dict.fromkeys(UPLOAD_OUTCOMES, 0)
        self._bytes = 0
        self.outcome = ""
        self.batches_waiting = 0
        self.moved = monotonic()

    def read(self, size: int) -> None:
        """Count ``size`` bytes of the file as read."""
        self._bytes += size
        self.moved = monotonic()
        self._metrics.bytes.add((), size)

    def waiting(self, batches: int) -> None:
        """Tell how many batches are ready, and wait to be written."""
        self.batches_waiting = batches

    def ended(self, outcome: str) -> None:
        """Tell how the upload ended: ``succeeded``, ``rejected``, ``failed`` or ``cancelled``."""
        self.outcome = outcome

    def batch(self, codes: int) -> AbstractContextManager[Told]:
        """Cover the writing of one batch of ``codes`` codes; its span is told what became of it."""
        scope = None
        if self._tracer is not None and self._span is not None:
            attributes = {"codesvc.upload.codes": codes}
            scope = SpanScope(self._tracer, "upload.batch", attributes=attributes, parent=self._context)
        return _Batch(self._metrics, scope)

    def stored(self, *, inserted: int, updated: int) -> None:
        """Count the codes of a batch as stored."""
        self.moved = monotonic()
        self._add("inserted", inserted)
        self._add("updated", updated)

    def invalid(self, count: int) -> None:
        """Count rows as invalid."""
        self._add("invalid", count)

    def finish(self) -> None:
        """Put the totals on the upload's span."""
        if self._span is not None:
            self._span.set_attribute("codesvc.upload.bytes", self._bytes)
            for outcome, total in self._totals.items():
                self._span.set_attribute(f"codesvc.upload.{outcome}", total)

    def _add(self, outcome: str, count: int) -> None:
        if count:
            self._totals[outcome] += count
            self._metrics.codes.add(self._labels[outcome], count)


def _named(room: str, attributes: Mapping[str, str | int]) -> dict[str, str | int]:
    return {f"codesvc.{room}.{name}": value for name, value in attributes.items()}


class _Timed(AbstractContextManager[None]):
    __slots__ = ("_histogram", "_operation", "_scope", "_start")

    def __init__(self, histogram: LatencyHistogram, operation: str, scope: SpanScope | None) -> None:
        self._histogram = histogram
        self._operation = operation
        self._scope = scope

    def __enter__(self) -> None:
        if self._scope is not None:
            self._scope.__enter__()
        self._start = perf_counter()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, stack: TracebackType | None
    ) -> None:
        outcome = "ok" if kind is None else "error"
        self._histogram.observe((self._operation, outcome), perf_counter() - self._start)
        if self._scope is not None:
            self._scope.__exit__(kind, error, stack)


class _Batch(AbstractContextManager[Told]):
    __slots__ = ("_metrics", "_scope", "_start")

    def __init__(self, metrics: UploadMetrics, scope: SpanScope | None) -> None:
        self._metrics = metrics
        self._scope = scope

    def __enter__(self) -> Told:
        self._metrics.batches += 1
        self._start = perf_counter()
        return UNTOLD if self._scope is None else Told(self._scope.__enter__(), "codesvc.upload.")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, stack: TracebackType | None
    ) -> None:
        if self._scope is not None:
            self._scope.__exit__(kind, error, stack)
        self._metrics.batches -= 1
        outcome = "ok" if kind is None else "error"
        self._metrics.batch_duration.observe((outcome,), perf_counter() - self._start)


class _UploadScope(AbstractContextManager[UploadTelemetry]):
    __slots__ = ("_code_type", "_metrics", "_scope", "_start", "_telemetry", "_tracer")

    def __init__(
        self, metrics: UploadMetrics, tracer: Tracer | None, campaign_id: str, code_type: str
    ) -> None:
        self._metrics = metrics
        self._tracer = tracer
        self._code_type = code_type
        self._scope: SpanScope | None = None
        if tracer is not None and not unrecorded():
            attributes = {"codesvc.campaign_id": campaign_id, "codesvc.code_type": code_type}
            self._scope = SpanScope(tracer, "upload", kind=SpanKind.INTERNAL, attributes=attributes)

    def __enter__(self) -> UploadTelemetry:
        span = None if self._scope is None else self._scope.__enter__()
        if span is not None and not span.is_recording():
            span = None
        self._telemetry = UploadTelemetry(self._metrics, self._tracer, self._code_type, span)
        self._start = perf_counter()
        self._metrics.running.add(self._telemetry)
        return self._telemetry

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, stack: TracebackType | None
    ) -> None:
        self._telemetry.finish()
        self._metrics.running.discard(self._telemetry)
        outcome = self._telemetry.outcome or ("succeeded" if kind is None else "failed")
        self._metrics.ended.add((self._code_type, outcome))
        self._metrics.duration.observe((outcome,), perf_counter() - self._start)
        if self._scope is not None:
            self._scope.__exit__(kind, error, stack)

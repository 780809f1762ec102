"""Metrics of how much a process has taken on, and of what it turned away."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from aioprometheus.collectors import Counter, Registry

from codesvc.observability.metrics import Merge, MergedGauge


@dataclass(frozen=True, slots=True)
class LoadFigures:
    """What there is at one moment: by kind or reason where there are several, since the start where it is counted."""

    in_flight: Mapping[str, int]
    refused: Mapping[str, int]
    body_bytes: int
    connections: int
    ended: Mapping[str, int]


class Load(Protocol):
    """Whoever can tell it: see codesvc.web.server."""

    def figures(self) -> LoadFigures:
        """Tell it."""


_NOTHING: Final = LoadFigures({}, {}, 0, 0, {})


class LoadMetrics:
    """Shows it; ``load`` is asked whenever the metrics are read."""

    def __init__(self, registry: Registry) -> None:
        self.load: Load | None = None

        def gauge(name: str, doc: str) -> MergedGauge:
            return MergedGauge(name, doc, merge=Merge.SUM, registry=registry)

        self._in_flight = gauge("http_requests_in_flight", "Requests to /v1 under way, by kind.")
        self._bytes = gauge(
            "http_request_bodies_bytes", "Bytes of large bodies whose requests are under way."
        )
        self._connections = gauge("http_connections", "Connections of callers.")
        self._refused = Counter(
            "http_requests_refused_total", "Requests that were refused for want of room.", registry=registry
        )
        self._ended = Counter(
            "http_connections_ended_total", "Connections that were ended by force.", registry=registry
        )

    def collect(self) -> None:
        """Bring the library's collectors up to date."""
        now = _NOTHING if self.load is None else self.load.figures()
        self._bytes.set({}, now.body_bytes)
        self._connections.set({}, now.connections)
        for kind, number in now.in_flight.items():
            self._in_flight.set({"kind": kind}, number)
        for reason, number in now.refused.items():
            self._refused.set({"reason": reason}, number)
        for reason, number in now.ended.items():
            self._ended.set({"reason": reason}, number)

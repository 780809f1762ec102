"""What is taken from a caller's headers, and what is sent on: as OTEL_PROPAGATORS says, but for baggage.

Baggage is what the services of a trace tell each other about their callers, up to 8 KiB of it. It comes in, for a span
processor that may look for it, and goes no further: the object store and the issuer of the keys have no part in it, and
S3 refuses requests whose headers are longer than 8 KiB.

Import this where tracing is set up only: OpenTelemetry reads the variable as its module is imported, and raises.
"""

from collections.abc import Mapping
from typing import Any

from opentelemetry import baggage, propagate
from opentelemetry.context import Context
from opentelemetry.propagators.textmap import (
    CarrierT,
    Getter,
    Setter,
    TextMapPropagator,
    default_getter,
    default_setter,
)


def set_up() -> TextMapPropagator:
    """Make the propagator that the environment asks for, and that of the libraries; return it."""
    propagator = _Propagator(propagate.get_global_textmap())
    propagate.set_global_textmap(propagator)
    return propagator


class _Propagator(TextMapPropagator):
    def __init__(self, propagator: TextMapPropagator) -> None:
        self._propagator = propagator

    def extract(
        self, carrier: CarrierT, context: Context | None = None, getter: Getter[CarrierT] = default_getter
    ) -> Context:
        return self._propagator.extract(carrier, context, _HEADERS if hasattr(carrier, "getall") else getter)

    def inject(
        self, carrier: CarrierT, context: Context | None = None, setter: Setter[CarrierT] = default_setter
    ) -> None:
        self._propagator.inject(carrier, baggage.clear(context), setter)

    @property
    def fields(self) -> set[str]:
        return self._propagator.fields


class _Headers(Getter[Any]):
    """Reads a header that was sent in several lines as a whole (tracestate may be: W3C Trace Context, 3.3.1.1)."""

    def get(self, carrier: Any, key: str) -> list[str] | None:
        found: list[str] | None = carrier.getall(key, None)
        return found

    def keys(self, carrier: Mapping[str, str]) -> list[str]:
        return list(carrier)


_HEADERS = _Headers()

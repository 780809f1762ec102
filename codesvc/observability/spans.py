"""Spans of a kind of their own: told afterwards what became of them, or shared by several callers."""

import contextvars
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Final

from opentelemetry import context as context_api
from opentelemetry import trace
from opentelemetry.context import _SUPPRESS_INSTRUMENTATION_KEY
from opentelemetry.trace import Link, Span, Tracer

from codesvc.observability.logs import correlation_id
from codesvc.observability.tracing import SpanScope


class Told:
    """Takes what is known of an operation only when it is done."""

    __slots__ = ("_prefix", "_span")

    def __init__(self, span: Span | None, prefix: str) -> None:
        self._span = span
        self._prefix = prefix

    def tell(self, **attributes: str | int) -> None:
        """Put attributes on the operation's span, if there is one."""
        if self._span is not None:
            for name, value in attributes.items():
                self._span.set_attribute(f"{self._prefix}{name}", value)


UNTOLD: Final = Told(None, "")
"""Where no span is recorded."""


class ToldScope(AbstractContextManager[Told]):
    """A span that is current within the block, and told what became of it."""

    __slots__ = ("_scope",)

    def __init__(self, scope: SpanScope) -> None:
        self._scope = scope

    def __enter__(self) -> Told:
        return Told(self._scope.__enter__(), "codesvc.storage.")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, stack: TracebackType | None
    ) -> None:
        self._scope.__exit__(kind, error, stack)


class _UntoldScope(AbstractContextManager[Told]):
    __slots__ = ()

    def __enter__(self) -> Told:
        return UNTOLD

    def __exit__(self, *_: object) -> None:
        return None


UNTOLD_SCOPE: Final = _UntoldScope()
"""Stands in for ToldScope while nothing is recorded."""


class SharedScope(AbstractContextManager[None]):
    """One span for what is done at once for several callers, each of whom has a span, and a trace, of its own.

    A span has one parent. It is that of the first caller whose trace is recorded, so that the trace of who was served
    alone is a tree as any other; in the traces of the others, the span that waits has a link to it.
    """

    __slots__ = ("_attributes", "_callers", "_correlation", "_name", "_scope", "_token", "_tracer")

    def __init__(
        self,
        tracer: Tracer,
        name: str,
        callers: Sequence[contextvars.Context],
        attributes: Mapping[str, str | int],
    ) -> None:
        self._tracer = tracer
        self._name = name
        self._callers = callers
        self._attributes = attributes
        self._scope: SpanScope | None = None

    def __enter__(self) -> None:
        spans = [(caller.run(trace.get_current_span), caller) for caller in self._callers]
        recorded = [(span, caller) for span, caller in spans if span.is_recording()]
        if not recorded:
            # None of them was sampled; what the drivers do is not to become a trace of its own.
            self._correlation = correlation_id.set(self._callers[0].get(correlation_id))
            self._token = context_api.attach(context_api.set_value(_SUPPRESS_INSTRUMENTATION_KEY, True))
            return
        (first, caller), *others = recorded
        self._correlation = correlation_id.set(caller.get(correlation_id))
        self._scope = SpanScope(
            self._tracer,
            self._name,
            attributes={
                **{f"codesvc.datastore.{name}": value for name, value in self._attributes.items()},
                "codesvc.datastore.callers": len(self._callers),
            },
            parent=trace.set_span_in_context(first),
            links=[Link(span.get_span_context()) for span, _ in others],
        )
        shared = self._scope.__enter__().get_span_context()
        for span, _ in others:
            span.add_link(shared)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, stack: TracebackType | None
    ) -> None:
        if self._scope is None:
            context_api.detach(self._token)
        else:
            self._scope.__exit__(kind, error, stack)
        correlation_id.reset(self._correlation)

"""Metrics of the stock and of what is lent from it."""

from collections.abc import Mapping, Sequence
from time import monotonic
from typing import Final

from aioprometheus.collectors import Registry

from codesvc.observability.metrics import Merge, MergedGauge, PlainCounter
from codesvc.observability.uploads import CODE_TYPES

_NEVER: Final = float("-inf")


class StockMetrics:
    """The last sample of the whole stock, shown only while this process is the one that samples."""

    def __init__(self, registry: Registry) -> None:
        def gauge(name: str, doc: str) -> MergedGauge:
            return MergedGauge(name, doc, merge=Merge.MAX, registry=registry)

        self._codes = gauge("inventory_codes", "Codes of all campaigns, by type and status.")
        self._campaigns = gauge("inventory_campaigns", "Campaigns that have codes.")
        self._lowest = gauge(
            "inventory_lowest_available_codes",
            "Available codes of the campaigns that have the fewest, of those in use of late.",
        )
        self._sampled = gauge("inventory_sampled_timestamp_seconds", "When the stock was last sampled.")
        self._good_until = _NEVER

    def show(
        self,
        codes: Mapping[tuple[str, str], int],
        campaigns: int,
        lowest: Sequence[tuple[str, str, int]],
        *,
        sampled: float,
        good_until: float,
    ) -> None:
        """Show a sample until ``good_until`` (monotonic clock), unless it is forgotten before."""
        self._codes.show(
            ({"type": code_type, "status": status}, count) for (code_type, status), count in codes.items()
        )
        self._campaigns.set({}, campaigns)
        self._lowest.show(
            ({"campaign": campaign, "type": code_type}, count) for campaign, code_type, count in lowest
        )
        self._sampled.set({}, round(sampled, 3))
        self._good_until = good_until

    def forget(self) -> None:
        """Show nothing: another process samples."""
        for gauge in (self._codes, self._campaigns, self._lowest, self._sampled):
            gauge.show(())
        self._good_until = _NEVER

    def collect(self) -> None:
        """Forget what is too old to be shown."""
        if self._good_until != _NEVER and monotonic() > self._good_until:
            self.forget()


class ReserveMetrics:
    """What was asked for, what was lent, and why it was less."""

    def __init__(self, registry: Registry) -> None:
        def counter(name: str, doc: str) -> PlainCounter:
            return PlainCounter(
                name, doc, registry, labels=("type",), known=[(code_type,) for code_type in CODE_TYPES]
            )

        self._requested = counter("reserve_requested_codes_total", "Codes asked for by reserves answered.")
        self._lent = counter("reserve_lent_codes_total", "Codes lent.")
        self._short = counter("reserve_short_total", "Reserves answered with fewer codes than asked for.")
        self._conflicts = PlainCounter(
            "reserve_conflicts_total",
            "Codes that were about to be lent when somebody else took them.",
            registry,
        )
        self._expired = PlainCounter(
            "reserve_expired_holds_total", "Codes lent whose earlier hold had expired.", registry
        )

    def reserved(self, code_type: str, *, requested: int, lent: int, expired: int) -> None:
        """Count one reserve that was answered."""
        labels = (code_type,)
        self._requested.add(labels, requested)
        self._lent.add(labels, lent)
        if lent < requested:
            self._short.add(labels)
        if expired:
            self._expired.add((), expired)

    def conflicts(self, count: int) -> None:
        """Count codes that somebody else took first."""
        self._conflicts.add((), count)

    def collect(self) -> None:
        """Bring the library's collectors up to date."""
        for part in (self._requested, self._lent, self._short, self._conflicts, self._expired):
            part.collect()

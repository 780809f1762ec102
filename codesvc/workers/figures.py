"""What the supervisor keeps of everybody's figures, so that no counter falls when a worker dies."""

from aioprometheus.collectors import Counter, Registry

from codesvc.observability.merging import NOTHING, Families, add_sums, figures, sums_alone
from codesvc.observability.metrics import RuntimeMetrics


class KeptFigures:
    """The last known figures of each worker, the sum of the dead, and the supervisor's own."""

    def __init__(self) -> None:
        self._registry = Registry()
        self._runtime = RuntimeMetrics(self._registry)
        # The workers have both as well: each is one that serves, and has replaced none.
        self._restarts = Counter("codesvc_worker_restarts_total", "", registry=self._registry)
        self._restarts.set({}, 0)
        self._known: dict[int, bytes] = {}
        self._dead: Families = {}
        self._dead_told = NOTHING

    def note(self, number: int, told: bytes) -> None:
        """Keep what a worker told last."""
        self._known[number] = told

    def bury(self, number: int) -> None:
        """Add a worker that has died to the sum of the dead; its gauges die with it."""
        told = self._known.pop(number, None)
        if told is not None:
            add_sums(self._dead, told)
            self._dead_told = sums_alone(self._dead)

    def replaced(self) -> None:
        """Count a worker that took the place of one that died."""
        self._restarts.inc({})

    def all_but(self, number: int) -> list[bytes]:
        """Return everybody's figures but those of one worker."""
        self._runtime.collect()
        others = [told for each, told in self._known.items() if each != number]
        return [self._dead_told, figures(self._registry), *others]

"""How large the suite `inventory` is: in earnest, and just large enough to show that it runs."""

from dataclasses import dataclass
from typing import Final

from benchmarks.documents import State

MIXED: Final = "all mixed"
STATES: Final = {
    MIXED: {State.NEVER_HELD: 0.5, State.EXPIRED: 0.1, State.HELD: 0.2, State.ASSIGNED: 0.2},
    "all never held": {State.NEVER_HELD: 1.0},
    "all held": {State.HELD: 1.0},
    "all holds ended": {State.EXPIRED: 1.0},
    "all assigned": {State.ASSIGNED: 1.0},
}
"""The states of the data in which is counted, as shares of the codes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How many of what.

    Attributes:
        codes: the stock; ``many`` is that of the largest count.
        callers: at once, for ``seconds`` a round; one alone for ``lone_seconds``.
        bulk: codes of one large reserve, of which there are ``bulk_calls`` a round.
        changed: codes of one assign or release.
        probes: reserves whose examined keys are counted.
        settle: how many seconds nobody writes before a count is a settled one.
        settled: how many seconds such counts are timed, 200 of them at most.
        states: in which is counted.

    """

    codes: int
    many: int
    callers: int
    seconds: float
    lone_seconds: float
    bulk: int
    bulk_calls: int
    changed: int
    probes: int
    settle: float
    settled: float
    states: tuple[str, ...]

    def stock(self, state: str = MIXED, *, codes: int | None = None) -> dict[State, int]:
        """Say how many codes are in each state."""
        return {one: round(share * (codes or self.codes)) for one, share in STATES[state].items()}


FULL: Final = Sizes(
    codes=2_000_000,
    many=10_000_000,
    callers=64,
    seconds=8.0,
    lone_seconds=3.0,
    bulk=10_000,
    bulk_calls=5,
    changed=100_000,
    probes=50,
    settle=5.0,
    settled=10.0,
    states=tuple(STATES),
)
QUICK: Final = Sizes(
    codes=20_000,
    many=200_000,
    callers=8,
    seconds=0.5,
    lone_seconds=0.25,
    bulk=1000,
    bulk_calls=2,
    changed=1000,
    probes=5,
    settle=0.5,
    settled=0.5,
    states=(MIXED, "all assigned"),
)

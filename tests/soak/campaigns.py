"""The campaigns that callers meet in."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Campaign:
    """One campaign, and how callers treat it.

    Attributes:
        stock: codes of each type at the start.
        earlier: codes of type tm besides, lent before the start, whose holds end while callers are at it.
        weight: how often callers choose it.
        largest: the most codes that a caller asks for at times.
        assigned: the share of reservations that end in an assign.
        moving: whether uploads change the types of its codes.

    """

    name: str
    stock: dict[str, int]
    weight: float
    largest: int
    assigned: float
    earlier: int = 0
    moving: bool = False


PLENTY = Campaign(
    "plenty", {"tm": 12_000, "external": 4_000}, weight=0.45, largest=400, assigned=0.35, earlier=300
)
# Callers hold more than there is, so that its last codes go round and round.
SCARCE = Campaign("scarce", {"tm": 160}, weight=0.4, largest=60, assigned=0.02, earlier=80)
RETYPED = Campaign(
    "retyped", {"tm": 1_000, "external": 1_000}, weight=0.15, largest=100, assigned=0.02, moving=True
)

CAMPAIGNS = (PLENTY, SCARCE, RETYPED)

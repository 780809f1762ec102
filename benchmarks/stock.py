"""A stock of codes in any mix of states: written straight to MongoDB, and remembered, so that answers can be checked.

States are dealt over the codes pseudo-randomly, the same for the same arguments; those who fill a database each from
copies of one stock have the same contents.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt
from bson.raw_bson import RawBSONDocument
from pymongo import MongoClient

from benchmarks.data import CODE_BYTES, codes
from benchmarks.documents import State, Template

SEED: Final = 11
"""Of the codes of every stock: a file of other numbers, or of another seed, holds other codes."""

_BATCH: Final = 25_000
_IN_FLIGHT: Final = 2


@dataclass(frozen=True, slots=True)
class Stock:
    """Codes in ascending order, and the state of each."""

    codes: npt.NDArray[np.bytes_]
    states: npt.NDArray[np.uint8]

    @classmethod
    def make(cls, numbers: Mapping[State, int]) -> Self:
        """Make a stock of so many codes in each state."""
        states = np.repeat(np.array(list(numbers), dtype=np.uint8), list(numbers.values()))
        np.random.default_rng(SEED).shuffle(states)
        return cls(np.sort(codes(0, len(states), seed=SEED).view(f"S{CODE_BYTES}").ravel()), states)

    def copy(self) -> "Stock":
        """Return a stock of the same codes, whose states change by themselves."""
        return Stock(self.codes, self.states.copy())

    def counts(self) -> dict[str, int]:
        """Count the codes as the service does."""
        never_held, expired, held, assigned = np.bincount(self.states, minlength=len(State)).tolist()
        return {"available": never_held + expired, "reserved": held, "assigned": assigned}

    def pick(self, state: State, count: int, *, turn: int = 0) -> list[str]:
        """Choose codes in a state at random; those of different turns are different ones.

        Raises:
            ValueError: there are not so many.

        """
        order = np.random.default_rng(SEED).permutation(np.flatnonzero(self.states == state))
        chosen = order[turn * count : (turn + 1) * count]
        if len(chosen) < count:
            raise ValueError(f"the stock has too few codes in the state {state.name}")
        return [code.decode() for code in self.codes[chosen].tolist()]

    def all_available(self, some: Sequence[str]) -> bool:
        """Tell whether these are codes of the stock, and available."""
        places = self._places(some)
        known = self.codes[places] == np.array(some, dtype=self.codes.dtype)
        return bool(np.all(known) and np.all(self.states[places] <= State.EXPIRED))

    def mark(self, some: Sequence[str], state: State) -> None:
        """Remember that these codes are in another state now."""
        self.states[self._places(some)] = state

    def fill(self, client: MongoClient[dict[str, Any]], database: str, *, campaign_id: str) -> None:
        """Write every code to an empty collection, and wait until the disk has them.

        Raises:
            RuntimeError: MongoDB did not take all of them.

        """
        insert = partial(_insert, client, database)
        batches = self._batches(campaign_id)
        with ThreadPoolExecutor(_IN_FLIGHT) as pool:
            # In waves, so that only a few batches are in memory.
            while wave := list(islice(batches, 2 * _IN_FLIGHT)):
                list(pool.map(insert, wave))
        # What is on disk already, no checkpoint has to write while something is timed.
        client.admin.command("fsync")

    def _places(self, some: Sequence[str]) -> npt.NDArray[np.intp]:
        places = np.searchsorted(self.codes, np.array(some, dtype=self.codes.dtype))
        return np.minimum(places, len(self.codes) - 1)

    def _batches(self, campaign_id: str) -> Iterator[list[RawBSONDocument]]:
        now_ms = time.time_ns() // 1_000_000
        templates = {state: Template(campaign_id=campaign_id, state=state, now_ms=now_ms) for state in State}
        random = np.random.default_rng(SEED)
        for start in range(0, len(self.codes), _BATCH):
            chosen, states = self.codes[start : start + _BATCH], self.states[start : start + _BATCH]
            made = {
                state: template.documents(chosen[states == state], random)
                for state, template in templates.items()
            }
            yield [RawBSONDocument(next(made[State(state)])) for state in states.tolist()]


def _insert(client: MongoClient[dict[str, Any]], database: str, batch: list[RawBSONDocument]) -> None:
    reply = client[database].command(
        "insert", "codes", documents=batch, ordered=False, writeConcern={"w": 1, "j": False}
    )
    if reply["n"] != len(batch):
        raise RuntimeError("MongoDB did not take all of the stock")

"""Generated files: distinct codes in an order that no index likes, the same for the same arguments.

| profile | a record |
| --- | --- |
| narrow | a code of 12 characters |
| wide | the code and 10 further columns, together 200 bytes |
"""

import random
from enum import StrEnum
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

CODE_BYTES: Final = 12
WIDE_BYTES: Final = 200
_ALPHABET: Final = np.frombuffer(b"ABCDEFGHJKLMNPQRSTUVWXYZ23456789", dtype=np.uint8)
_BLOCK: Final = 500_000
_MASK: Final = (1 << 60) - 1


class Profile(StrEnum):
    """What a record looks like."""

    NARROW = "narrow"
    WIDE = "wide"


def codes(start: int, stop: int, *, seed: int = 0) -> npt.NDArray[np.uint8]:
    """Return the codes of the numbers from ``start`` to before ``stop``, one row of 12 bytes each."""
    # Multiplying by an odd number and folding the high half onto the low one are bijections of 60 bits.
    value = np.arange(start, stop, dtype=np.uint64) + np.uint64(seed << 40)
    value = value * np.uint64(0x9E3779B97F4A7C15) & np.uint64(_MASK)
    value ^= value >> np.uint64(30)
    value = value * np.uint64(0xBF58476D1CE4E5B9) & np.uint64(_MASK)
    value ^= value >> np.uint64(31)
    shifts = np.arange(55, -1, -5, dtype=np.uint64)
    return _ALPHABET[(value[:, None] >> shifts & np.uint64(31)).astype(np.intp)]


def records(start: int, stop: int, profile: Profile, *, seed: int = 0) -> bytes:
    """Return the records of those codes, each with its newline."""
    rows = codes(start, stop, seed=seed)
    newline = np.full((len(rows), 1), ord("\n"), dtype=np.uint8)
    if profile is Profile.NARROW:
        return np.hstack((rows, newline)).tobytes()
    columns = np.full((len(rows), WIDE_BYTES), ord(","), dtype=np.uint8)
    for column in range(0, WIDE_BYTES, 20):
        columns[:, column + 1 : column + 1 + CODE_BYTES] = np.roll(rows, column // 20 + 1, axis=0)
        columns[:, column + 1 + CODE_BYTES : column + 20] = ord("x")
    return np.hstack((rows, columns, newline)).tobytes()


def write_file(
    path: Path,
    count: int,
    profile: Profile = Profile.NARROW,
    *,
    seed: int = 0,
    first: int = 0,
    shuffled: bool = False,
) -> Path:
    """Write ``count`` records, from the code number ``first`` on, unless the file is there already.

    ``shuffled`` puts them in a random order, which needs memory for all of them.
    """
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".draft")
    with draft.open("wb") as out:
        if shuffled:
            lines = records(first, first + count, profile, seed=seed).splitlines(keepends=True)
            random.Random(seed).shuffle(lines)
            out.writelines(lines)
            count = 0
        for start in range(first, first + count, _BLOCK):
            out.write(records(start, min(start + _BLOCK, first + count), profile, seed=seed))
    return draft.rename(path)

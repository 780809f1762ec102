"""Files of distinct promotional codes, the same for the same seed."""

from collections.abc import Callable
from pathlib import Path
from typing import Final

CODE_LENGTH: Final = 12

_ALPHABET: Final = "ABCDEFGHJKLMNPQRSTUVWXYZ23456789"  # 32 letters, without those that look alike
_PAIRS: Final = tuple(first + second for first in _ALPHABET for second in _ALPHABET)
_BITS: Final = 5 * CODE_LENGTH
_MASK: Final = (1 << _BITS) - 1
_BLOCK: Final = 50_000

# Odd, hence invertible modulo a power of two; the constants of splitmix64 (Steele, Lea, Flood: Fast Splittable
# Pseudorandom Number Generators, 2014).
_STEP: Final = 0x9E3779B97F4A7C15
_FIRST: Final = 0xBF58476D1CE4E5B9
_SECOND: Final = 0x94D049BB133111EB


def code(number: int, *, seed: int = 0) -> str:
    """Return the code of a number from 0 to 2**60 - 1; different numbers have different codes."""
    # Each step is a bijection of 60 bits, so that a file of any length needs no memory of the codes before.
    value = (number + seed + 1) * _STEP & _MASK
    value = (value ^ value >> 30) * _FIRST & _MASK
    value = (value ^ value >> 27) * _SECOND & _MASK
    value ^= value >> 31
    pairs = _PAIRS
    return (
        pairs[value >> 50]
        + pairs[value >> 40 & 1023]
        + pairs[value >> 30 & 1023]
        + pairs[value >> 20 & 1023]
        + pairs[value >> 10 & 1023]
        + pairs[value & 1023]
    )


def write_codes(file: Path, count: int, *, seed: int = 0, told: Callable[[int], None] | None = None) -> int:
    """Write a CSV file of ``count`` distinct codes, one a line, and return its size in bytes.

    ``told`` hears after every 50,000 codes how many there are.
    """
    with file.open("w", encoding="ascii", newline="") as out:
        for start in range(0, count, _BLOCK):
            stop = min(start + _BLOCK, count)
            out.write("\n".join([code(number, seed=seed) for number in range(start, stop)]))
            out.write("\n")
            if told is not None:
                told(stop)
    return file.stat().st_size

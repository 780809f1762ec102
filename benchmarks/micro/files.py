"""The files that the extractor is measured on, in memory.

| name | a record | records |
| --- | --- | --- |
| narrow | a code of 12 characters | 5,000,000 |
| wide | the code and 200 bytes in 10 further columns | 1,000,000 |
| quoted | as wide, every field quoted; 2% have a newline or a `""` in one, a quarter of those in the code | 1,000,000 |
| crlf | as narrow, with CRLF | 5,000,000 |
"""

import csv
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt

from benchmarks.data import CODE_BYTES, WIDE_BYTES, Profile, records

_BLOCK: Final = 200_000
_COLUMN: Final = 20
_QUOTE: Final = ord('"')


@dataclass(frozen=True, slots=True)
class CsvFile:
    """A whole file; ``newlines_in_fields`` is what some readers must be told beforehand."""

    name: str
    data: bytes = field(repr=False, compare=False)
    records: int
    newlines_in_fields: bool = False


@dataclass(frozen=True, slots=True)
class _Kind:
    records: int
    quick: int
    block: Callable[[int, int], bytes]
    newlines_in_fields: bool = False


@lru_cache(maxsize=1)
def csv_file(name: str, *, quick: bool) -> CsvFile:
    """Make a file; the last one is kept."""
    kind = _KINDS[name]
    count = kind.quick if quick else kind.records
    blocks = (kind.block(start, min(start + _BLOCK, count)) for start in range(0, count, _BLOCK))
    return CsvFile(name, b"".join(blocks), count, kind.newlines_in_fields)


@lru_cache(maxsize=1)
def expected_codes(file: CsvFile) -> list[str]:
    """Return the first column as Python's csv module reads it: what every contender is held to."""
    return [row[0] for row in csv_rows(file.data)]


def csv_rows(data: bytes) -> Iterator[list[str]]:
    """Read records with Python's csv module."""
    return csv.reader(io.TextIOWrapper(io.BytesIO(data), encoding="utf-8", newline=""))


def _narrow(start: int, stop: int) -> bytes:
    return records(start, stop, Profile.NARROW)


def _wide(start: int, stop: int) -> bytes:
    return records(start, stop, Profile.WIDE)


def _crlf(start: int, stop: int) -> bytes:
    rows = _as_rows(_narrow(start, stop), stop - start)
    carriage_return = np.full((len(rows), 1), ord("\r"), dtype=np.uint8)
    return np.hstack((rows[:, :-1], carriage_return, rows[:, -1:])).tobytes()


def _quoted(start: int, stop: int) -> bytes:
    plain = _as_rows(_wide(start, stop), stop - start)
    quote = np.full((len(plain), 1), _QUOTE, dtype=np.uint8)
    code = plain[:, :CODE_BYTES]
    parts = [quote, code, quote]
    for at in range(CODE_BYTES, CODE_BYTES + WIDE_BYTES, _COLUMN):
        parts += [plain[:, at : at + 1], quote, plain[:, at + 1 : at + _COLUMN], quote]
    rows = np.hstack((*parts, plain[:, -1:]))
    number = np.arange(start, stop) % 200
    # Within the code, after its opening quote; and among the x that end a later column.
    rows[number == 50, 5:7] = _QUOTE
    later = 1 + CODE_BYTES + 1 + 5 * (_COLUMN + 2) - 3
    rows[number == 100, later - 1 : later + 1] = _QUOTE
    rows[np.isin(number, (0, 150)), later] = ord("\n")
    return rows.tobytes()


def _as_rows(data: bytes, count: int) -> npt.NDArray[np.uint8]:
    return np.frombuffer(data, dtype=np.uint8).reshape(count, -1)


_KINDS: Final = {
    "narrow": _Kind(5_000_000, 200_000, _narrow),
    "wide": _Kind(1_000_000, 50_000, _wide),
    "quoted": _Kind(1_000_000, 50_000, _quoted, newlines_in_fields=True),
    "crlf": _Kind(5_000_000, 200_000, _crlf),
}
FILES: Final = tuple(_KINDS)

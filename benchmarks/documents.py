"""Documents of codes in any state, made in bulk: encoded once, and filled in where they differ."""

from collections.abc import Iterator
from datetime import UTC, datetime
from enum import IntEnum
from typing import Any, Final

import bson
import numpy as np
import numpy.typing as npt

from benchmarks.data import CODE_BYTES

_HOUR_MS: Final = 3_600_000
_SAVED_MS: Final = 72 * _HOUR_MS
_TOGETHER: Final = 10
_DIGITS: Final = np.frombuffer(b"0123456789abcdef", dtype=np.uint8)
_CODE: Final = "#" * CODE_BYTES
# Of version 4 (RFC 9562, section 5.4); every x becomes a digit.
_UUID: Final = "xxxxxxxx-xxxx-4xxx-8xxx-xxxxxxxxxxxx"


class State(IntEnum):
    """What a code has been through; the first two are available."""

    NEVER_HELD = 0
    EXPIRED = 1
    HELD = 2
    ASSIGNED = 3


AGES_MS: Final = {
    State.EXPIRED: (25 * _HOUR_MS, 49 * _HOUR_MS),
    State.HELD: (_HOUR_MS // 60, 22 * _HOUR_MS),
    State.ASSIGNED: (_HOUR_MS, 49 * _HOUR_MS),
}
"""How long ago holds began, at least and at most: none begins or ends while a suite runs. A code was assigned a minute
after it was reserved."""


class Template:
    """Makes documents of one state; ``now_ms`` is the present in milliseconds since the epoch."""

    def __init__(self, *, campaign_id: str, state: State, now_ms: int) -> None:
        self._state = state
        self._now_ms = now_ms
        saved = _date(now_ms - _SAVED_MS)
        document: dict[str, Any] = {"_id": {"campaign_id": campaign_id, "code": _CODE}, "type": "tm"}
        if state is State.NEVER_HELD:
            document["date"] = {"saved": saved}
        else:
            document |= {"reserveId": _UUID, "date": {"saved": saved, "reserved": _date(0)}}
        if state is State.ASSIGNED:
            document["date"]["assigned"] = _date(0)
        self._raw = bson.encode(document)

    def documents(self, codes: npt.NDArray[np.bytes_], random: np.random.Generator) -> Iterator[bytes]:
        """Yield the document of each code; ten in a row were held together, under one id."""
        count, size = len(codes), len(self._raw)
        rows = np.tile(np.frombuffer(self._raw, dtype=np.uint8), (count, 1))
        at = self._raw.index(_CODE.encode())
        rows[:, at : at + CODE_BYTES] = codes.view(np.uint8).reshape(count, CODE_BYTES)
        if self._state is not State.NEVER_HELD:
            self._hold(rows, random)
        data = rows.tobytes()
        return (data[start : start + size] for start in range(0, len(data), size))

    def _hold(self, rows: npt.NDArray[np.uint8], random: np.random.Generator) -> None:
        count = len(rows)
        groups = np.arange(count) // _TOGETHER
        number = count // _TOGETHER + 1
        at = self._raw.index(_UUID.encode())
        places = [at + place for place, letter in enumerate(_UUID) if letter == "x"]
        rows[:, places] = _DIGITS[random.integers(0, len(_DIGITS), (number, len(places)))][groups]
        youngest, oldest = AGES_MS[self._state]
        reserved = (self._now_ms - random.integers(youngest, oldest, number))[groups]
        self._set_date(rows, "reserved", reserved)
        if self._state is State.ASSIGNED:
            self._set_date(rows, "assigned", reserved + _HOUR_MS // 60)

    def _set_date(self, rows: npt.NDArray[np.uint8], name: str, instants: npt.NDArray[np.int64]) -> None:
        element = b"\x09" + name.encode() + b"\0"
        at = self._raw.index(element) + len(element)
        rows[:, at : at + 8] = instants.astype("<i8")[:, None].view(np.uint8)


def _date(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, UTC)

"""Replies of MongoDB to bulk writes, read per second: what was inserted, upserted, or there already."""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, Final

import bson
import pytest

from benchmarks.data import Profile, records
from benchmarks.micro.measure import Measure
from codesvc._fastcsv import read_write_reply

_OURS: Final = "codesvc"
_BASE: Final = "bson.decode"
Found = tuple[int, int, list[int]]


@pytest.mark.parametrize("contender", [_OURS, _BASE])
@pytest.mark.parametrize("case", ["all inserted", "all upserted", "all there already"])
def test_replies(measure: Measure, contender: str, case: str, quick: bool) -> None:
    """Hazard: the reply to a batch of 50,000 names every code, and decoding it costs more than sending the batch."""
    codes = 2_000 if quick else 50_000
    reply = _reply(case, codes)
    times = 2_000 if case == "all inserted" else 2 if quick else 10
    read = {_OURS: _read, _BASE: _decode}[contender]
    measure(
        case,
        contender,
        partial(_repeat, read, reply, times),
        amount=times,
        right=lambda: read(reply) == _expected(case, codes),
    )


def _read(reply: bytes) -> Found:
    found = read_write_reply(reply)
    return found.n, found.upserted, found.duplicates


def _decode(reply: bytes) -> Found:
    found = bson.decode(reply)
    errors = found.get("writeErrors", ())
    return (
        found["n"],
        len(found.get("upserted", ())),
        [one["index"] for one in errors if one["code"] == 11000],
    )


def _repeat(read: Callable[[bytes], Found], reply: bytes, times: int) -> None:
    for _ in range(times):
        read(reply)


def _expected(case: str, codes: int) -> Found:
    return {
        "all inserted": (codes, 0, []),
        "all upserted": (codes, codes, []),
        "all there already": (0, 0, list(range(codes))),
    }[case]


@lru_cache(maxsize=1)
def _reply(case: str, codes: int) -> bytes:
    """Write what a server of version 6 sends."""
    reply: dict[str, Any] = {
        "n": codes,
        "electionId": bson.ObjectId(),
        "opTime": {"ts": bson.Timestamp(1, 1), "t": 1},
    }
    if case == "all upserted":
        reply["nModified"] = 0
        reply["upserted"] = [{"index": index, "_id": key} for index, key in enumerate(_keys(codes))]
    elif case == "all there already":
        reply["n"] = 0
        reply["writeErrors"] = [_duplicate(index, key) for index, key in enumerate(_keys(codes))]
    return bson.encode(reply | {"ok": 1.0, "operationTime": bson.Timestamp(1, 1)})


def _duplicate(index: int, key: dict[str, str]) -> dict[str, Any]:
    words = (
        "E11000 duplicate key error collection: codesvc.codes index: _id_ dup key: "
        f'{{ _id: {{ campaign_id: "{key["campaign_id"]}", code: "{key["code"]}" }} }}'
    )
    return {
        "index": index,
        "code": 11000,
        "errmsg": words,
        "keyPattern": {"_id": 1},
        "keyValue": {"_id": key},
    }


def _keys(count: int) -> list[dict[str, str]]:
    codes = records(0, count, Profile.NARROW).decode().splitlines()
    return [{"campaign_id": "12345", "code": code} for code in codes]

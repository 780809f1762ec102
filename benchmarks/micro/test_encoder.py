"""Documents and upserts of codes, encoded: from CSV bytes, beside bson.encode of dicts that are there already."""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, Final

import bson
import pytest

from benchmarks.data import Profile, records
from benchmarks.micro.measure import Measure
from codesvc._fastcsv import Batch, Extractor

_SAVED_MS: Final = 1_700_000_000_000
_OURS: Final = "codesvc"
_BASE: Final = "bson.encode"


@pytest.mark.parametrize("contender", [_OURS, _BASE])
@pytest.mark.parametrize("case", ["documents", "upserts", "upserts of every second"])
def test_encoder(measure: Measure, contender: str, case: str, quick: bool) -> None:
    """Hazard: a Python object per code on its way; a field of another order or type than the driver would write.

    The documents of codesvc include the parsing of the CSV; those of bson.encode not even the making of the dicts.
    """
    count = 10_000 if quick else 200_000
    step = 2 if case.endswith("second") else 1
    ours: Callable[[], list[bytes]]
    if case == "documents":
        ours = partial(_documents, records(0, count, Profile.NARROW))
        mappings = _document_dicts(count)
    else:
        batches = _batches(records(0, count, Profile.NARROW))
        ours = partial(_upserts, batches, step)
        mappings = _upsert_dicts(count)[::step]
    base = partial(_encoded, mappings)
    measure(
        case,
        contender,
        ours if contender == _OURS else base,
        amount=len(mappings),
        right=lambda: bson.has_c() and b"".join(ours()) == b"".join(base()),
    )


def _batches(data: bytes) -> list[Batch]:
    extractor = Extractor(campaign_id="12345", code_type="tm", saved_ms=_SAVED_MS)
    return extractor.feed(data) + extractor.finish()


def _documents(data: bytes) -> list[bytes]:
    return [batch.documents for batch in _batches(data)]


def _upserts(batches: list[Batch], step: int) -> list[bytes]:
    if step == 1:
        return [batch.upserts() for batch in batches]
    return [batch.upserts(list(range(0, len(batch), step))) for batch in batches]


def _encoded(mappings: list[dict[str, Any]]) -> list[bytes]:
    return [bson.encode(mapping) for mapping in mappings]


@lru_cache(maxsize=1)
def _document_dicts(count: int) -> list[dict[str, Any]]:
    saved = bson.DatetimeMS(_SAVED_MS)
    return [{"_id": key, "type": "tm", "date": {"saved": saved}} for key in _keys(count)]


@lru_cache(maxsize=1)
def _upsert_dicts(count: int) -> list[dict[str, Any]]:
    saved = bson.DatetimeMS(_SAVED_MS)
    change = {"$set": {"type": "tm"}, "$setOnInsert": {"date": {"saved": saved}}}
    return [{"q": {"_id": key}, "u": change, "upsert": True} for key in _keys(count)]


def _keys(count: int) -> list[dict[str, str]]:
    codes = records(0, count, Profile.NARROW).decode().splitlines()
    return [{"campaign_id": "12345", "code": code} for code in codes]

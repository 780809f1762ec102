"""Where a batch ends, and that what it holds is the BSON that the driver itself would make."""

import ctypes
import gc
import random
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import bson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import CAMPAIGN_ID, CHUNK_SIZES, INSTRUCTION_SETS, SAVED_MS, batches, extractor

from codesvc._fastcsv import Batch, Extractor

SAVED = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=SAVED_MS)


def document(
    code: str, *, campaign_id: str = CAMPAIGN_ID, code_type: str = "tm", saved: datetime = SAVED
) -> bytes:
    return bson.encode(
        {"_id": {"campaign_id": campaign_id, "code": code}, "type": code_type, "date": {"saved": saved}}
    )


def upsert(
    code: str, *, campaign_id: str = CAMPAIGN_ID, code_type: str = "tm", saved: datetime = SAVED
) -> bytes:
    return bson.encode(
        {
            "q": {"_id": {"campaign_id": campaign_id, "code": code}},
            "u": {"$set": {"type": code_type}, "$setOnInsert": {"date": {"saved": saved}}},
            "upsert": True,
        }
    )


def one_batch(*codes: str) -> Batch:
    (batch,) = batches(extractor(), "".join(f"{code}\n" for code in codes).encode())
    return batch


def test_documents_and_upserts_are_what_the_driver_makes() -> None:
    codes = ["A", "ABC123XYZ", "ü😀", "x" * 256, "A"]
    batch = one_batch(*codes)
    assert len(batch) == 5
    assert batch.codes() == codes
    assert batch.documents == b"".join(map(document, codes))
    assert batch.upserts() == b"".join(map(upsert, codes))


@settings(max_examples=50, deadline=None)
@given(
    campaign_id=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=100),
    code_type=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30),
    saved_ms=st.integers(-60_000_000_000_000, 250_000_000_000_000),
)
def test_any_campaign_type_and_date(campaign_id: str, code_type: str, saved_ms: int) -> None:
    saved = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=saved_ms)
    x = Extractor(campaign_id=campaign_id, code_type=code_type, saved_ms=saved_ms)
    (batch,) = batches(x, b"code-1\ncode-22")
    for encode, encoded in ((document, batch.documents), (upsert, batch.upserts())):
        assert encoded == b"".join(
            encode(code, campaign_id=campaign_id, code_type=code_type, saved=saved)
            for code in ("code-1", "code-22")
        )


def test_upserts_of_some_positions_in_the_order_given() -> None:
    batch = one_batch("A", "BB", "CCC")
    assert batch.upserts([]) == b""
    assert batch.upserts([2, 0, 2]) == upsert("CCC") + upsert("A") + upsert("CCC")
    assert batch.upserts(range(3)) == batch.upserts()
    assert batch.upserts((1,)) == upsert("BB")


@pytest.mark.parametrize("index", [3, -1, 1 << 31, 1 << 70])
def test_upserts_of_a_position_out_of_range(index: int) -> None:
    with pytest.raises(IndexError):
        one_batch("A", "BB", "CCC").upserts([0, index])


def test_upserts_of_what_is_no_position() -> None:
    with pytest.raises(TypeError):
        one_batch("A").upserts(["0"])  # type: ignore[list-item]


def test_documents_are_one_object_of_bytes_that_outlives_extractor_and_batch() -> None:
    x = extractor(max_batch_codes=2)
    first, second = x.feed(b"A1\nB2\nC3\nD4\nE5\n")
    documents = first.documents
    assert type(documents) is bytes
    assert first.documents is documents
    del x, first
    gc.collect()
    assert second.upserts() == upsert("C3") + upsert("D4")
    assert documents == document("A1") + document("B2")


def test_earlier_batches_stay_as_they_are_while_later_ones_are_made() -> None:
    x = extractor(max_batch_codes=100)
    codes = [f"{number:08}" for number in range(10_000)]
    made = batches(x, "\n".join(codes).encode(), 4096)
    assert len(made) == 100
    assert [code for batch in made for code in batch.codes()] == codes


@pytest.mark.parametrize("chunk_size", CHUNK_SIZES)
def test_a_batch_ends_with_max_batch_codes(chunk_size: int) -> None:
    made = batches(extractor(max_batch_codes=3), b"a\nb\n\nc\nd\n" * 4, chunk_size)
    assert [len(batch) for batch in made] == [3, 3, 3, 3, 3, 1]


def test_a_full_batch_is_returned_at_once() -> None:
    x = extractor(max_batch_codes=2)
    assert x.feed(b"a\nb") == []
    (batch,) = x.feed(b"\n")
    assert batch.codes() == ["a", "b"]
    assert x.finish() == []


@pytest.mark.parametrize("chunk_size", CHUNK_SIZES)
@pytest.mark.parametrize("spare", [0, 1, 299])
def test_a_batch_ends_before_its_larger_form_exceeds_max_batch_bytes(chunk_size: int, spare: int) -> None:
    codes = [f"{number:0{1 + number % 9}}" for number in range(200)]
    limit = len(upsert("x" * 256)) + spare
    made = batches(extractor(max_batch_bytes=limit), "\n".join(codes).encode(), chunk_size)
    assert [code for batch in made for code in batch.codes()] == codes
    assert all(max(len(batch.documents), len(batch.upserts())) <= limit for batch in made)
    # The code that opens the next batch had no room in the one before.
    for batch, following in pairwise(made):
        assert len(batch.upserts() + upsert(following.codes()[0])) > limit


@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS)
@pytest.mark.parametrize("seed", range(10))
def test_each_batch_holds_as_many_codes_as_fit(instruction_set: str, seed: int) -> None:
    chance = random.Random(seed)
    lengths = [chance.choice([1, 12, 12, 12, 12, 64, 65, 256]) for _ in range(3000)]
    codes = ["k" * length for length in lengths]
    limit = chance.choice([600, 5000, 20_000])
    fixed = len(upsert(""))
    expected: list[int] = []
    used = limit
    for length in lengths:
        if used + fixed + length > limit:
            expected.append(0)
            used = 0
        expected[-1] += 1
        used += fixed + length
    made = batches(
        extractor(max_batch_bytes=limit, instruction_set=instruction_set), "\n".join(codes).encode(), 4096
    )
    assert [len(batch) for batch in made] == expected
    assert [code for batch in made for code in batch.codes()] == codes


def test_a_batch_fills_its_limit_to_the_last_byte() -> None:
    limit = 2 * len(upsert("x" * 256))
    (full,) = batches(extractor(max_batch_bytes=limit), b"x" * 256 + b"\n" + b"y" * 256)
    assert len(full.upserts()) == limit
    assert [
        len(b) for b in batches(extractor(max_batch_bytes=limit - 1), b"x" * 256 + b"\n" + b"y" * 256)
    ] == [1, 1]


def test_codes_longer_than_those_before_them_find_room() -> None:
    codes = ["s"] * 1000 + ["l" * 256] * 3000 + ["s"] * 1000
    made = batches(extractor(max_batch_codes=1000), "\n".join(codes).encode())
    assert [len(batch) for batch in made] == [1000] * 5
    assert [code for batch in made for code in batch.codes()] == codes


def test_the_hash_of_documents_is_their_own() -> None:
    """Buffers are used again: what was remembered of the earlier content must not be."""
    x = extractor(max_batch_codes=1)
    for code in ("A", "B", "CC", "D"):
        (batch,) = x.feed(f"{code}\n".encode())
        documents = batch.documents
        assert hash(documents) == hash(document(code))
        assert documents == document(code)
        assert bytearray(documents) == document(code)
        assert len({documents, document(code)}) == 1
        del batch, documents


def test_documents_end_with_the_nul_that_c_code_relies_on() -> None:
    """https://docs.python.org/3/c-api/bytes.html: the byte after the last is 0, and is not counted."""
    x = extractor(max_batch_codes=1)
    for code in ("longer-than-the-next", "short"):
        (batch,) = x.feed(f"{code}\n".encode())
        documents = batch.documents
        address = ctypes.cast(ctypes.c_char_p(documents), ctypes.c_void_p).value
        assert address is not None
        assert ctypes.string_at(address, len(documents) + 1) == documents + b"\0"
        del batch, documents


def test_views_keep_their_bytes_while_buffers_are_used_again() -> None:
    x = extractor(max_batch_codes=10)
    views = []
    expected = []
    for start in range(0, 1000, 10):
        codes = [f"{number:04}" for number in range(start, start + 10)]
        (batch,) = x.feed("".join(f"{code}\n" for code in codes).encode())
        if start % 30 == 0:
            views.append(memoryview(batch.documents))
            expected.append(b"".join(map(document, codes)))
        del batch
    assert [bytes(view) for view in views] == expected


@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS)
def test_any_length_of_campaign_and_code(instruction_set: str) -> None:
    codes = ["k" * length for length in range(1, 257)]
    for length in (1, 17, 18, 22, 23, 24, 49, 50, 128, 1024):
        x = Extractor(
            campaign_id="c" * length, code_type="external", saved_ms=SAVED_MS, instruction_set=instruction_set
        )
        (batch,) = batches(x, "\n".join(codes).encode())
        assert batch.documents == b"".join(
            document(code, campaign_id="c" * length, code_type="external") for code in codes
        )
        assert batch.upserts([0, 255]) == b"".join(
            upsert(code, campaign_id="c" * length, code_type="external") for code in (codes[0], codes[255])
        )


def test_a_batch_does_not_show_its_codes() -> None:
    assert "SECRET" not in repr(one_batch("SECRET"))


def test_a_batch_made_by_hand_holds_nothing() -> None:
    batch = Batch()
    assert len(batch) == 0
    for use in (lambda: batch.documents, batch.codes, batch.upserts, lambda: batch.pick(bytearray(), 0)):
        with pytest.raises(ValueError, match="Extractor"):
            use()

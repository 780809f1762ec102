"""Batches sorted by the bytes of their codes: the same codes as in file order, whatever the codes have in common."""

import bson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import CHUNK_SIZES, INSTRUCTION_SETS, batches, extractor


def by_bytes(codes: list[str]) -> list[str]:
    return sorted(codes, key=str.encode)


prefixes = st.sampled_from(["", "PROMO-2024-", "x" * 7, "x" * 8, "x" * 63, "x" * 64, "x" * 100])
letters = st.sampled_from(["A", "AB", "0123456789", "Aü€😀", "!~"])


@settings(max_examples=150, deadline=None)
@given(data=st.data(), count=st.sampled_from([0, 1, 2, 24, 25, 26, 120, 700]))
def test_any_codes(data: st.DataObject, count: int) -> None:
    random = data.draw(st.randoms(use_true_random=False))
    alphabet = data.draw(letters)
    some_prefixes = data.draw(st.lists(prefixes, min_size=1, max_size=3))
    longest = data.draw(st.sampled_from([1, 4, 9, 20]))
    codes = [
        random.choice(some_prefixes) + "".join(random.choices(alphabet, k=random.randint(1, longest)))
        for _ in range(count)
    ]
    made = batches(extractor(sort=True), "\n".join(codes).encode())
    assert [code for batch in made for code in batch.codes()] == by_bytes(codes)


@pytest.mark.parametrize("chunk_size", CHUNK_SIZES)
@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS)
def test_each_batch_by_itself(instruction_set: str, chunk_size: int) -> None:
    codes = [f"{number * 7919 % 1000:03}" for number in range(1000)]
    x = extractor(sort=True, max_batch_codes=300, instruction_set=instruction_set)
    made = batches(x, "\r\n".join(codes).encode(), chunk_size)
    assert [len(batch) for batch in made] == [300, 300, 300, 100]
    assert [batch.codes() for batch in made] == [by_bytes(codes[at : at + 300]) for at in range(0, 1000, 300)]


def test_duplicates_stay() -> None:
    (batch,) = batches(extractor(sort=True), b"B\nA\nB\nA\nA\n")
    assert batch.codes() == ["A", "A", "A", "B", "B"]


def test_documents_and_upserts_are_in_the_same_order() -> None:
    (batch,) = batches(extractor(sort=True), b"C\nA\nB\n")
    assert [document["_id"]["code"] for document in bson.decode_all(batch.documents)] == ["A", "B", "C"]
    assert [upsert["q"]["_id"]["code"] for upsert in bson.decode_all(batch.upserts())] == ["A", "B", "C"]
    assert [upsert["q"]["_id"]["code"] for upsert in bson.decode_all(batch.upserts([2]))] == ["C"]


def test_a_hostile_file_is_sorted_all_the_same() -> None:
    """Long common beginnings, each a little longer than the last, would drive a naive radix sort deep."""
    codes = ["y" * length + end for length in range(1, 250) for end in ("a", "b", "z")] * 20
    (batch,) = batches(extractor(sort=True), "\n".join(codes).encode())
    assert batch.codes() == by_bytes(codes)

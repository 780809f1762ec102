"""Batches sorted by the bytes of their codes: the same codes as in file order, whatever the codes have in common."""

import gc
import random

import bson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import CHUNK_SIZES, INSTRUCTION_SETS, batches, extractor

from codesvc._fastcsv import Batch


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
    made = batches(extractor(sort=1000), "\n".join(codes).encode())
    assert [code for batch in made for code in batch.codes()] == by_bytes(list(set(codes)))
    assert sum(batch.repeats for batch in made) == len(codes) - len(set(codes))


@pytest.mark.parametrize("chunk_size", CHUNK_SIZES)
@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS)
def test_each_run_by_itself(instruction_set: str, chunk_size: int) -> None:
    codes = [f"{number * 7919 % 1000:03}" for number in range(1000)]
    x = extractor(sort=300, instruction_set=instruction_set)
    made = batches(x, "\r\n".join(codes).encode(), chunk_size)
    assert [len(batch) for batch in made] == [300, 300, 300, 100]
    assert [batch.codes() for batch in made] == [by_bytes(codes[at : at + 300]) for at in range(0, 1000, 300)]


def test_repeats_are_left_out_and_told() -> None:
    (batch,) = batches(extractor(sort=1000), b"B\nA\nB\nA\nA\n")
    assert batch.codes() == ["A", "B"]
    assert (len(batch), batch.repeats) == (2, 3)


def test_repeats_of_an_earlier_run_stay() -> None:
    made = batches(extractor(sort=2), b"B\nB\nA\nB\n")
    assert [(batch.codes(), batch.repeats) for batch in made] == [(["B"], 1), (["A", "B"], 0)]


@pytest.mark.parametrize("chunk_size", CHUNK_SIZES)
@pytest.mark.parametrize("seed", range(5))
def test_batches_cut_from_a_run_keep_their_limits(seed: int, chunk_size: int) -> None:
    chance = random.Random(seed)
    codes = ["k" * chance.choice([1, 12, 64, 65, 256]) + f"{chance.randrange(2000)}" for _ in range(3000)]
    limit = chance.choice([1000, 5000, 20_000])
    x = extractor(sort=1000, max_batch_codes=30, max_batch_bytes=limit, max_code_bytes=300)
    made = batches(x, "\n".join(codes).encode(), chunk_size)
    runs = [by_bytes(list(set(codes[at : at + 1000]))) for at in range(0, 3000, 1000)]
    assert [code for batch in made for code in batch.codes()] == [code for run in runs for code in run]
    assert sum(batch.repeats for batch in made) == 3000 - sum(map(len, runs))
    for batch in made:
        assert len(batch) <= 30
        assert len(batch.upserts()) <= limit
        assert [one["_id"]["code"] for one in bson.decode_all(batch.documents)] == batch.codes()


def test_long_codes_make_shorter_runs() -> None:
    """A run is kept in memory: 32 MiB of codes, each with 4 bytes for its length, are its limit."""
    codes = [f"{number:0256}" for number in range(200_000)]
    x = extractor(sort=10_000_000)
    made = x.feed("".join(f"{code}\n" for code in reversed(codes)).encode())
    assert sum(map(len, made)) == (32 << 20) // 260
    assert x.pending == 200_000 - (32 << 20) // 260
    assert [code for batch in made for code in batch.codes()] == codes[-((32 << 20) // 260) :]


def test_flush() -> None:
    x = extractor(sort=1000)
    assert x.flush() == []
    assert x.feed(b"B\nA\nC") == []
    assert x.pending == 2
    assert [batch.codes() for batch in x.flush()] == [["A", "B"]]
    assert (x.pending, x.flush()) == (0, [])
    assert [batch.codes() for batch in x.finish()] == [["C"]]
    assert x.flush() == []


def test_batches_outlive_the_extractor_and_later_runs() -> None:
    x = extractor(sort=100, max_batch_codes=7)
    kept, expected = [], []
    made: list[Batch] = []
    for start in range(0, 5000, 100):
        made = x.feed("".join(f"{start + number:04}\n" for number in range(100)).encode())
        if start % 700 == 0:
            kept.append(made[3])
            expected.append([f"{start + number:04}" for number in range(21, 28)])
    del x
    made.clear()
    gc.collect()
    assert [batch.codes() for batch in kept] == expected
    assert [[one["_id"]["code"] for one in bson.decode_all(batch.documents)] for batch in kept] == expected


def test_documents_and_upserts_are_in_the_same_order() -> None:
    (batch,) = batches(extractor(sort=1000), b"C\nA\nB\n")
    assert [document["_id"]["code"] for document in bson.decode_all(batch.documents)] == ["A", "B", "C"]
    assert [upsert["q"]["_id"]["code"] for upsert in bson.decode_all(batch.upserts())] == ["A", "B", "C"]
    assert [upsert["q"]["_id"]["code"] for upsert in bson.decode_all(batch.upserts([2]))] == ["C"]


def test_a_hostile_file_is_sorted_all_the_same() -> None:
    """Long common beginnings, each a little longer than the last, would drive a naive radix sort deep."""
    codes = ["y" * length + end for length in range(1, 250) for end in ("a", "b", "z")]
    (batch,) = batches(extractor(sort=100_000), "\n".join(codes * 20).encode())
    assert batch.codes() == by_bytes(codes)

"""Codes counted by their hashes, each once, in a memory that is too small for all of them."""

import os
import random
import threading

import pytest

from codesvc._fastcsv import Batch, Distinct, Extractor

KEY = bytes(range(16))
ALL = 1 << 64


def batches(codes: list[str], *, size: int = 50, sort: int = 200) -> list[Batch]:
    x = Extractor(campaign_id="1", code_type="tm", saved_ms=0, max_batch_codes=size, sort=sort)
    return [*x.feed("".join(f"{code}\n" for code in codes).encode()), *x.finish()]


def counted(codes: list[str], capacity: int, *, sort: int = 200) -> tuple[int, int]:
    """Count codes in as many passes as it takes; return their number and that of the passes."""
    first = total = passes = 0
    while first < ALL:
        distinct = Distinct(key=KEY, first=first, capacity=capacity)
        for batch in batches(codes, sort=sort):
            distinct.add(batch)
        total += distinct.count()
        assert distinct.count() <= capacity
        assert distinct.first == first <= distinct.last
        first = distinct.last + 1
        passes += 1
    return total, passes


@pytest.mark.parametrize("sort", [0, 200])
@pytest.mark.parametrize("capacity", [2, 3, 7, 64, 1000, 8192, 100_000])
def test_each_is_counted_once_whatever_the_memory(capacity: int, sort: int) -> None:
    chance = random.Random(capacity)
    spread = min(500, 20 * capacity)
    codes = [f"{chance.randrange(spread)}" + chance.choice(["", "é" * 9, "x" * 200]) for _ in range(1_500)]
    total, passes = counted(codes, capacity, sort=sort)
    assert total == len(set(codes))
    # A pass covers half of what there is room for, at least; and all of it where there is room.
    assert passes <= total / (capacity // 2) + 1
    if capacity >= 1_500:
        assert passes == 1


def test_more_than_the_first_memory_holds() -> None:
    codes = [f"{number:x}" for number in range(30_000)]
    assert counted(codes + codes, 1 << 20, sort=5_000) == (30_000, 1)


def test_no_codes() -> None:
    assert counted([], 2) == (0, 1)


def test_what_is_selected_is_what_is_counted() -> None:
    codes = [f"CODE-{number}" for number in range(1_000)]
    low = Distinct(key=KEY, capacity=400)
    for batch in batches(codes):
        low.add(batch)
    assert low.last < ALL - 1
    selected = 0
    for batch in batches(codes):
        marks = low.select(batch)
        assert len(marks) == len(batch)
        assert set(marks) <= {0, 1}
        selected += sum(marks)
        others = Distinct(key=KEY, first=low.last + 1, capacity=1_000).select(batch)
        assert [one + other for one, other in zip(marks, others, strict=True)] == [1] * len(batch)
    assert selected == low.count() >= 200


def siphash(key: bytes, data: bytes) -> int:
    """SipHash-2-4 as its authors write it, with Python's integers."""
    mask = ALL - 1

    def turn(x: int, bits: int) -> int:
        return (x << bits | x >> (64 - bits)) & mask

    k0, k1 = (int.from_bytes(key[i : i + 8], "little") for i in (0, 8))
    v = [k0 ^ 0x736F6D6570736575, k1 ^ 0x646F72616E646F6D, k0 ^ 0x6C7967656E657261, k1 ^ 0x7465646279746573]

    def rounds(count: int) -> None:
        for _ in range(count):
            v[0] = (v[0] + v[1]) & mask
            v[1] = turn(v[1], 13) ^ v[0]
            v[0] = turn(v[0], 32)
            v[2] = (v[2] + v[3]) & mask
            v[3] = turn(v[3], 16) ^ v[2]
            v[0] = (v[0] + v[3]) & mask
            v[3] = turn(v[3], 21) ^ v[0]
            v[2] = (v[2] + v[1]) & mask
            v[1] = turn(v[1], 17) ^ v[2]
            v[2] = turn(v[2], 32)

    padded = data + bytes(7 - len(data) % 8) + bytes([len(data) & 0xFF])
    for i in range(0, len(padded), 8):
        word = int.from_bytes(padded[i : i + 8], "little")
        v[3] ^= word
        rounds(2)
        v[0] ^= word
    v[2] ^= 0xFF
    rounds(4)
    return v[0] ^ v[1] ^ v[2] ^ v[3]


def test_the_readable_twin_is_siphash() -> None:
    # The first of the test vectors of SipHash's reference implementation, and that of its paper's appendix.
    assert siphash(KEY, b"") == 0x726FDB47DD0E0E31
    assert siphash(KEY, bytes(range(15))) == 0xA129CA6149BE45E5


@pytest.mark.parametrize("length", [1, 7, 8, 9, 15, 16, 17, 200, 255, 256])
def test_hashes_are_those_of_siphash(length: int) -> None:
    key = os.urandom(16)
    code = "".join(random.Random(length).choices("ABCDEFGH", k=length))
    wanted = siphash(key, code.encode())
    (batch,) = batches([code])
    assert list(Distinct(key=key, first=wanted, capacity=2).select(batch)) == [1]
    assert list(Distinct(key=key, first=wanted + 1, capacity=2).select(batch)) == [0]


@pytest.mark.parametrize(
    "arguments",
    [
        {"key": bytes(15), "capacity": 2},
        {"key": bytes(17), "capacity": 2},
        {"key": KEY, "capacity": 1},
        {"key": KEY, "capacity": 2, "first": -1},
        {"key": KEY, "capacity": 2, "first": ALL},
    ],
)
def test_arguments_that_are_wrong(arguments: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"key must be|must be"):
        Distinct(**arguments)  # type: ignore[arg-type]


def test_a_batch_of_nobody() -> None:
    with pytest.raises((ValueError, TypeError)):
        Distinct(key=KEY, capacity=2).add(Batch.__new__(Batch))


def test_not_for_two_threads_at_once() -> None:
    """One waits for the other, or is told: nothing is lost in silence."""
    codes = [f"{number:x}" for number in range(60_000)]
    every = batches(codes, size=10_000, sort=60_000)
    distinct = Distinct(key=KEY, capacity=1 << 17)
    added: list[int] = []

    def add(batch: Batch) -> None:
        try:
            distinct.add(batch)
        except RuntimeError:
            return
        added.append(len(batch))

    threads = [threading.Thread(target=add, args=(batch,)) for batch in every]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert distinct.count() == sum(added) > 0

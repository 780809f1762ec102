"""Every instruction set finds the same in files large enough for what only happens in long chunks."""

import random

import pytest
import twin
from support import INSTRUCTION_SETS, Options, extractor

ALPHABET = b"ABCDEFGHJKLMNPQRSTUVWXYZ23456789"
ODD_FIELDS = [
    b"", b" ", b" trim ", b"in side", b"a,b", b'a"b', b'"q"', b'"a,b"', b'"a\nb"', b'"a\r\nb"', b'"a\rb"',
    b'"a""b"', b'""', b'""""', b'"x"y', b'"x" ', b'"', b"\xff", b"\x00", b"\x7f", b"\t", "ü😀".encode(),
    b"k" * 31, b"k" * 32, b"k" * 33, b"k" * 63, b"k" * 64, b"k" * 65, b"k" * 300,
    b'"' + b"w" * 31 + b'"', b'"' + b"w" * 64 + b'"',
]  # fmt: skip


def generate(chance: random.Random) -> bytes:
    """Records of one shape, a share of them out of order: mostly none, so that the fast path is left and entered."""
    quoted = chance.random() < 0.4
    columns = chance.choice([1, 1, 2, 10])
    oddity = chance.choice([0.0, 0.003, 0.03, 0.3])
    line_end = chance.choice([b"\n", b"\n", b"\r\n", b"\r"])
    length = chance.choice([5, 12, 12, 12, 36, 70])
    lines = []
    for _ in range(chance.randrange(1, 700)):
        fields = [bytes(chance.choices(ALPHABET, k=length)) for _ in range(columns)]
        if quoted:
            fields = [b'"' + field + b'"' for field in fields]
        if chance.random() < oddity:
            fields[chance.randrange(columns)] = chance.choice(ODD_FIELDS)
        end = chance.choice([b"\n", b"\r\n", b"\r", b"\n\n"]) if chance.random() < oddity else line_end
        lines.append(b",".join(fields) + end)
    return b"".join(lines) + chance.choice([b"", b"", b"LAST", b'"LAST', b"\r"])


def run(
    options: Options, instruction_set: str, data: bytes, sizes: random.Random | None
) -> tuple[object, ...]:
    options["instruction_set"] = instruction_set
    x = extractor(**options)
    at = 0
    made = []
    while at < len(data) and x.failure is None:
        size = len(data) if sizes is None else sizes.choice([1, 63, 64, 65, 1000, 4096, 5000])
        made += x.feed(memoryview(data)[at : at + size])
        at += size
    made += x.finish()
    documents = [batch.documents for batch in made]
    return documents, x.codes, x.invalid_count, x.invalid_samples, x.failure


@pytest.mark.parametrize("seed", range(60))
def test_all_the_same(seed: int) -> None:
    chance = random.Random(seed)
    data = generate(chance)
    options: Options = {
        "header": chance.random() < 0.2,
        "strict": chance.random() < 0.2,
        "max_row_bytes": chance.choice([64, 100, 1000, 4 << 20]),
        "max_code_bytes": chance.choice([12, 33, 64, 256]),
        "max_batch_codes": chance.choice([1, 50, 500, 50_000]),
        "max_batch_bytes": chance.choice([1000, 47_000_000]),
        "max_samples": 1000,
    }
    expected = run(options, "bytewise", data, None)
    for instruction_set in INSTRUCTION_SETS:
        for sizes in (None, random.Random(seed), random.Random(seed + 1000)):
            assert run(options, instruction_set, data, sizes) == expected

    outcome = twin.extract(
        data,
        header=options["header"],
        strict=options["strict"],
        max_code_bytes=options["max_code_bytes"],
        max_row_bytes=options["max_row_bytes"],
    )
    assert expected[1:] == (len(outcome.codes), len(outcome.invalid), outcome.invalid, outcome.failure)


@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS)
@pytest.mark.parametrize("at", range(120))
def test_each_hazard_at_each_place_of_a_block(instruction_set: str, at: int) -> None:
    lead = b"x" * at + b"\n" if at else b""
    for hazard in (
        b'"a""b"',
        b'"a\r\nb",z',
        b'"x"y',
        b'a"b',
        b'"',
        b"\r",
        b"\r\n",
        b'""',
        b"\xff",
        "ü".encode(),
        b",",
        b" ",
    ):
        data = lead + hazard + b"\n" + b"AFTER-1,x\n" + b'"AFTER-2","y"\n' * 20 + b"\n"
        x = extractor(instruction_set=instruction_set)
        codes = [code for batch in x.feed(data) + x.finish() for code in batch.codes()]
        expected = twin.extract(data, max_code_bytes=256, max_row_bytes=4 << 20)
        assert (codes, x.invalid_samples) == (expected.codes, expected.invalid)


def test_the_best_comes_first_and_the_slowest_is_always_there() -> None:
    assert INSTRUCTION_SETS[-2:] == ("portable", "bytewise")
    assert len(set(INSTRUCTION_SETS)) == len(INSTRUCTION_SETS)

"""Files named by their hazard, and what the contract says of each, spelled out; the twin must agree."""

from pathlib import Path

import pytest
import twin
from support import CHUNK_SIZES, extract

FILES = Path(__file__).parent.parent / "data" / "csv"

TEXT = "text follows a closing quote"
OPEN = "a quote is still open at the end of the file"
LONG = "the code is longer than 256 bytes"
CONTROL = "the code holds a control character"
UTF8 = "the code is not valid UTF-8"

EXPECTED: dict[str, tuple[list[str], list[tuple[int, str]]]] = {
    "blank-first-columns": (["REAL"], []),
    "blanks-around-codes": (["LEFT", "RIGHT", "BOTH", "IN SIDE", " KEPT "], []),
    "byte-order-mark": (["MARK-1", "MARK-2"], []),
    "byte-order-mark-before-a-quote": (["MARK,1", "\ufeffMARK-2"], []),
    "byte-order-mark-only": ([], []),
    "code-twice": (["SAME", "OTHER", "SAME", "SAME", "SAME"], []),
    "control-characters": (
        ["GOOD", "C1\x80"],
        [(1, CONTROL), (2, CONTROL), (3, CONTROL), (5, CONTROL), (6, CONTROL)],
    ),
    "crlf": (["CRLF-1", "CRLF-2", "CRLF-3"], []),
    "empty": ([], []),
    "every-hazard": (
        ["code", "GOOD-1", "GOOD-2", "GOOD,3", 'GOOD"4', "GUT-9-ü😀", "GOOD-1", "GOOD-11"],
        [(9, TEXT), (11, CONTROL), (12, UTF8), (13, LONG), (14, CONTROL), (17, TEXT), (20, OPEN)],
    ),
    "header": (["code", "AFTER-1", "AFTER-2"], []),
    "invalid-utf-8": (["GOOD-ü", "LAST-\U0010ffff"], [(1, UTF8), (3, UTF8), (4, UTF8), (5, UTF8), (6, UTF8)]),
    "lone-cr": (["CR-1", "CR-2", "CR-3"], []),
    "longest-code": (
        ["L" * 256, "N" * 256, "O" * 254 + '"', "ü" * 128, '"' * 256],
        [(2, LONG), (6, LONG)],
    ),
    "mixed-line-ends": (["LF", "CRLF", "CR", "LAST"], []),
    "newline-in-a-quoted-code": (["GOOD"], [(1, CONTROL), (4, CONTROL)]),
    "no-newline-at-the-end": (["FIRST", "LAST"], []),
    "quote-open-at-the-end": (["GOOD"], [(2, OPEN)]),
    "quote-open-at-the-end-in-a-later-column": (["GOOD"], [(2, OPEN)]),
    "quoted-commas-and-newlines": (["A,1", 'B"2', "C3", "D4"], []),
    "quotes-inside-unquoted": (['AB"C', '"D"', 'E""F', "G"], []),
    "semicolons": ([], [(1, TEXT), (2, TEXT)]),
    "text-after-a-closing-quote": (
        ["GOOD-1", "GOOD-3"],
        [(1, TEXT), (3, TEXT), (4, TEXT), (5, TEXT), (6, TEXT)],
    ),
}


def test_every_file_is_expected() -> None:
    assert {path.stem for path in FILES.glob("*.csv")} == set(EXPECTED)


@pytest.mark.parametrize("chunk_size", CHUNK_SIZES)
@pytest.mark.parametrize("name", EXPECTED)
def test_hazard(name: str, chunk_size: int) -> None:
    data = (FILES / f"{name}.csv").read_bytes()
    codes, invalid = EXPECTED[name]
    assert extract(data, chunk_size=chunk_size) == twin.Outcome(codes, invalid)


@pytest.mark.parametrize("name", EXPECTED)
def test_hazard_by_the_twin(name: str) -> None:
    data = (FILES / f"{name}.csv").read_bytes()
    codes, invalid = EXPECTED[name]
    assert twin.extract(data, max_code_bytes=256, max_row_bytes=4 << 20) == twin.Outcome(codes, invalid)


@pytest.mark.parametrize("chunk_size", CHUNK_SIZES)
@pytest.mark.parametrize("name", ["header", "every-hazard"])
def test_header_is_skipped_and_its_lines_are_counted(name: str, chunk_size: int) -> None:
    data = (FILES / f"{name}.csv").read_bytes()
    codes, invalid = EXPECTED[name]
    assert extract(data, chunk_size=chunk_size, header=True) == twin.Outcome(codes[1:], invalid)


@pytest.mark.parametrize("chunk_size", CHUNK_SIZES)
def test_strict_stops_at_the_first_invalid_row_and_keeps_what_came_before(chunk_size: int) -> None:
    data = (FILES / "every-hazard.csv").read_bytes()
    codes, invalid = EXPECTED["every-hazard"]
    expected = twin.Outcome(codes[:5], invalid[:1], ("invalidRow", *invalid[0]))
    assert extract(data, chunk_size=chunk_size, strict=True) == expected

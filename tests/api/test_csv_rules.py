"""Every rule of a file, by uploads of files that try to break it."""

import random
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from . import reference
from .harness import CODE_MARK, assert_counts, assert_problem, make_codes, new_campaign
from .world import World

M = CODE_MARK
DATA = Path(__file__).parents[1] / "data" / "csv"


@dataclass(frozen=True, slots=True)
class Case:
    content: str | bytes
    codes: tuple[str, ...] = ()
    invalid_lines: tuple[int, ...] = ()
    header: bool = False

    @property
    def raw(self) -> bytes:
        return self.content.encode() if isinstance(self.content, str) else self.content


LONG = M + "L" * (256 - len(M))
WIDE = M + "\u00fc" * 126  # 4 + 252 bytes
HIGH = M + "\U0001f600" * 63  # 4 + 252 bytes

CASES = {
    "one code, newline": Case(f"{M}a\n", (f"{M}a",)),
    "one code, no newline": Case(f"{M}a", (f"{M}a",)),
    "empty file": Case(""),
    "only a newline": Case("\n"),
    "only blank lines": Case("\n\r\n\r\r\n\n"),
    "LF": Case(f"{M}a\n{M}b\n", (f"{M}a", f"{M}b")),
    "CRLF": Case(f"{M}a\r\n{M}b\r\n", (f"{M}a", f"{M}b")),
    "lone CR": Case(f"{M}a\r{M}b\r", (f"{M}a", f"{M}b")),
    "lone CR at the end without it": Case(f"{M}a\r{M}b", (f"{M}a", f"{M}b")),
    "mixed line ends": Case(
        f"{M}a\n{M}b\r\n{M}c\r{M}d\r\r\n{M}e", (f"{M}a", f"{M}b", f"{M}c", f"{M}d", f"{M}e")
    ),
    "CR LF count as one line": Case(f"{M}a\r\n\r\n{M}\x01\r\n", (f"{M}a",), (3,)),
    "lone CR counts as one line": Case(f"{M}a\r\r{M}\x01\r", (f"{M}a",), (3,)),
    "LF CR is two lines": Case(f"{M}a\n\r{M}\x01", (f"{M}a",), (3,)),
    "blank lines between": Case(f"{M}a\n\n\n{M}b\n", (f"{M}a", f"{M}b")),
    "byte order mark": Case(b"\xef\xbb\xbf" + f"{M}a\n{M}b".encode(), (f"{M}a", f"{M}b")),
    "byte order mark before a quote": Case(b'\xef\xbb\xbf"' + f'{M}a,b"\n'.encode(), (f"{M}a,b",)),
    "byte order mark alone": Case(b"\xef\xbb\xbf"),
    "byte order mark, then a blank line": Case(b"\xef\xbb\xbf\n" + f"{M}\x02".encode(), (), (2,)),
    "byte order mark and a header": Case(b"\xef\xbb\xbf" + f"code\n{M}a\n".encode(), (f"{M}a",), header=True),
    "half a byte order mark is not UTF-8": Case(b"\xef\xbb" + f"{M}a\n{M}b".encode(), (f"{M}b",), (1,)),
    "two byte order marks: the second is a character": Case(
        b"\xef\xbb\xbf\xef\xbb\xbf" + f"{M}a".encode(), (f"\ufeff{M}a",)
    ),
    "byte order mark later is a character": Case(f"{M}a\n\ufeff{M}b\n", (f"{M}a", f"\ufeff{M}b")),
    "further columns": Case(f"{M}a,1,2,3\n{M}b,,,\n{M}c,\n", (f"{M}a", f"{M}b", f"{M}c")),
    "ragged rows": Case(f"{M}a\n{M}b,2\n{M}c,2,3\n", (f"{M}a", f"{M}b", f"{M}c")),
    "quoted": Case(f'"{M}a"\n"{M}b",x\n', (f"{M}a", f"{M}b")),
    "quoted, no newline at the end": Case(f'"{M}a"', (f"{M}a",)),
    "quoted with CRLF": Case(f'"{M}a"\r\n"{M}b"\r\n', (f"{M}a", f"{M}b")),
    "quoted with lone CR": Case(f'"{M}a"\r"{M}b"\r', (f"{M}a", f"{M}b")),
    "comma inside quotes": Case(f'"{M}a,b",c\n', (f"{M}a,b",)),
    "escaped quote": Case(f'"{M}a""b"\n', (f'{M}a"b',)),
    "escaped quotes only": Case('""""\n""""""\n', ('"', '""')),
    "escaped quote at the start and at the end": Case(f'"""{M}a"""\n', (f'"{M}a"',)),
    "escaped quote before a comma": Case(f'"{M}a"",b"\n', (f'{M}a",b',)),
    "newline inside a quoted code": Case(f'"{M}a\nb"\n{M}c\n', (f"{M}c",), (1,)),
    "CRLF inside a quoted code": Case(f'{M}c\n"{M}a\r\nb"\n{M}d\n', (f"{M}c", f"{M}d"), (2,)),
    "lone CR inside a quoted code": Case(f'"{M}a\rb"\n{M}c\n', (f"{M}c",), (1,)),
    "newlines inside later columns": Case(
        f'{M}a,"x\ny\r\nz\rw",q\n{M}\x01\n{M}b\n', (f"{M}a", f"{M}b"), (5,)
    ),
    "a record's line is the one on which it starts": Case(
        f'{M}a\n"{M}\x01","\n\n\n"\n"\n\n{M}","\r\r\n\n"\n{M}b,"\x01"\n', (f"{M}a", f"{M}b"), (2, 6)
    ),
    "commas and quotes inside later columns": Case(f'{M}a,"x,""y"",z",1\n{M}b,"""",2\n', (f"{M}a", f"{M}b")),
    "later columns of any bytes": Case(
        f"{M}a,".encode() + b"\x00\xff\xfe\x7f\x1b" + f"\n{M}b".encode(), (f"{M}a", f"{M}b")
    ),
    "quotes inside an unquoted later column": Case(f'{M}a,5"6"\n{M}b,x"y,z\n', (f"{M}a", f"{M}b")),
    "blanks before a quote: the field is unquoted": Case(
        f' "{M}a" \n\t"{M}b,c"\n{M}d, "x\n{M}e\n', (f'"{M}a"', f'"{M}b', f"{M}d", f"{M}e")
    ),
    "quote inside an unquoted code": Case(
        f'{M}a"b\n{M}"\n{M}"c"\n{M}d""e\n', (f'{M}a"b', f'{M}"', f'{M}"c"', f'{M}d""e')
    ),
    "text after a closing quote": Case(f'"{M}a"b\n{M}c\n', (f"{M}c",), (1,)),
    "blank after a closing quote": Case(f'"{M}a" \n"{M}b"\t,x\n{M}c\n', (f"{M}c",), (1, 2)),
    "text after a closing quote: up to the delimiter": Case(
        f'"{M}a"b"c,"d\ne"\n{M}f\n"{M}a"",\n"x\n{M}g', (f"{M}f", f"{M}g"), (1, 4)
    ),
    "text after a closing quote in a later column": Case(
        f'{M}a,"b"c\n{M}d,e,"f" \n{M}g,"h","i"j,k\n{M}l', (f"{M}l",), (1, 2, 3)
    ),
    "text after a closing quote on a later line": Case(f'{M}a,"b\n\nc"d\n{M}e\n', (f"{M}e",), (1,)),
    "quote open at the end": Case(f'{M}a\n"{M}b\n{M}c\n', (f"{M}a",), (2,)),
    "quote open at the end, in a later column": Case(f'{M}a\n{M}b,"c\nd\n', (f"{M}a",), (2,)),
    "a lone quote at the end": Case(f'{M}a\n"', (f"{M}a",), (2,)),
    "an escaped quote at the end leaves it open": Case(f'{M}a\n"{M}b""', (f"{M}a",), (2,)),
    "a quote that opens in the last column": Case(f'{M}a\n{M}b,"', (f"{M}a",), (2,)),
    "blanks around an unquoted code": Case(
        f"  {M}a\n{M}b \t\n\t {M}c\t,x\n{M}d ,\n", (f"{M}a", f"{M}b", f"{M}c", f"{M}d")
    ),
    "blanks inside a code": Case(f"{M}a b\n", (f"{M}a b",)),
    "a tab inside a code": Case(f"{M}a\tb\n{M}c\n", (f"{M}c",), (1,)),
    "blanks around a quoted code belong to it": Case(f'" {M}a "\n', (f" {M}a ",)),
    "a tab around a quoted code is a control character": Case(f'"{M}a\t"\n"\t{M}b"\n', (), (1, 2)),
    "only spaces and tabs are blanks": Case(
        f"\u00a0{M}a\u00a0\n\u3000{M}b\n\u2003\n\x0b{M}c\n\x0c\n",
        (f"\u00a0{M}a\u00a0", f"\u3000{M}b", "\u2003"),
        (4, 5),
    ),
    "blank first columns": Case(f',x\n  ,y\n\t,z\n"",w\n" ",v\n"\t",u\n,,,\n{M}a\n', (f"{M}a",)),
    "quoted blanks": Case(f'""\n" "\n"  \t "\n{M}a\n', (f"{M}a",)),
    "a quoted newline is not blank": Case(f'"\n"\n{M}a\n" \r "', (f"{M}a",), (1, 4)),
    "header": Case(f"code,note\n{M}a\n", (f"{M}a",), header=True),
    "header over lines": Case(f'"the\ncode","\n"\n{M}a\n{M}\x01\n', (f"{M}a",), (5,), header=True),
    "header alone": Case("code", header=True),
    "header and no more": Case("code\r\n", header=True),
    "header of an empty file": Case("", header=True),
    "a header that would be invalid": Case(f'"co"de\n{M}a\n', (f"{M}a",), header=True),
    "a header that is not UTF-8": Case(b"\xff\n" + f"{M}a\n".encode(), (f"{M}a",), header=True),
    "the line of the first row after a header is 2": Case(f"code\n{M}\x01\n", (), (2,), header=True),
    "no header asked for": Case(f"code\n{M}a\n", ("code", f"{M}a")),
    "256 bytes": Case(f"{LONG}\n", (LONG,)),
    "257 bytes": Case(f"{LONG}x\n", (), (1,)),
    "256 bytes, quoted": Case(f'"{LONG}"\n', (LONG,)),
    "257 bytes, quoted": Case(f'"{LONG}x"\n', (), (1,)),
    "256 bytes and blanks around": Case(f"   {LONG}\t \n", (LONG,)),
    "256 bytes, escaped quotes counted once": Case(f'"{LONG[:-2]}"""""\n', (LONG[:-2] + '""',)),
    "257 bytes, escaped quotes counted once": Case(f'"{LONG[:-1]}"""""\n', (), (1,)),
    "256 bytes of two each": Case(f"{WIDE}\n", (WIDE,)),
    "258 bytes of two each": Case(f"{WIDE}\u00fc\n", (), (1,)),
    "257 bytes, the last a half": Case(f"{M}x\u00fc" + "\u00fc" * 125 + "\u00fc\n", (), (1,)),
    "256 bytes of four each": Case(f"{HIGH}\n", (HIGH,)),
    "very long": Case(f"{M}{'x' * 700}\n{M}a", (f"{M}a",), (1,)),
    "control characters": Case(
        "".join(f"{M}a{chr(c)}b\n" for c in range(0x20) if c not in (9, 10, 13)) + f"{M}\x7f\n{M}c",
        (f"{M}c",),
        tuple(range(1, 31)),
    ),
    "control characters at the edges": Case(f"\x00{M}\n{M}\x00\n\x7f\n\x00\n", (), (1, 2, 3, 4)),
    "characters that are no control characters here": Case(
        f"{M}\x80\x85\x9f\n{M}\u2028\u2029\n{M}\u200b\ufffd\n{M}\uffff\ufffe\n",
        (f"{M}\x80\x85\x9f", f"{M}\u2028\u2029", f"{M}\u200b\ufffd", f"{M}\uffff\ufffe"),
    ),
    "UTF-8 of every length": Case(
        f"{M}\u007e\u0080\u07ff\u0800\ud7ff\ue000\uffff\U00010000\U0010ffff\n",
        (f"{M}\u007e\u0080\u07ff\u0800\ud7ff\ue000\uffff\U00010000\U0010ffff",),
    ),
    "invalid UTF-8": Case(
        b"\n".join(
            M.encode() + bad
            for bad in (
                b"\xff",
                b"\xfe",
                b"\x80",
                b"\xbf",
                b"\xc3",
                b"\xc3(",
                b"\xe2\x82",
                b"\xe2(\xa1",
                b"\xf0\x9f\x98",
                b"\xc0\x80",
                b"\xc1\xbf",
                b"\xe0\x80\x80",
                b"\xe0\x9f\xbf",
                b"\xf0\x80\x80\x80",
                b"\xf0\x8f\xbf\xbf",
                b"\xed\xa0\x80",
                b"\xed\xbf\xbf",
                b"\xf4\x90\x80\x80",
                b"\xf5\x80\x80\x80",
                b"\xf8\x88\x80\x80\x80",
            )
        )
        + b"\n"
        + f"{M}ok".encode(),
        (f"{M}ok",),
        tuple(range(1, 21)),
    ),
    "invalid UTF-8, quoted": Case(b'"' + f"{M}".encode() + b'\xc3"\n' + f"{M}a".encode(), (f"{M}a",), (1,)),
    "a code twice": Case(f"{M}a\n{M}b\n{M}a\n{M}a\n", (f"{M}a", f"{M}b", f"{M}a", f"{M}a")),
    "the same code in two spellings": Case(f'{M}a\n"{M}a"\n  {M}a\n', (f"{M}a",) * 3),
    "upper and lower case are two codes": Case(f"{M}a\n{M}A\n", (f"{M}a", f"{M}A")),
    "two normal forms are two codes": Case(f"{M}\u00e9\n{M}e\u0301\n", (f"{M}\u00e9", f"{M}e\u0301")),
    "codes that look like something else": Case(
        f"null\ntrue\n0\n-1.5\n$set\na.b\n=1+1\n#{M}\n'{M}'\n{M};x\n\\{M}\\n\n",
        (
            "null",
            "true",
            "0",
            "-1.5",
            "$set",
            "a.b",
            "=1+1",
            f"#{M}",
            f"'{M}'",
            f"{M};x",
            f"\\{M}\\n",
        ),
    ),
    "backslash does not escape": Case(f'"{M}\\"\n{M}b\n', (f"{M}\\", f"{M}b")),
}


@pytest.fixture(params=["world", "tiny"])
def either(request: pytest.FixtureRequest) -> World:
    """The service as it comes, and one that reads parts of 100 bytes and writes batches of 3 codes."""
    found: World = request.getfixturevalue(request.param)
    return found


def check(world: World, content: bytes, expected: reference.Expected, *, header: bool = False) -> None:
    """Upload to a new campaign; compare the reply and the documents with what is expected."""
    campaign = new_campaign()
    before = datetime.now(UTC)
    reply = world.upload(campaign, content, header=True) if header else world.upload(campaign, content)
    distinct = len(set(expected.codes))
    report = {
        "count": {
            "in": len(expected.codes),
            "inserted": distinct,
            "updated": len(expected.codes) - distinct,
        }
    }
    assert reply.status == 200, (reply, content)
    found = reply.json()
    assert found["count"] == report["count"], content
    if not expected.invalid_lines:
        assert found == report, content
    else:
        assert set(found) == {"count", "invalid"}
        assert set(found["invalid"]) == {"count", "samples"}
        assert found["invalid"]["count"] == len(expected.invalid_lines), content
        lines = [sample["line"] for sample in found["invalid"]["samples"]]
        assert lines == expected.invalid_lines[:100], content
        for sample in found["invalid"]["samples"]:
            assert set(sample) == {"line", "reason"}
            assert isinstance(sample["reason"], str)
            assert sample["reason"]
            assert CODE_MARK not in sample["reason"], "a reason must not tell a code"
    documents = world.documents(campaign)
    assert set(documents) == set(expected.codes), content
    for code, document in documents.items():
        saved = document["date"]["saved"]
        assert document == {
            "_id": {"campaign_id": campaign, "code": code},
            "type": "tm",
            "date": {"saved": saved},
        }
        assert list(document["_id"]) == ["campaign_id", "code"], "the order is part of an _id"
        assert before - timedelta(seconds=1) <= saved <= datetime.now(UTC) + timedelta(seconds=1)


@pytest.mark.parametrize("name", CASES)
def test_hazard(either: World, name: str) -> None:
    case = CASES[name]
    check(
        either,
        case.raw,
        reference.Expected(list(case.codes), list(case.invalid_lines)),
        header=case.header,
    )


@pytest.mark.parametrize("name", CASES)
def test_reference_agrees_with_the_table(name: str) -> None:
    """The reference is what the random files below are measured by."""
    case = CASES[name]
    found = reference.read(case.raw, header=case.header)
    assert (tuple(found.codes), tuple(found.invalid_lines)) == (case.codes, case.invalid_lines)


@pytest.mark.parametrize("file", sorted(DATA.glob("*.csv")), ids=lambda file: str(file.stem))
def test_data_file(either: World, file: Path) -> None:
    content = file.read_bytes()
    check(either, content, reference.read(content))


PIECES = [
    *(f"{M}{tail}" for tail in ("a", "b", "c d", "\u00fc", "\U0001f600")),
    *('"', '""', '"', ",", ",", "\n", "\n", "\n", "\r\n", "\r", " ", "\t", "x", "\x00", "\x7f", "\ufeff"),
    f'"{M}q"',
    f'"{M}""q"',
    '"x,y"',
    '"x\ny"',
    f"{LONG}",
    f'"{LONG}"',
]


@pytest.mark.parametrize("seed", range(25))
def test_random_files_of_hostile_pieces(either: World, seed: int) -> None:
    chance = random.Random(seed)
    pieces = [piece.encode() for piece in PIECES] + [b"\xff", b"\xc3"]
    # Each block ends whatever it left open, lest one quote swallow the rest of the file.
    blocks = []
    for _ in range(20):
        block = b"".join(chance.choices(pieces, k=chance.randrange(1, 9)))
        if len(block) < 900 and not _is_open(block) and not _is_blank_and_broken(block):
            blocks.append(block + chance.choice([b"\n", b"\r\n", b"\r"]))
    content = b"".join(blocks)
    check(either, content, reference.read(content))


def _is_open(block: bytes) -> bool:
    return reference.read(block + b"\n").invalid_lines != reference.read(block + b'"\n').invalid_lines or (
        reference.read(block + f"\n{M}end".encode()).codes[-1:] != [f"{M}end"]
    )


def _is_blank_and_broken(block: bytes) -> bool:
    """Whether it holds a blank first column in a row of broken quoting, of which the contract says two things."""
    lines = [line.lstrip(b" \t") for line in block.replace(b"\r", b"\n").split(b"\n")]
    return any(line.startswith((b",", b'"",', b'" ",', b'"\t",', b'" "', b'""', b'"\t"')) for line in lines)


def test_hundred_samples_of_more_invalid_rows(either: World, campaign: str) -> None:
    good = make_codes(150)
    content = "".join(f"{code}\n{M}bad\x01\n" for code in good).encode()
    reply = either.upload(campaign, content)
    assert reply.status == 200
    found = reply.json()
    assert found["count"] == {"in": 150, "inserted": 150, "updated": 0}
    assert found["invalid"]["count"] == 150
    assert [sample["line"] for sample in found["invalid"]["samples"]] == [2 * n for n in range(1, 101)]
    assert either.stored(campaign) == set(good)


def test_exactly_a_hundred_invalid_rows(world: World, campaign: str) -> None:
    found = world.upload(campaign, f"{M}bad\x01\n".encode() * 100).json()
    assert found["count"] == {"in": 0, "inserted": 0, "updated": 0}
    assert found["invalid"]["count"] == len(found["invalid"]["samples"]) == 100


def test_strict_turns_the_first_invalid_row_into_an_error(either: World, campaign: str) -> None:
    good = make_codes(20)
    later = make_codes(5)
    rows = [*good, good[0], '"x\ny",', *later]
    rows[3:3] = ["", '"","\n"']
    reply = either.upload(campaign, "\n".join(rows).encode(), strict=True)
    problem = assert_problem(reply, 422, "invalidRow")
    assert problem["line"] == 25
    assert problem["count"] == {"in": 21, "inserted": 20, "updated": 1}
    assert CODE_MARK not in reply.body.decode()
    assert either.stored(campaign) == set(good)


def test_strict_upload_of_a_good_file(either: World, campaign: str) -> None:
    codes = make_codes(20)
    content = "\n".join(["\n", *codes, " ", '""']).encode()
    assert_counts(either.upload(campaign, content, strict=True), 20, 20, 0)


def test_strict_and_the_first_row(either: World, campaign: str) -> None:
    problem = assert_problem(
        either.upload(campaign, f"{M}\x01\n{M}a".encode(), strict=True), 422, "invalidRow"
    )
    assert problem["line"] == 1
    assert problem["count"] == {"in": 0, "inserted": 0, "updated": 0}
    assert not either.stored(campaign)


@pytest.mark.parametrize("flags", [{"strict": False}, {"header": False}, {"strict": False, "header": False}])
def test_flags_that_are_off(world: World, campaign: str, flags: dict[str, Any]) -> None:
    found = world.upload(campaign, f"{M}a\n{M}\x01\n".encode(), **flags).json()
    assert found["count"] == {"in": 1, "inserted": 1, "updated": 0}
    assert found["invalid"]["count"] == 1


def test_strict_with_a_header(either: World, campaign: str) -> None:
    content = f'"he\nader"x\n{M}a\n\n{M}\x01\n{M}b'.encode()
    problem = assert_problem(either.upload(campaign, content, strict=True, header=True), 422, "invalidRow")
    assert problem["line"] == 5
    assert problem["count"] == {"in": 1, "inserted": 1, "updated": 0}
    assert either.stored(campaign) == {f"{M}a"}


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("column", ["first", "later"])
def test_a_quote_never_closed_is_not_csv(tiny: World, campaign: str, column: str, strict: bool) -> None:
    """CODESVC_MAX_ROW_BYTES is 1000 there."""
    good = make_codes(8)
    opening = '"' if column == "first" else f'{M}x,"'
    content = "\n".join(["", *good, good[0], opening + "x\n" * 700, M]).encode()
    reply = tiny.upload(campaign, content, strict=strict)
    problem = assert_problem(reply, 422, "notCsv")
    assert problem["line"] == 11
    assert problem["count"] == {"in": 9, "inserted": 8, "updated": 1}
    assert tiny.stored(campaign) == set(good)


def test_invalid_rows_before_the_end_of_a_file_that_is_not_csv(tiny: World, campaign: str) -> None:
    content = f'{M}a\n{M}\x01\n{M}b\n"{"x" * 2000}'.encode()
    problem = assert_problem(tiny.upload(campaign, content), 422, "notCsv")
    assert problem["line"] == 4
    assert problem["count"] == {"in": 2, "inserted": 2, "updated": 0}
    assert tiny.stored(campaign) == {f"{M}a", f"{M}b"}


@pytest.mark.parametrize("first", [f"{M}a", f'"{M}a"'])
@pytest.mark.parametrize("end", ["\n", "\r\n", ""])
def test_the_longest_record(tiny: World, campaign: str, first: str, end: str) -> None:
    """Whether the line's end is a part of the record, the contract does not say: 1000 bytes with it, 1001 without."""
    fits = first + "," + "y" * (1000 - len(end) - len(first) - 1) + end
    assert_counts(tiny.upload(campaign, f"{M}b\n{fits}".encode()), 2, 2, 0)
    too_long = first + "," + "y" * (1001 - len(first) - 1) + end
    problem = assert_problem(tiny.upload(campaign, f"{M}c\n{too_long}".encode()), 422, "notCsv")
    assert problem["line"] == 2
    assert problem["count"] == {"in": 1, "inserted": 1, "updated": 0}


def test_a_header_that_is_too_long(tiny: World, campaign: str) -> None:
    problem = assert_problem(
        tiny.upload(campaign, b"x" * 1200 + f"\n{M}a".encode(), header=True), 422, "notCsv"
    )
    assert problem["line"] == 1
    assert problem["count"] == {"in": 0, "inserted": 0, "updated": 0}


def test_the_default_longest_record_is_four_mebibytes(world: World, campaign: str) -> None:
    limit = 4 << 20
    fits = f'{M}a,"' + "z\n" * ((limit - 100) // 2) + f'"\n{M}b\n'
    assert_counts(world.upload(campaign, fits.encode()), 2, 2, 0)
    too_long = f'{M}c\n{M}d,"' + "z\n" * (limit // 2 + 50) + f'"\n{M}e\n'
    problem = assert_problem(world.upload(campaign, too_long.encode()), 422, "notCsv")
    assert problem["line"] == 2
    assert problem["count"] == {"in": 1, "inserted": 1, "updated": 0}
    assert world.stored(campaign) == {f"{M}a", f"{M}b", f"{M}c"}


def test_many_rows_below_the_limit_do_not_add_up(tiny: World, campaign: str) -> None:
    codes = make_codes(50)
    content = "".join(f'{code},"{"x" * 700}\n"\n' for code in codes).encode()
    assert_counts(tiny.upload(campaign, content), 50, 50, 0)


@pytest.mark.parametrize("size", [1, 99, 100, 101, 199, 200, 201, 300])
def test_sizes_around_those_of_the_parts(tiny: World, campaign: str, size: int) -> None:
    """CODESVC_READ_PART_SIZE is 100 there."""
    content = b"".join(b"%06d\n" % number for number in range(60))[:size]
    expected = Counter(content.decode().split())
    assert_counts(tiny.upload(campaign, content), sum(expected.values()), len(expected), 0)
    assert tiny.stored(campaign) == set(expected)

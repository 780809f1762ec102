"""The extractor finds in any file, cut anywhere, what its readable twin and Python's csv module find."""

import csv
import io
import itertools

import pytest
import twin
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support import CHUNK_SIZES, INSTRUCTION_SETS, Options, extract, extractor

STRUCTURE = [b'"', b'""', b",", b"\r", b"\n", b"\r\n", b" ", b"\t"]
CONTENT = [b"A", b"code-1", "ü".encode(), "😀".encode(), b"z" * 7, b"z" * 8, b"z" * 9, b"x" * 61]
POISON = [
    b"\xef\xbb\xbf", b"\xef\xbb", b"\xbf", b"\xff", b"\xc0\xaf", b"\xc3", b"\xed\xa0\x80", b"\xe0\x9f\xbf",
    b"\xf0\x8f\xbf\xbf", b"\xf4\x90\x80\x80", b"\xf0\x9f\x98", b"\x00", b"\x1f", b"\x7f", "\u0080".encode(),
]  # fmt: skip

hostile = st.lists(st.sampled_from(STRUCTURE * 3 + CONTENT * 2 + POISON), max_size=60).map(b"".join)

# Records that are nearly in order reach deeper than noise does.
field = st.sampled_from([
    b"", b"AB12", b"code-1", b" x ", b'"q"', b'"a,b"', b'"a\nb"', b'"a\r\nb"', b'"a""b"', b'a"b',
    '"ü"'.encode(), b'"x"y', b'"x" ', b'""', b'" "', b'"', b"\xff", b"y" * 70, b'"' + b"w" * 70 + b'"',
])  # fmt: skip
record = st.lists(field, min_size=1, max_size=5).map(b",".join)
line_end = st.sampled_from([b"\n", b"\n", b"\n", b"\r\n", b"\r", b"\n\n", b""])
orderly = st.lists(st.tuples(record, line_end).map(b"".join), max_size=25).map(b"".join)

files = st.one_of(hostile, orderly, st.tuples(st.just(b"\xef\xbb\xbf"), orderly).map(b"".join))


def same_as_twin(data: bytes, **options: object) -> None:
    chosen: Options = {"max_code_bytes": 256, "max_row_bytes": 4 << 20}
    chosen.update(options)  # type: ignore[typeddict-item]
    expected = twin.extract(
        data,
        header=chosen.get("header", False),
        strict=chosen.get("strict", False),
        max_code_bytes=chosen["max_code_bytes"],
        max_row_bytes=chosen["max_row_bytes"],
    )
    for chosen["instruction_set"], chunk_size in itertools.product(INSTRUCTION_SETS, CHUNK_SIZES):
        assert extract(data, chunk_size=chunk_size, **chosen) == expected, (
            f"{chosen['instruction_set']}, chunks of {chunk_size or 'all'}"
        )


@settings(max_examples=400, deadline=None)
@given(data=files, header=st.booleans(), strict=st.booleans())
@example(data=b"\xef\xbb", header=False, strict=False)
@example(data=b"\xef\xbb\xbf", header=True, strict=False)
@example(data=b'x,"a\rbc\nd\r\ne"\r\n\xff\n', header=False, strict=False)
@example(data=b'"a\r"\n"b\r\n"\n\r\n\n\r"c', header=False, strict=False)
def test_any_file(data: bytes, *, header: bool, strict: bool) -> None:
    same_as_twin(data, header=header, strict=strict)


@settings(max_examples=300, deadline=None)
@given(
    data=files,
    header=st.booleans(),
    strict=st.booleans(),
    max_row_bytes=st.integers(1, 40),
    max_code_bytes=st.integers(1, 9),
    max_batch_codes=st.integers(1, 5),
)
def test_any_file_with_small_limits(
    data: bytes, *, header: bool, strict: bool, max_row_bytes: int, max_code_bytes: int, max_batch_codes: int
) -> None:
    same_as_twin(
        data,
        header=header,
        strict=strict,
        max_row_bytes=max_row_bytes,
        max_code_bytes=max_code_bytes,
        max_batch_codes=max_batch_codes,
    )


@pytest.mark.parametrize("size", [255, 256, 257, 300])
@pytest.mark.parametrize(
    "form", [b"%s\n", b'"%s"\n', b"  %s\t \r\n", b'"%s",x\r', b"%s", b'x,1\n%s,"a\nb"\n']
)
@pytest.mark.parametrize("last", [b"", "ü".encode(), "😀".encode(), b"\xc3", b"\x00"])
def test_codes_around_the_length_limit(size: int, form: bytes, last: bytes) -> None:
    code = b"k" * (size - len(last)) + last
    same_as_twin(form % code)


@pytest.mark.parametrize("excess", [-1, 0, 1])
@pytest.mark.parametrize(
    "form",
    [b"%s", b"%s\n", b"%s\r\n", b'first\n"a\n%s"\nlast\n', b"\xef\xbb\xbf%s\r", b"%s,%s\n", b"\n\n%s\n"],
)
def test_records_around_the_length_limit(form: bytes, excess: int) -> None:
    limit = 3000
    texts = form.count(b"%s")
    overhead = len(form.replace(b"%s", b"").strip(b"\r\n").removeprefix(b"\xef\xbb\xbf"))
    if form.startswith(b"first"):
        overhead = len(b'"a\n"')
    first = b" " * (limit + excess - overhead)
    texts_given = [first] if texts == 1 else [first[:7], first[7:]]
    for header in (False, True):
        same_as_twin(form % tuple(texts_given), header=header, max_row_bytes=limit)


def test_a_record_too_long_is_told_with_its_first_byte_too_many() -> None:
    for start in (b'"', b"", b"\xef\xbb\xbf", b"x,"):
        x = extractor(max_row_bytes=100)
        x.feed(b"ok\n" * (not start.startswith(b"\xef")) + start)
        x.feed(b"y" * (100 - len(start.removeprefix(b"\xef\xbb\xbf"))))
        assert x.failure is None
        x.feed(b"y")
        assert x.failure is not None
        assert x.failure[0] == "notCsv"


@settings(max_examples=400, deadline=None)
@given(data=st.one_of(hostile, orderly))
def test_what_pythons_csv_module_finds(data: bytes) -> None:
    """Where the dialects agree: no blanks, which it does not trim, no byte order mark, no broken quoting.

    latin-1 makes every byte one character, so that the module sees what the extractor sees.
    """
    data = data.translate(None, b" \t")
    outcome = extract(data)
    if any("quote" in reason for _, reason in outcome.invalid) or data.startswith(b"\xef\xbb\xbf"):
        return
    rows = csv.reader(io.StringIO(data.decode("latin-1"), newline=""))
    firsts = [row[0].encode("latin-1") for row in rows if row]
    assert outcome.codes == [code.decode() for code in firsts if code and twin.unfit(code, 256) is None]

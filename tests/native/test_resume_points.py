"""An extractor that goes on where another one can be left finds what one alone would have found."""

import itertools
from pathlib import Path

import pytest
import twin
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support import CHUNK_SIZES, INSTRUCTION_SETS, WHOLE, Options, chunks, extractor
from test_extractor_twin import files

FILES = sorted((Path(__file__).parent.parent / "data" / "csv").glob("*.csv"))

Point = tuple[int, int, bool, int, int]


def read(
    data: bytes, chunk_size: int, *, flushing: bool, **options: object
) -> tuple[twin.Outcome, list[Point]]:
    """All that is in a file, and every point at which its reading could have been left."""
    x = extractor(max_samples=5000, **options)  # type: ignore[arg-type]
    codes: list[str] = []
    points = []
    start = options.get("start") or (0, 1, False)
    offset = start[0]  # type: ignore[index]
    for chunk in [*chunks(data[offset:], chunk_size), None]:
        made = x.finish() if chunk is None or x.failure is not None else x.feed(chunk)
        if flushing:
            made += x.flush()
        for batch in made:
            codes += batch.codes()
            if batch.point is not None:
                assert batch.point[3] == len(codes) + batch.repeats
                points.append(batch.point)
        if x.point is not None:
            assert x.point[3:] == (x.codes, x.invalid_count)
            points.append(x.point)
        if chunk is None:
            break
    return twin.Outcome(codes, x.invalid_samples, x.failure), points


def goes_on_anywhere(data: bytes, *, sizes: tuple[int, ...] = CHUNK_SIZES, **options: object) -> None:
    chosen: Options = {"max_code_bytes": 256, "max_row_bytes": 4 << 20}
    chosen.update(options)  # type: ignore[typeddict-item]
    limits = {"max_code_bytes": chosen["max_code_bytes"], "max_row_bytes": chosen["max_row_bytes"]}
    header, strict = chosen.get("header", False), chosen.get("strict", False)
    whole = twin.extract(data, header=header, strict=strict, **limits)
    for chunk_size, flushing in itertools.product(sizes, (False, True)):
        for chosen["instruction_set"] in INSTRUCTION_SETS:
            chosen["start"] = None
            outcome, points = read(data, chunk_size, flushing=flushing, **chosen)
            assert outcome == whole
            for point in {*points}:
                offset, line, after_cr, codes, invalid = point
                before = twin.extract(data, header=header, strict=strict, stop=offset, **limits)
                assert (before.codes, before.invalid) == (whole.codes[:codes], whole.invalid[:invalid])
                chosen["start"] = offset, line, after_cr
                rest, _ = read(data, chunk_size, flushing=flushing, **chosen)
                assert rest == twin.Outcome(whole.codes[codes:], whole.invalid[invalid:], whole.failure)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
@pytest.mark.parametrize("header", [False, True])
@pytest.mark.parametrize("max_batch_codes", [1, 50_000])
def test_every_file_at_every_point(file: Path, *, header: bool, max_batch_codes: int) -> None:
    data = file.read_bytes()
    goes_on_anywhere(data, header=header, max_batch_codes=max_batch_codes)
    goes_on_anywhere(data, header=header, max_batch_codes=max_batch_codes, strict=True)


@settings(max_examples=150, deadline=None)
@given(
    data=files,
    header=st.booleans(),
    strict=st.booleans(),
    max_row_bytes=st.integers(1, 40),
    max_code_bytes=st.integers(1, 9),
    max_batch_codes=st.integers(1, 4),
)
@example(
    data=b"A\r\n\nB\r\r\nC", header=False, strict=False, max_row_bytes=9, max_code_bytes=9, max_batch_codes=1
)
@example(data=b"\xef\xbb", header=False, strict=False, max_row_bytes=9, max_code_bytes=9, max_batch_codes=1)
@example(data=b"\xef\xbbA", header=False, strict=False, max_row_bytes=9, max_code_bytes=9, max_batch_codes=1)
def test_any_file_at_every_point(
    data: bytes, *, header: bool, strict: bool, max_row_bytes: int, max_code_bytes: int, max_batch_codes: int
) -> None:
    goes_on_anywhere(
        data,
        sizes=(1, 17, WHOLE),
        header=header,
        strict=strict,
        max_row_bytes=max_row_bytes,
        max_code_bytes=max_code_bytes,
        max_batch_codes=max_batch_codes,
    )


@pytest.mark.parametrize("sort", [1, 2, 3, 1000])
def test_sorted_runs(sort: int) -> None:
    """Only the last batch of a run has a point: the codes of the others lie anywhere in the run."""
    codes = [f"C{(number * 7919) % 100:03}" for number in range(300)]
    data = "".join(f"{code}\r\n" + "\x01\n" * (number % 3) for number, code in enumerate(codes)).encode()
    x = extractor(sort=sort, max_batch_codes=20)
    made = x.feed(data) + x.finish()
    pending: list[str] = []
    done = 0
    for batch in made:
        pending += batch.codes()
        if batch.point is None:
            continue
        offset, line, after_cr, before, invalid = batch.point
        assert sorted(set(codes[done:before])) == pending
        assert before - done == len(pending) + batch.repeats
        pending, done = [], before
        rest = extractor(sort=sort, max_batch_codes=20, start=(offset, line, after_cr))
        found = {code for batch in rest.feed(data[offset:]) + rest.finish() for code in batch.codes()}
        assert (found, rest.codes) == ({*codes[before:]}, 300 - before)
        assert [row[0] for row in rest.invalid_samples] == [
            number for number, text in enumerate(data.split(b"\n"), 1) if text == b"\x01"
        ][invalid : invalid + 100]
    assert done == 300


def test_a_byte_order_mark_is_one_only_at_the_start() -> None:
    x = extractor(start=(0, 7, False))
    (batch,) = x.feed(b"\xef\xbb\xbfA\nB") + x.finish()
    assert batch.codes() == ["\ufeffA", "B"]


def test_the_points_of_a_file_that_holds_no_code() -> None:
    x = extractor()
    for number in range(1, 4):
        assert x.feed(b"\x01\n") == []
        assert x.point == (2 * number, 1 + number, False, 0, number)
    x.feed(b"A\n")
    assert x.point is None


def test_no_point_after_a_failure() -> None:
    x = extractor(strict=True)
    x.feed(b"A\n\x01\nB\n")
    (batch,) = x.finish()
    assert (batch.point, x.point) == (None, None)


@pytest.mark.parametrize("start", [(-1, 1, False), (0, 0, False), (1 << 63, 1, False)])
def test_no_such_point(start: tuple[int, int, bool]) -> None:
    with pytest.raises(ValueError, match="start"):
        extractor(start=start)

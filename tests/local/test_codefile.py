"""Generated files of codes."""

import csv
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from codesvc.local.codefile import CODE_LENGTH, code, write_codes

NUMBERS = st.integers(min_value=0, max_value=(1 << 60) - 1)


@given(NUMBERS, NUMBERS)
def test_different_numbers_have_different_codes(one: int, other: int) -> None:
    assert (code(one) == code(other)) == (one == other)


def test_a_file_holds_so_many_distinct_codes(tmp_path: Path) -> None:
    told: list[int] = []
    size = write_codes(tmp_path / "codes.csv", 120_001, told=told.append)
    with (tmp_path / "codes.csv").open(newline="", encoding="ascii") as file:
        codes = [row[0] for row in csv.reader(file)]
    assert len(codes) == len(set(codes)) == 120_001
    assert {len(one) for one in codes} == {CODE_LENGTH}
    assert size == (tmp_path / "codes.csv").stat().st_size == 120_001 * (CODE_LENGTH + 1)
    assert told == [50_000, 100_000, 120_001]


def test_the_same_seed_gives_the_same_file(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2_000_000)):
        write_codes(tmp_path / name, 1000, seed=seed)
    first, same, other = ((tmp_path / name).read_text(encoding="ascii").split() for name in ("a", "b", "c"))
    assert first == same
    assert not set(first) & set(other)

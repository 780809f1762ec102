"""Whose file is whose: every file belongs to one share, by its name alone, and numbered files are dealt out evenly."""

import math

import pytest

from codesvc.ingest.shares import Selection, Share
from codesvc.local.codefile import code

STRIDES = (1, 2, 8, 10, 100, 1000, 4096, 86_400, 100_000)


def dealt(names: list[str], total: int) -> list[int]:
    """Return how many of the names each share holds; each must be in one of them."""
    owners = [[index for index in range(total) if Share(index, total).holds(name)] for name in names]
    assert all(len(owner) == 1 for owner in owners)
    return [sum(owner == [index] for owner in owners) for index in range(total)]


@pytest.mark.parametrize("total", [1, 2, 3, 7, 16, 100])
def test_every_file_is_in_one_share(total: int) -> None:
    names = [f"codes/c{code(number)}/tm/{code(number, seed=9)}.csv" for number in range(300)]
    assert sum(dealt([*names, "", "/", "ü\n", "codes/1/tm/9999999999999999999999999.csv"], total)) == 304


@pytest.mark.parametrize("total", [2, 3, 4, 5, 8, 12, 16, 32])
def test_files_numbered_in_a_row_are_dealt_out_evenly(total: int) -> None:
    for name in ("codes/12345/tm/batch-{:03}.csv", "s{}", "{}.csv.gz"):
        for count in (total, 100, 1000):
            held = dealt([name.format(number) for number in range(1, count + 1)], total)
            # Two more than a perfect deal at most.
            assert max(held) <= math.ceil(count / total) + 2, (name, count, held)
            assert min(held) >= count // total - 2, (name, count, held)


@pytest.mark.parametrize("stride", STRIDES)
@pytest.mark.parametrize("total", [2, 4, 8, 10, 16])
def test_no_way_of_numbering_leaves_shares_empty(stride: int, total: int) -> None:
    """Taken modulo the number of shares, numbers with a common factor would all be one share's."""
    held = dealt([f"codes/1/tm/from-{number * stride}.csv" for number in range(400)], total)
    assert max(held) < 2 * 400 / total
    assert min(held) > 0.4 * 400 / total


@pytest.mark.parametrize("total", [2, 8, 16])
def test_other_names_are_spread(total: int) -> None:
    held = dealt([f"codes/1/tm/{code(number)}-x.csv" for number in range(2000)], total)
    assert max(held) < 1.4 * 2000 / total
    assert min(held) > 0.6 * 2000 / total


def test_a_share_is_the_same_everywhere_and_for_ever() -> None:
    """Pods of one Job may run different Pythons, and a share must not change under a Job that is under way."""
    names = ["codes/12345/tm/batch-001.csv", "codes/12345/tm/batch-002.csv", "codes/12345/tm/ü.csv", "x"]
    assert [next(index for index in range(16) if Share(index, 16).holds(name)) for name in names] == [
        1,
        11,
        7,
        4,
    ]


@pytest.mark.parametrize(
    ("source", "inside", "outside"),
    [
        (
            "codes/1/tm/",
            ["codes/1/tm/a.csv", "codes/1/tm/2026/11/a.csv", "codes/1/tm/a b[1].csv", "codes/1/tm/a\nb"],
            ["codes/1/tm/", "codes/1/tm/x/", "codes/1/tm", "codes/1/tmx/a.csv", "x/codes/1/tm/a.csv"],
        ),
        (
            "codes/1/tm/",
            ["codes/1/tm/a_b.csv", "codes/1/tm/a.b/c"],
            ["codes/1/tm/_SUCCESS", "codes/1/tm/.part", "codes/1/tm/_temporary/0/a.csv", "codes/1/tm/a/.b/c"],
        ),
        (
            "codes/1/tm/b*.csv",
            ["codes/1/tm/b.csv", "codes/1/tm/b1.csv"],
            ["codes/1/tm/b/1.csv", "codes/1/tm/a.csv"],
        ),
        (
            "codes/*/tm/*",
            ["codes/1/tm/a"],
            ["codes/1/2/tm/a", "codes/.x/tm/a", "codes/1/external/a", "codes/1/tm/_a"],
        ),
        ("codes/**/a.csv", ["codes/a.csv", "codes/1/tm/a.csv"], ["codes/1/tm/ba.csv", "codes/_x/a.csv"]),
        ("codes/**.csv", ["codes/1/tm/a.csv", "codes/a.csv"], ["codes/1/tm/a.txt", "codes/1/tm/.csv"]),
        ("codes/1/tm/_*", ["codes/1/tm/_a"], ["codes/1/tm/a"]),
        ("*.csv", ["a.csv"], ["x/a.csv", ".csv", "_a.csv"]),
        ("", ["a", "b/c"], ["_a", "b/"]),
    ],
)
def test_a_selection(source: str, inside: list[str], outside: list[str]) -> None:
    selection = Selection.of(source)
    assert [name for name in inside if not selection.holds(name)] == []
    assert [name for name in outside if selection.holds(name)] == []
    assert all(name.startswith(selection.prefix) for name in inside)

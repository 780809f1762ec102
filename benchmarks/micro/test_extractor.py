"""The first column of a CSV in memory, on one core: codesvc checks it and makes BSON of it, the others do less."""

from functools import partial

import pytest

from benchmarks.micro.extractors import Tool, tools
from benchmarks.micro.files import FILES, CsvFile, csv_file, expected_codes
from benchmarks.micro.measure import Measure
from benchmarks.micro.yardstick import Memchr


@pytest.fixture(scope="session")
def yardstick(tmp_path_factory: pytest.TempPathFactory) -> Memchr:
    return Memchr(tmp_path_factory.mktemp("yardstick"))


@pytest.mark.parametrize("case", FILES)
def test_memchr(measure: Measure, yardstick: Memchr, case: str, quick: bool) -> None:
    """Hazard: a change of the machine or its memory that looks like a change of the extractor."""
    file = csv_file(case, quick=quick)
    measure(
        case,
        "memchr",
        partial(yardstick.lines, file.data),
        amount=file.records,
        right=lambda: yardstick.lines(file.data) == file.data.count(b"\n"),
    )


@pytest.mark.parametrize("tool", tools(), ids=lambda tool: tool.name)
@pytest.mark.parametrize("case", FILES)
def test_first_column(measure: Measure, tool: Tool, case: str, quick: bool) -> None:
    """Hazard: a byte-wise path, an allocation or a copy per record, which shows in no test and costs a factor."""
    file = csv_file(case, quick=quick)
    measure(
        case, tool.name, partial(tool.scan, file), amount=file.records, right=partial(_same_codes, tool, file)
    )


def _same_codes(tool: Tool, file: CsvFile) -> bool:
    expected = expected_codes(file)
    at = 0
    for codes in tool.codes(file):
        if codes != expected[at : at + len(codes)]:
            return False
        at += len(codes)
    return at == len(expected) == file.records

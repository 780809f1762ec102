"""Who takes the first column of a CSV in memory, and how: each as fast as it goes on one core without being wrong.

``scan`` is what is timed; ``codes`` does the same and hands the codes out, to be checked before a time counts.
"""

import io
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from typing import Final

import bson

from benchmarks.micro.files import CsvFile, csv_rows
from codesvc._fastcsv import Batch, Extractor, instruction_sets

try:
    import polars as pl
except ModuleNotFoundError:
    pl = None

try:
    import pyarrow as pa
    import pyarrow.csv as arrow_csv
except ModuleNotFoundError:
    pa = None

SLICE: Final = 128 * 1024
"""Bytes that codesvc is fed at a time, as an upload does."""

OURS: Final = "codesvc"
CSV: Final = "Python csv"


@dataclass(frozen=True, slots=True)
class Tool:
    """One contender."""

    name: str
    scan: Callable[[CsvFile], object]
    codes: Callable[[CsvFile], Iterator[list[str]]]


def tools() -> list[Tool]:
    """Return codesvc with its best instruction set and with each of them, then whatever else is installed."""
    named = [(f"{OURS}, {name}", name) for name in instruction_sets()]
    found = [
        Tool(label, partial(_extract, name), partial(_extracted_codes, name))
        for label, name in [(OURS, None), *named]
    ]
    if pa is not None:
        pa.set_cpu_count(1)
        pa.set_io_thread_count(1)
        found.append(Tool("pyarrow", _arrow, _arrow_codes))
    if pl is not None:
        found.append(Tool("polars", _polars, _polars_codes))
    found.append(Tool(CSV, _csv, _csv_codes))
    return found


def _batches(instruction_set: str | None, data: bytes) -> Iterator[Batch]:
    extractor = Extractor(
        campaign_id="12345", code_type="tm", saved_ms=1_700_000_000_000, instruction_set=instruction_set
    )
    view = memoryview(data)
    for at in range(0, len(view), SLICE):
        yield from extractor.feed(view[at : at + SLICE])
    yield from extractor.finish()


def _extract(instruction_set: str | None, file: CsvFile) -> None:
    # One buffer is written again and again, as long as nobody keeps a batch's documents.
    deque((batch.documents for batch in _batches(instruction_set, file.data)), maxlen=0)


def _extracted_codes(instruction_set: str | None, file: CsvFile) -> Iterator[list[str]]:
    for number, batch in enumerate(_batches(instruction_set, file.data)):
        codes = batch.codes()
        # Of the first batch the documents themselves: decoding all of them would take minutes.
        yield codes if number else [one["_id"]["code"] for one in bson.decode_all(batch.documents)]


def _csv(file: CsvFile) -> None:
    deque(map(itemgetter(0), csv_rows(file.data)), maxlen=0)


def _csv_codes(file: CsvFile) -> Iterator[list[str]]:
    yield [row[0] for row in csv_rows(file.data)]


def _arrow(file: CsvFile) -> "pa.ChunkedArray":
    table = arrow_csv.read_csv(
        pa.BufferReader(file.data),
        read_options=arrow_csv.ReadOptions(use_threads=False, autogenerate_column_names=True),
        parse_options=arrow_csv.ParseOptions(newlines_in_values=file.newlines_in_fields),
        convert_options=arrow_csv.ConvertOptions(include_columns=["f0"], column_types={"f0": pa.string()}),
    )
    return table.column("f0")


def _arrow_codes(file: CsvFile) -> Iterator[list[str]]:
    for chunk in _arrow(file).iterchunks():
        yield chunk.to_pylist()


def _polars(file: CsvFile) -> "pl.Series":
    frame = pl.scan_csv(io.BytesIO(file.data), has_header=False, infer_schema=False)
    return frame.select("column_1").collect().to_series()


def _polars_codes(file: CsvFile) -> Iterator[list[str]]:
    yield _polars(file).to_list()

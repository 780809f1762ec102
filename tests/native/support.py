"""Drives the extractor over a file cut into chunks."""

from collections.abc import Iterator
from typing import TypedDict, Unpack

from twin import Outcome

from codesvc._fastcsv import Batch, Extractor, instruction_sets

WHOLE = 0
CHUNK_SIZES = (1, 2, 17, 4096, WHOLE)

INSTRUCTION_SETS = instruction_sets()

CAMPAIGN_ID = "12345"
SAVED_MS = 1_700_000_000_123


class Options(TypedDict, total=False):
    header: bool
    strict: bool
    max_batch_codes: int
    max_batch_bytes: int
    max_code_bytes: int
    max_row_bytes: int
    max_samples: int
    all_invalid: bool
    sort: int
    start: tuple[int, int, bool] | None
    instruction_set: str | None


def extractor(**options: Unpack[Options]) -> Extractor:
    return Extractor(campaign_id=CAMPAIGN_ID, code_type="tm", saved_ms=SAVED_MS, **options)


def chunks(data: bytes, size: int) -> Iterator[bytes]:
    if size == WHOLE:
        yield data
        return
    for at in range(0, len(data), size):
        yield data[at : at + size]


def batches(x: Extractor, data: bytes, chunk_size: int = WHOLE) -> list[Batch]:
    """Feed until the end or a failure, then finish."""
    made = []
    for chunk in chunks(data, chunk_size):
        made += x.feed(chunk)
        if x.failure is not None:
            break
    return made + x.finish()


def extract(data: bytes, *, chunk_size: int = WHOLE, **options: Unpack[Options]) -> Outcome:
    """What the twin's function of this name returns, as the extractor has it."""
    options["max_samples"] = 5000
    x = extractor(**options)
    codes = [code for batch in batches(x, data, chunk_size) for code in batch.codes()]
    assert x.codes == len(codes)
    assert x.invalid_count == len(x.invalid_samples)
    return Outcome(codes, x.invalid_samples, x.failure)

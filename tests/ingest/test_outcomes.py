"""What is told of an upload's end, and of the batches that wait meanwhile."""

import asyncio

import pytest

from codesvc.errors import (
    DatabaseUnavailableError,
    DrainingError,
    NotCsvError,
    SourceChangedError,
    SourceNotFoundError,
    StorageUnavailableError,
    UploadCancelledError,
)
from codesvc.ingest.outcomes import outcome_of
from codesvc.models import CodeType, InvalidRow, UploadCounts

from .stage import Audience, File, Store, lines, uploads

NOT_CSV = NotCsvError(InvalidRow(1, "too long"), UploadCounts())


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (NOT_CSV, "rejected"),
        (SourceNotFoundError(), "rejected"),
        (SourceChangedError(), "rejected"),
        (DatabaseUnavailableError(), "failed"),
        (StorageUnavailableError(), "failed"),
        (RuntimeError(), "failed"),
        (DrainingError(), "cancelled"),
        (UploadCancelledError(), "cancelled"),
        (asyncio.CancelledError(), "cancelled"),
    ],
)
def test_outcomes(error: BaseException, outcome: str) -> None:
    assert outcome_of(error) == outcome


async def run(file: File, store: Store, audience: Audience, *, strict: bool = False) -> None:
    pipeline = uploads(file, store, audience, sort_codes=1_000, write_concurrency=1)
    await pipeline.run(campaign_id="spring", code_type=CodeType.TM, file_key="x", strict=strict)


async def test_batches_that_wait_are_told() -> None:
    audience = Audience()
    waiting: list[int] = []

    async def look(_number: int) -> None:
        waiting.append(audience.batches_waiting)

    await run(File([lines(50)]), Store(during=look), audience)
    assert audience.ends == ["succeeded"]
    assert audience.most_waiting >= 3
    assert waiting == sorted(waiting, reverse=True)
    assert audience.batches_waiting == 0


async def test_no_batch_waits_after_a_failure() -> None:
    audience = Audience()

    async def fail(_number: int) -> None:
        raise DatabaseUnavailableError

    with pytest.raises(DatabaseUnavailableError):
        await run(File([lines(50)]), Store(during=fail), audience)
    assert audience.ends == ["failed"]
    assert audience.most_waiting >= 3
    assert audience.batches_waiting == 0


async def test_a_strict_upload_is_rejected() -> None:
    audience = Audience()
    with pytest.raises(Exception, match="line 51"):
        await run(File([lines(50) + b"\x01\n"]), Store(), audience, strict=True)
    assert audience.ends == ["rejected"]

"""What is stored after an upload that ended before its file did, and what the next try makes of it."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from datastore.rig import CAMPAIGN, Clock, Documents, Rig, Rigs, stored

from codesvc.errors import DrainingError, InvalidRowError, NotCsvError
from codesvc.ingest.pipeline import Options, Uploads
from codesvc.models import CodeType, UploadCounts, UploadReport

from .stage import File, lines

Make = Callable[[File], Uploads]


@pytest.fixture(params=["insert-first", "upsert"])
async def rig(request: pytest.FixtureRequest, rigs: Rigs) -> Rig:
    """A store that writes in each of the ways."""
    return await rigs(mongo_driver="pymongo", write_strategy=request.param)


@pytest.fixture
def make(rig: Rig) -> Make:
    """Put the pipeline between a file and the store; small batches, several in flight."""

    def pipeline(file: File) -> Uploads:
        return Uploads(
            source=file,
            store=rig.store,
            telemetry=rig.telemetry,
            options=Options(batch_size=20, sort_codes=60, write_concurrency=3, max_row_bytes=2_000),
            clock=Clock(),
        )

    return pipeline


async def run(uploads: Uploads, **options: Any) -> UploadReport:
    return await uploads.run(
        campaign_id=CAMPAIGN, code_type=CodeType.TM, file_key="codes/spring/tm/x.csv", **options
    )


@pytest.mark.parametrize(
    ("bad", "options", "error"),
    [(b"BAD\x02\n", {"strict": True}, InvalidRowError), (b"X" * 3_000, {}, NotCsvError)],
)
async def test_exactly_what_came_before_the_row_is_stored(
    make: Make, documents: Documents, bad: bytes, options: Any, error: type[Any]
) -> None:
    pieces = [lines(100), lines(157, start=50), bad + b"\n", lines(500, start=300)]
    for inserted in (207, 0):
        with pytest.raises(error) as raised:
            await run(make(File(pieces)), **options)
        assert raised.value.line == 258
        assert raised.value.counts == UploadCounts(inserted=inserted, updated=257 - inserted)
        assert sorted(stored(documents)) == lines(207).decode().split()


async def test_after_a_drain_the_next_try_is_exact(make: Make, documents: Documents) -> None:
    pieces = [lines(50, start=50 * number) for number in range(100)]

    async def before(number: int) -> None:
        if number == 40:
            uploads.drain()
        await asyncio.sleep(0)

    uploads = make(File(pieces, before=before))
    with pytest.raises(DrainingError):
        await run(uploads)
    present = documents.count_documents({})
    assert 0 < present < 5_000
    again = await run(make(File(pieces)))
    assert again.counts == UploadCounts(inserted=5_000 - present, updated=present)


async def test_uploads_that_are_cancelled_leave_nothing_half_told(make: Make, documents: Documents) -> None:
    pieces = [lines(50, start=50 * number) for number in range(60)]
    present = 0
    for delay in (0.01, 0.03, 0.06):
        running = asyncio.create_task(run(make(File(pieces))))
        await asyncio.sleep(delay)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        present = documents.count_documents({})
        await asyncio.sleep(0.05)
        assert documents.count_documents({}) == present
    again = await run(make(File(pieces)))
    assert again.counts == UploadCounts(inserted=3_000 - present, updated=present)
    assert documents.count_documents({}) == 3_000

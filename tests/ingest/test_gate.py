"""Bulk writes of several uploads of one process: so many in flight, and each upload in its turn."""

import asyncio
from typing import Final

import pytest

from codesvc.models import CodeType, UploadReport

from .stage import File, Store, lines, uploads

HUGE: Final = 400
SMALL: Final = b"SMALL-1\nSMALL-2\n"


async def test_a_small_upload_gets_its_write_in_beside_huge_ones() -> None:
    begun: list[int] = []
    full, joined = asyncio.Event(), asyncio.Event()

    async def during(number: int) -> None:
        begun.append(number)
        if len(begun) == 4:
            full.set()
        # The huge ones have every place in flight, and more that wait, when the small one comes.
        await joined.wait()

    store = Store(during=during)
    pipeline = uploads(None, store, batch_size=10, write_concurrency=4, max_writes=4)

    def start(data: bytes) -> asyncio.Task[UploadReport]:
        running = pipeline.run(
            campaign_id="spring", code_type=CodeType.TM, file_key="f", source=File([data], before=_give_way)
        )
        return asyncio.create_task(running)

    huge = [start(lines(HUGE * 10, start=number * HUGE * 10)) for number in range(3)]
    await full.wait()
    small = start(SMALL)
    for _ in range(200):
        await asyncio.sleep(0.001)
    assert len(begun) == 4, "no more are in flight than may be, whoever's they are"
    joined.set()
    assert (await small).counts.inserted == 2
    position = next(number for number, codes in enumerate(store.begun) if codes[0].startswith("SMALL"))
    # Before it, each of the three had the four that it may have in the queue, and four were in flight.
    assert position <= 4 + 3 * 4, f"{position} writes of others came first"
    assert [(await one).counts.inserted for one in huge] == [HUGE * 10] * 3
    assert store.most_at_once == 4


@pytest.mark.parametrize("concurrency", [1, 3])
async def test_one_upload_has_all_that_it_may_have(concurrency: int) -> None:
    store = Store()
    pipeline = uploads(File([lines(300)]), store, write_concurrency=concurrency, max_writes=1)
    report = await pipeline.run(campaign_id="spring", code_type=CodeType.TM, file_key="f")
    assert report.counts.inserted == 300
    assert store.most_at_once == concurrency


async def _give_way(_number: int) -> None:
    await asyncio.sleep(0)

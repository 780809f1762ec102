"""Time limits: kept, shared, and out of the way of whoever else cancels."""

import asyncio
import time

import pytest

from codesvc.errors import DatabaseUnavailableError
from codesvc.web.deadlines import Deadlines


async def sleep(seconds: float) -> str:
    await asyncio.sleep(seconds)
    return "done"


async def test_what_is_quick_enough_is_returned() -> None:
    assert await Deadlines(5).within(sleep(0)) == "done"


async def test_what_is_not_ends_in_time() -> None:
    deadlines = Deadlines(0.1)
    started = time.perf_counter()
    outcomes = await asyncio.gather(
        *(asyncio.create_task(deadlines.within(sleep(seconds))) for seconds in (60, 0.01, 60)),
        return_exceptions=True,
    )
    assert 0.09 < time.perf_counter() - started < 2
    assert [type(outcome) for outcome in outcomes] == [
        DatabaseUnavailableError,
        str,
        DatabaseUnavailableError,
    ]


async def test_each_has_its_own_time() -> None:
    deadlines = Deadlines(0.3)
    first = asyncio.create_task(deadlines.within(sleep(60)))
    await asyncio.sleep(0.2)
    assert await deadlines.within(sleep(0.2)) == "done"
    with pytest.raises(DatabaseUnavailableError):
        await first


async def test_a_task_goes_on_after_it() -> None:
    deadlines = Deadlines(0.02)
    for _ in range(3):
        with pytest.raises(DatabaseUnavailableError):
            await deadlines.within(sleep(60))
        assert await deadlines.within(sleep(0)) == "done"
    await asyncio.sleep(0.1)


async def test_errors_pass() -> None:
    async def fail() -> None:
        raise TimeoutError

    with pytest.raises(TimeoutError):
        await Deadlines(5).within(fail())


async def test_another_cancels() -> None:
    task = asyncio.create_task(Deadlines(5).within(sleep(60)))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_an_outer_timeout_stays_one() -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.02):
            await Deadlines(5).within(sleep(60))


async def test_what_will_not_end_is_cancelled_once() -> None:
    cancelled = 0

    async def stubborn() -> str:
        nonlocal cancelled
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled += 1
            await asyncio.sleep(0.1)
            raise
        return "done"

    with pytest.raises(DatabaseUnavailableError):
        await Deadlines(0.02).within(stubborn())
    assert cancelled == 1

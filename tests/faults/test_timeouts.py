"""MongoDB that does not answer: an error in time, and no restart once it answers again."""

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest
from datastore.rig import CAMPAIGN, Rig, Rigs, numbered

from codesvc.errors import DatabaseUnavailableError
from codesvc.models import CodeType, Status

from .conftest import FailPoint
from .proxy import Proxy

TIMEOUT = 0.8
SLACK = 1.0

pytestmark = [
    pytest.mark.usefixtures("short_lived_transactions"),
    # PyMongo's asyncio client forgets the socket with which it is just connecting when it is closed.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

Operation = Callable[[Rig], Awaitable[object]]

_times = itertools.count()


async def reserve_all(rig: Rig) -> object:
    """Ask for more codes than there are, of which some are free: only then a transaction is needed."""
    await rig.inventory.release(CAMPAIGN, numbered(300))
    return await rig.reserve(10_000)


OPERATIONS: dict[str, Operation] = {
    "count": lambda rig: rig.inventory.count(CAMPAIGN, CodeType.TM),
    "count-status": lambda rig: rig.inventory.count_status(CAMPAIGN, CodeType.TM, Status.AVAILABLE),
    "reserve": lambda rig: rig.reserve(5),
    "reserve-all": reserve_all,
    "assign": lambda rig: rig.inventory.assign(CAMPAIGN, numbered(12_000)),
    "release": lambda rig: rig.inventory.release(CAMPAIGN, numbered(12_000)),
    "upload": lambda rig: rig.upload(numbered(300), batch_size=50, write_concurrency=2),
    "upload-new": lambda rig: rig.upload(numbered(100, prefix=f"NEW-{next(_times)}-")),
    "upload-other-type": lambda rig: rig.upload(
        numbered(100, prefix="TYPE-"), code_type=list(CodeType)[next(_times) % 2]
    ),
}

# What each operation sends, to be held up one by one.
COMMANDS = [
    ("count", "aggregate"),
    ("reserve", "update"),
    ("reserve-all", "find"),
    ("reserve-all", "commitTransaction"),
    ("assign", "update"),
    ("upload", "createIndexes"),
    ("upload", "find"),
    ("upload-new", "insert"),
    ("upload-other-type", "update"),
]


@pytest.fixture(params=["motor", "pymongo"])
async def proxied(request: pytest.FixtureRequest, rigs: Rigs, proxy_uri: str) -> Rig:
    """A rig behind the proxy, with little patience."""
    rig = await rigs(uri=proxy_uri, mongo_driver=request.param, mongo_timeout=TIMEOUT)
    await eventually(OPERATIONS["upload"], rig)
    return rig


async def unavailable_in_time(operation: Awaitable[object], limit: float = TIMEOUT + SLACK) -> None:
    start = time.monotonic()
    with pytest.raises(DatabaseUnavailableError):
        await operation
    assert time.monotonic() - start < limit


async def test_a_network_that_stalls(proxied: Rig, proxy: Proxy) -> None:
    proxy.stall()
    await all_unavailable_in_time(proxied)
    proxy.flow()
    await all_eventually(proxied)


async def test_a_server_that_is_gone(proxied: Rig, proxy: Proxy) -> None:
    await proxy.down()
    await all_unavailable_in_time(proxied)
    await proxy.up()
    await all_eventually(proxied)


@pytest.mark.parametrize(("name", "command"), COMMANDS)
async def test_a_command_that_hangs(rigs: Rigs, failing: FailPoint, name: str, command: str) -> None:
    rig = await rigs(mongo_driver="pymongo", mongo_timeout=TIMEOUT)
    for preparation in ("upload", name):
        await eventually(OPERATIONS[preparation], rig)
    blocked = {"blockConnection": True, "blockTimeMS": 1_600}
    with failing(command, times=2, **blocked):
        await unavailable_in_time(OPERATIONS[name](rig))
    await eventually(OPERATIONS[name], rig)


async def test_many_callers_of_a_network_that_stalls(proxied: Rig, proxy: Proxy) -> None:
    # More than Motor has threads.
    proxy.stall()
    operations = [operation(proxied) for operation in OPERATIONS.values() for _ in range(8)]
    await asyncio.gather(*(unavailable_in_time(one, 2 * TIMEOUT + SLACK) for one in operations))
    ready = time.monotonic()
    assert not await proxied.mongo.ping(0.5)
    assert time.monotonic() - ready < 1.0
    proxy.flow()
    await all_eventually(proxied)


@pytest.mark.parametrize("driver", ["motor", "pymongo"])
async def test_a_server_that_comes_after_the_service(
    rigs: Rigs, proxy: Proxy, proxy_uri: str, driver: str
) -> None:
    await proxy.down()
    rig = await rigs(uri=proxy_uri, mongo_driver=driver, mongo_timeout=TIMEOUT, indexes=False)
    await all_unavailable_in_time(rig)
    assert not await rig.mongo.ping(0.2)
    await proxy.up()
    await all_eventually(rig)
    assert await rig.mongo.ping(2.0)


@pytest.mark.parametrize("driver", ["motor", "pymongo"])
async def test_closing_does_not_wait_for_a_server_that_is_gone(
    rigs: Rigs, proxy: Proxy, proxy_uri: str, driver: str
) -> None:
    rig = await rigs(uri=proxy_uri, mongo_driver=driver, mongo_timeout=15.0)
    await rig.upload(numbered(10))
    await proxy.down()
    # By then the driver has noticed, though no operation has.
    await asyncio.sleep(0.8)
    start = time.monotonic()
    closing = asyncio.create_task(rig.mongo.close())
    gaps = []
    while not closing.done():
        before = time.monotonic()
        await asyncio.sleep(0.01)
        gaps.append(time.monotonic() - before)
    await closing
    assert time.monotonic() - start < 3.0
    assert max(gaps) < 0.5


async def all_unavailable_in_time(rig: Rig) -> None:
    await asyncio.gather(*(unavailable_in_time(operation(rig)) for operation in OPERATIONS.values()))


async def all_eventually(rig: Rig) -> None:
    await asyncio.gather(*(eventually(operation, rig) for operation in OPERATIONS.values()))


async def eventually(operation: Operation, rig: Rig) -> None:
    """Try until it is done; the driver looks for a server that was away twice a second."""
    deadline = time.monotonic() + 8
    while time.monotonic() < deadline:
        with suppress(DatabaseUnavailableError):
            await operation(rig)
            return
    await operation(rig)

"""Each call of the client, against a real service."""

import subprocess
import sys
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiohttp
import pytest
from api.harness import Service, csv_of, make_codes
from api.world import World

from codesvc.client import (
    BadRequestError,
    Change,
    Client,
    CodesvcApiError,
    CodeType,
    Counts,
    NotEnoughCodesError,
    NotFoundError,
    Status,
    Upload,
    UploadState,
)

from .conftest import Connect


async def test_the_life_of_a_code(client: Client, world: World, campaign: str) -> None:
    codes = make_codes(5)
    seen: list[Upload] = []
    upload = await client.upload(world.put(campaign, csv_of(codes)), progress=seen.append)
    assert upload.state is UploadState.SUCCEEDED
    assert (upload.counts.inserted, upload.counts.updated, upload.exact) == (5, 0, True)
    assert seen

    lent = await client.reserve(campaign, CodeType.TM, 2)
    taken = [each.code for each in lent.codes]
    assert set(taken) < set(codes)
    assert {each.reserve_id for each in lent.codes} == {lent.reserve_id}
    assert str(uuid.UUID(lent.reserve_id)) == lent.reserve_id
    assert abs(lent.codes[0].reserved - datetime.now(UTC)) < timedelta(minutes=1)
    assert await client.count(campaign, "tm") == Counts(available=3, reserved=2, assigned=0)
    assert await client.count_status(campaign, CodeType.TM, Status.RESERVED) == 2

    assert await client.assign(campaign, taken[:1]) == Change(total=1, updated=1)
    assert await client.release(campaign, iter(taken)) == Change(total=2, updated=1)
    assert await client.count(campaign, "tm") == Counts(available=4, reserved=0, assigned=1)

    found = await client.get_code(campaign, taken[0])
    assert (found.code, found.type, found.status) == (taken[0], CodeType.TM, Status.ASSIGNED)
    assert found.assigned is not None
    assert found.assigned.tzinfo is not None
    assert (await client.get_code(campaign, taken[1])).status is Status.AVAILABLE


async def test_a_reservation_by_its_id(client: Client, world: World, campaign: str) -> None:
    world.stock(campaign, make_codes(5))
    lent = await client.reserve(campaign, CodeType.TM, 4, ttl=600, minimum=4)
    assert lent.expires == lent.codes[0].reserved + timedelta(seconds=600)
    found = await client.get_reservation(campaign, lent.reserve_id)
    assert found.codes == tuple(sorted(lent.codes, key=lambda one: one.code))
    assert (found.reserve_id, found.expires) == (lent.reserve_id, lent.expires)

    with pytest.raises(NotEnoughCodesError) as refused:
        await client.reserve(campaign, CodeType.TM, 2, minimum=2)
    assert (refused.value.status, refused.value.code) == (409, "notEnoughCodes")
    assert not refused.value.transient
    assert await client.count(campaign, "tm") == Counts(available=1, reserved=4, assigned=0)

    await client.release(campaign, [lent.codes[0].code])
    assert await client.assign_reservation(campaign, lent.reserve_id) == Change(total=3, updated=3)
    assert await client.release_reservation(campaign, lent.reserve_id) == Change(total=0, updated=0)
    other = await client.reserve(campaign, CodeType.TM, 2)
    assert other.expires == other.codes[0].reserved + timedelta(days=1)
    assert await client.release_reservation(campaign, other.reserve_id) == Change(total=2, updated=2)
    with pytest.raises(NotFoundError):
        await client.get_reservation(campaign, other.reserve_id)
    with pytest.raises(BadRequestError):
        await client.release_reservation(campaign, "none")


async def test_a_code_that_is_no_word_of_an_address(client: Client, world: World, campaign: str) -> None:
    code = "a/b c?d#e%2F+&=üé/.."
    world.stock(campaign, [code])
    assert (await client.get_code(campaign, code)).code == code


async def test_reserving_more_than_there_are(client: Client, world: World, campaign: str) -> None:
    world.stock(campaign, make_codes(3))
    assert len((await client.reserve(campaign, "tm", 10)).codes) == 3
    assert (await client.reserve(campaign, "tm", 10)).codes == ()


async def test_lists_beyond_a_requests_limit(connect: Connect, world: World, campaign: str) -> None:
    codes = make_codes(25)
    world.stock(campaign, codes)
    sums: list[Change] = []
    async with connect(codes_per_request=10) as client:
        # Twice in one list, in different requests: counted once, as by one request.
        done = await client.assign(campaign, [*codes, codes[0]], progress=sums.append)
    assert done == Change(total=26, updated=25)
    assert [each.total for each in sums] == [10, 20, 26]


async def test_a_list_that_fails_in_the_middle(connect: Connect, world: World, campaign: str) -> None:
    codes = make_codes(10)
    world.stock(campaign, codes)
    wrong: list[str] = [*codes, 5]  # type: ignore[list-item]
    async with connect(codes_per_request=4) as client:
        with pytest.raises(BadRequestError) as refused:
            await client.assign(campaign, wrong)
    assert refused.value.code == "invalidCodes"
    assert refused.value.done == Change(total=8, updated=8)


async def test_an_empty_list_is_the_services_to_refuse(client: Client, campaign: str) -> None:
    with pytest.raises(BadRequestError) as refused:
        await client.release(campaign, [])
    assert refused.value.code == "emptyCodes"
    with pytest.raises(TypeError):
        await client.release(campaign, "ABC")


async def test_problems_are_typed(client: Client, world: World, campaign: str) -> None:
    correlation = f"test:{campaign}"
    with pytest.raises(BadRequestError) as refused:
        await client.count(campaign, "paper", correlation_id=correlation)
    error = refused.value
    assert (error.status, error.code, error.correlation_id) == (400, "invalidType", correlation)
    assert error.detail
    assert not error.transient
    assert not error.may_have_taken_effect
    assert correlation in str(error)
    with pytest.raises(BadRequestError):
        await client.reserve(campaign, "tm", 10_001)
    with pytest.raises(NotFoundError) as missing:
        await client.upload(f"codes/{campaign}/tm/none.csv")
    assert missing.value.code == "fileNotFound"
    with pytest.raises(BadRequestError) as malformed:
        await client.upload("none.csv")
    assert malformed.value.code == "invalidFileKey"
    for wrong in ("a b", "..", "", "a/../b"):
        with pytest.raises(CodesvcApiError):
            await client.count(wrong, "tm")


async def test_no_message_holds_a_code(client: Client, campaign: str) -> None:
    code = make_codes(1)[0]
    with pytest.raises(NotFoundError) as missing:
        await client.get_code(campaign, code)
    assert code not in str(missing.value) + repr(missing.value)


async def test_a_callers_own_session_stays_open(connect: Connect, campaign: str) -> None:
    async with aiohttp.ClientSession() as session:
        for _ in range(2):
            async with connect(session=session) as client:
                assert await client.count(campaign, "tm") == Counts(0, 0, 0)
        assert not session.closed


def keep_alive_timers(port: int) -> list[str]:
    """Return the kind of timer that runs on each of this process's connections to a port, as Linux shows them."""
    inodes = {each.stat().st_ino for each in Path("/proc/self/fd").iterdir() if each.is_socket()}
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    to_port = [line for line in lines if int(line[2].rpartition(":")[2], 16) == port]
    return [line[5][:2] for line in to_port if int(line[9]) in inodes]


async def test_the_other_ends_death_is_noticed(client: Client, service: Service, campaign: str) -> None:
    await client.count(campaign, "tm")
    # The keep-alive timer: https://docs.kernel.org/networking/proc_net_tcp.html
    assert keep_alive_timers(service.port) == ["02"]


async def test_a_client_that_is_not_open(connect: Connect, campaign: str) -> None:
    with pytest.raises(RuntimeError, match="async with"):
        await connect().count(campaign, "tm")


@pytest.mark.parametrize(
    "address",
    ["", "127.0.0.1:8080", "ftp://host", "http://", "http://u:p@host", "http://host/?a=b", "http://[::1"],
)
def test_an_address_that_is_none(address: str) -> None:
    with pytest.raises(ValueError, match="HOST"):
        Client(address)


async def test_correlation_and_trace_reach_the_service(
    client: Client, service: Service, campaign: str
) -> None:
    from opentelemetry.sdk.trace import TracerProvider

    correlation = f"trace:{campaign}"
    with TracerProvider().get_tracer("test").start_as_current_span("caller") as span:
        await client.count(campaign, "tm", correlation_id=correlation)
    trace = f"{span.get_span_context().trace_id:032x}"
    lines = service.log_lines_of(correlation)
    assert [line["traceId"] for line in lines] == [trace]


def test_importing_it_loads_nothing_of_the_service() -> None:
    script = "import sys, codesvc.client; print(sorted(name.partition('.')[0] for name in sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    heavy = {
        "motor",
        "pymongo",
        "bson",
        "aiobotocore",
        "botocore",
        "pydantic",
        "opentelemetry",
        "rich",
        "jwt",
    }
    assert "'aiohttp'" in loaded
    assert [name for name in heavy if f"'{name}'" in loaded] == []

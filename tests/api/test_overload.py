"""Five times as many callers as are served: the others are told so, and nothing grows.

Figures are compared with those of the same service a moment before, and the best of a few rounds counts: others may
have the machine at the same time. The suite ``overload`` of the benchmarks has the figures themselves.
"""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from .harness import csv_of, make_codes, new_campaign
from .overload import ask
from .world import Hosting, World

PLACES: Final = 8
ROUNDS: Final = 5
SECONDS: Final = 0.7


@pytest.fixture(scope="module")
def small(
    hosting: Hosting, api_settings: dict[str, str | None], new_database: Callable[[str], str]
) -> Iterator[World]:
    """A service that takes eight requests at a time."""
    settings = api_settings | {"CODESVC_MAX_REQUESTS": str(PLACES), "CODESVC_LOG_LEVEL": "WARNING"}
    with hosting(settings, new_database("overload")) as world:
        yield world


def resident(world: World) -> int:
    """Return the bytes of memory that the service has."""
    pages = Path(f"/proc/{world.service.process.pid}/statm").read_text().split()[1]
    return int(pages) * 4096


def metric(world: World, series: str) -> float:
    text = world.service.get("/metrics", auth=None).body.decode()
    return next(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(series + " "))


async def test_five_times_what_it_takes(small: World) -> None:
    campaign, service = new_campaign(), small.service
    assert small.upload(campaign, csv_of(make_codes(2_000))).status == 200
    request = (
        f"GET /v1/{campaign}/reserve?count=1&type=external HTTP/1.1\r\nHost: x\r\n"
        f"Authorization: Bearer {service.token}\r\n\r\n"
    ).encode()
    await ask(service.port, request, callers=PLACES, seconds=SECONDS)
    before = resident(small)
    ratios, served, usual = [], 0, 0
    for _ in range(ROUNDS):
        normal = await ask(service.port, request, callers=PLACES, seconds=SECONDS)
        crowd = asyncio.create_task(ask(service.port, request, callers=5 * PLACES, seconds=SECONDS))
        await asyncio.sleep(SECONDS / 2)
        probes = [await asyncio.to_thread(service.get, path, auth=None) for path in ("/livez", "/readyz")]
        assert [one.status for one in probes] == [200, 200], "whoever asks whether it lives is answered"
        crowded = await crowd
        assert not normal.wrong + crowded.wrong
        assert crowded.refused > 0
        ratios.append(crowded.slowest / normal.slowest)
        served, usual = served + len(crowded.served), usual + len(normal.served)
        if ratios[-1] < 3:
            break
    assert min(ratios) < 3, f"p99 of those served, in times the usual: {ratios}"
    assert served > usual / 5, f"{served} served, {usual} without the crowd"
    assert resident(small) - before < 32 << 20
    assert metric(small, 'http_requests_refused_total{reason="request"}') > 0
    assert metric(small, 'http_requests_in_flight{kind="request"}') == 0
    after = await ask(service.port, request, callers=PLACES, seconds=SECONDS / 4)
    assert after.served
    assert not after.refused, "it is as it was before"

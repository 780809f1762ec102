"""An export takes no more memory for many codes than for few, and ends with a reader who goes away."""

import http.client
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from .harness import CODE_MARK, Service, eventually, new_campaign
from .world import Hosting, World

FEW, MANY = 15_000, 120_000
SAVED = datetime.now(UTC).replace(microsecond=0)


@pytest.fixture(scope="module")
def alone(
    hosting: Hosting, api_settings: dict[str, str | None], new_database: Callable[[str], str]
) -> Iterator[World]:
    with hosting(api_settings, new_database("exports")) as world:
        yield world


def filled(world: World, count: int) -> str:
    campaign = new_campaign()
    for start in range(0, count, 50_000):
        world.insert(
            {
                "_id": {"campaign_id": campaign, "code": f"{CODE_MARK}{number:08}"},
                "type": "tm",
                "date": {"saved": SAVED},
            }
            for number in range(start, min(start + 50_000, count))
        )
    return campaign


def export(service: Service, campaign: str) -> Iterator[bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=60)
    headers = {"Authorization": f"Bearer {service.token}", "Accept": "application/x-ndjson"}
    try:
        connection.request("GET", f"/v1/{campaign}/codes", headers=headers)
        response = connection.getresponse()
        assert response.status == 200
        while piece := response.read(1 << 16):
            yield piece
    finally:
        connection.close()


def resident(service: Service) -> int:
    """Return the bytes of memory that the process has at present."""
    figures = Path(f"/proc/{service.process.pid}/statm").read_text(encoding="ascii")
    return int(figures.split()[1]) * 4096


def test_memory_is_flat(alone: World) -> None:
    few, many = filled(alone, FEW), filled(alone, MANY)
    lines = sum(piece.count(b"\n") for piece in export(alone.service, few))
    assert lines == FEW
    before = resident(alone.service)
    lines, most = 0, 0
    for piece in export(alone.service, many):
        lines += piece.count(b"\n")
        most = max(most, resident(alone.service))
    assert lines == MANY
    # All of it is 15 MB as lines, and 80 MB as objects.
    assert most - before < 12 << 20

    # A reader who stops holds up no more than what is under way; gone, it leaves nothing behind.
    reading = export(alone.service, many)
    next(reading)
    time.sleep(1)
    assert resident(alone.service) - before < 12 << 20
    reading.close()  # type: ignore[attr-defined]
    count = "http_request_count"
    eventually(
        lambda: (
            f'{count}{{method="GET",path="/v1/{{campaignId}}/codes",status="200"}} 3'
            in alone.service.get("/metrics", auth=None).body.decode()
        ),
        limit=20,
    )

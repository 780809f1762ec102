"""What the routes answer when all is well."""

import re
from datetime import UTC, datetime, timedelta, timezone

import pytest
from webroom import Client, Service, send

from codesvc.models import CodeType, InvalidRow, Status, UploadCounts, UploadReport
from codesvc.web.schemas import rfc3339

pytest_plugins = ("webroom",)


async def test_upload_reports_counts(client: Client, service: Service) -> None:
    reply = await send(client, "POST", "/v1/12345/codes", json={"fileKey": "codes/12345/tm/batch-001.csv"})
    assert reply.status == 200
    assert reply.json == {"count": {"in": 100, "inserted": 98, "updated": 2}}
    assert service.uploads.calls == [
        {
            "campaign_id": "12345",
            "code_type": CodeType.TM,
            "file_key": "codes/12345/tm/batch-001.csv",
            "header": False,
            "strict": False,
            "dry_run": False,
        }
    ]


async def test_upload_passes_its_switches_on(client: Client, service: Service) -> None:
    body = {"fileKey": "codes/a/external/deep/name.csv", "header": True, "strict": True, "unknown": [1]}
    reply = await send(client, "POST", "/v1/a/codes", json=body)
    assert reply.status == 200
    call = service.uploads.calls[0]
    assert (call["code_type"], call["header"], call["strict"]) == (CodeType.EXTERNAL, True, True)


async def test_upload_shows_invalid_rows(client: Client, service: Service) -> None:
    samples = tuple(InvalidRow(line, "the code is too long") for line in range(1, 101))
    service.uploads.outcome = UploadReport(UploadCounts(1, 0), invalid_count=250, invalid_samples=samples)
    reply = await send(client, "POST", "/v1/1/codes", json={"fileKey": "codes/1/tm/x"})
    assert reply.json["count"] == {"in": 1, "inserted": 1, "updated": 0}
    assert reply.json["invalid"]["count"] == 250
    assert len(reply.json["invalid"]["samples"]) == 100
    assert reply.json["invalid"]["samples"][16] == {"line": 17, "reason": "the code is too long"}


async def test_count_gives_every_status(client: Client, service: Service) -> None:
    service.inventory.codes = {"A": Status.AVAILABLE, "B": Status.ASSIGNED, "C": Status.ASSIGNED}
    reply = await send(client, "GET", "/v1/1/codes/count?type=external")
    assert reply.status == 200
    assert reply.headers["Content-Type"] == "application/json"
    assert reply.json == {"available": 1, "reserved": 0, "assigned": 2}
    assert service.inventory.calls == [("count", "1", CodeType.EXTERNAL)]


@pytest.mark.parametrize("status", list(Status))
async def test_count_of_one_status_gives_just_that(client: Client, service: Service, status: Status) -> None:
    service.inventory.codes = {"A": status, "B": status}
    reply = await send(client, "GET", f"/v1/1/codes/count?type=tm&status={status}")
    assert reply.json == {str(status): 2}


async def test_head_of_count_has_no_body(client: Client) -> None:
    reply = await send(client, "HEAD", "/v1/1/codes/count?type=tm")
    assert (reply.status, reply.body) == (200, b"")


async def test_reserve_gives_codes_with_dates(client: Client, service: Service) -> None:
    service.inventory.codes = {"ABC123": Status.AVAILABLE, "DEF456": Status.AVAILABLE}
    reply = await send(client, "GET", "/v1/1/reserve?count=1&type=tm")
    assert reply.status == 200
    reserve_id = reply.json["reserveId"]
    assert re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", reserve_id)
    assert reply.json == {
        "reserveId": reserve_id,
        "codes": [
            {
                "code": "ABC123",
                "type": "tm",
                "reserveId": reserve_id,
                "date": {"saved": "2026-03-04T05:06:07.089Z", "reserved": "2026-03-04T05:06:07.089Z"},
            }
        ],
        "count": 1,
        "expiresAt": "2026-03-05T05:06:07.089Z",
    }


async def test_an_empty_reservation_is_a_success(client: Client) -> None:
    reply = await send(client, "GET", "/v1/1/reserve?count=1&type=tm")
    assert (reply.status, reply.json["codes"], reply.json["count"]) == (200, [], 0)


@pytest.mark.parametrize(
    ("query", "body"),
    [
        ("?count=3&type=external", None),
        ("?count=3&type=external", {}),
        ("", {"count": 3, "type": "external"}),
        ("?type=external", {"count": 3}),
        ("?count=7&type=tm", {"count": 3, "type": "external"}),
    ],
)
async def test_post_reserve_takes_query_or_body(
    client: Client, service: Service, query: str, body: object
) -> None:
    reply = await send(client, "POST", f"/v1/1/reserve{query}", **({} if body is None else {"json": body}))
    assert reply.status == 200
    assert service.inventory.calls == [("reserve", "1", CodeType.EXTERNAL, 3)]


async def test_post_reserve_without_body_looks_at_no_content_type(client: Client) -> None:
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    reply = await send(client, "POST", "/v1/1/reserve?count=1&type=tm", headers=headers)
    assert reply.status == 200


async def test_assign_and_release(client: Client, service: Service) -> None:
    service.inventory.codes = {"A": Status.AVAILABLE, "B": Status.RESERVED, "C": Status.RESERVED}
    assigned = await send(client, "POST", "/v1/1/assign", json={"codes": ["A", "B", "B", "nobody's"]})
    assert (assigned.status, assigned.json) == (200, {"count": {"in": 4, "updated": 2}})
    released = await send(client, "POST", "/v1/1/release", json={"codes": ["A", "C"]})
    assert (released.status, released.json) == (200, {"count": {"in": 2, "updated": 1}})


@pytest.mark.parametrize("campaign_id", ["a", "x" * 128, "A-Z.a_z~09", "%41", "..."])
async def test_campaign_ids(client: Client, service: Service, campaign_id: str) -> None:
    reply = await send(client, "GET", f"/v1/{campaign_id}/codes/count?type=tm")
    assert reply.status == 200
    assert service.inventory.calls[0][1] == campaign_id.replace("%41", "A")


@pytest.mark.parametrize(
    "content_type",
    ["application/json", "application/json; charset=utf-8", "Application/JSON", "application/json;x=y", None],
)
async def test_content_types_that_are_json(client: Client, content_type: str | None) -> None:
    headers = {} if content_type is None else {"Content-Type": content_type}
    reply = await send(
        client,
        "POST",
        "/v1/1/assign",
        data=b'{"codes":["A"]}',
        headers=headers,
        skip_auto_headers=["Content-Type"],
    )
    assert reply.status == 200


async def test_a_compressed_body_is_read(client: Client) -> None:
    reply = await send(client, "POST", "/v1/1/assign", json={"codes": ["A"] * 900}, compress="gzip")
    assert (reply.status, reply.json["count"]["in"]) == (200, 900)


@pytest.mark.parametrize(
    ("instant", "text"),
    [
        (datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), "2026-01-02T03:04:05.000Z"),
        (datetime(2026, 1, 2, 3, 4, 5, 999_999, tzinfo=UTC), "2026-01-02T03:04:05.999Z"),
        (datetime(2026, 1, 2, 3, 4, 5, 7_000), "2026-01-02T03:04:05.007Z"),  # noqa: DTZ001 - as drivers give it
        (datetime(2026, 1, 2, 1, 0, tzinfo=timezone(timedelta(hours=2))), "2026-01-01T23:00:00.000Z"),
    ],
)
def test_dates_are_utc_with_three_decimals(instant: datetime, text: str) -> None:
    assert rfc3339(instant) == text

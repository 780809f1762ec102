"""Uploads as resources: begun without waiting, looked at, listed, followed and cancelled, from any process."""

import csv
import io
import re
import uuid
from functools import partial
from typing import Any

import pytest

from .harness import (
    CODE_MARK,
    RFC3339_MILLISECONDS,
    Document,
    Reply,
    Service,
    assert_counts,
    assert_problem,
    csv_of,
    eventually,
    in_parallel,
    make_codes,
    new_campaign,
)
from .world import World

MEMBERS = {
    *("uploadId", "fileKey", "type", "state", "bytes", "count", "invalid", "codesPerSecond", "secondsLeft"),
    *("startedAt", "updatedAt", "finishedAt", "error"),
}
ASYNC = {"Prefer": "respond-async"}


def start(service: Service, key: str, headers: dict[str, str] | None = None, **options: Any) -> Reply:
    campaign = key.split("/")[1]
    return service.post(f"/v1/{campaign}/codes", {"fileKey": key, **options}, headers=headers or ASYNC)


def accepted(service: Service, key: str, **options: Any) -> str:
    """Begin an upload; return its address."""
    reply = start(service, key, **options)
    assert reply.status == 202, reply
    assert reply.header("Preference-Applied") == "respond-async"
    resource = checked(reply.json())
    address = f"/v1/{key.split('/')[1]}/uploads/{resource['uploadId']}"
    assert reply.header("Location") == address
    return address


def checked(resource: Document) -> Document:
    assert set(resource) == MEMBERS
    assert set(resource["bytes"]) == {"done", "total"}
    counts = resource["count"]
    assert counts["in"] == counts["inserted"] + counts["updated"]
    assert resource["invalid"]["count"] >= len(resource["invalid"]["samples"])
    ended = resource["state"] not in {"queued", "running"}
    assert (resource["finishedAt"] is not None) is ended
    assert (resource["startedAt"] is None) is (resource["state"] == "queued") or ended
    assert (resource["error"] is None) is (resource["state"] != "failed")
    if ended:
        assert resource["secondsLeft"] is None
    for name in ("startedAt", "updatedAt", "finishedAt"):
        assert resource[name] is None or RFC3339_MILLISECONDS.fullmatch(resource[name])
    return resource


def look(service: Service, address: str) -> Document:
    reply = service.get(address)
    assert reply.status == 200, reply
    assert reply.header("Cache-Control") == "no-store"
    return checked(reply.json())


def ended(service: Service, address: str, limit: float = 30) -> Document:
    def end() -> Document | None:
        resource = look(service, address)
        return None if resource["state"] in {"queued", "running"} else resource

    found: Document = eventually(end, limit=limit)
    return found


def listed(service: Service, campaign: str, query: str = "") -> Document:
    reply = service.get(f"/v1/{campaign}/uploads{query}")
    assert reply.status == 200, reply
    page: Document = reply.json()
    for one in page["uploads"]:
        checked(one)
    return page


def test_without_waiting(world: World, second_service: Service, campaign: str) -> None:
    codes = make_codes(1000)
    key = world.put(campaign, csv_of([*codes, codes[0], "\x01", "\x02"]))
    address = accepted(world.service, key)
    resource = ended(second_service, address)
    assert resource == look(world.service, address)
    assert resource["state"] == "succeeded"
    assert (resource["fileKey"], resource["type"]) == (key, "tm")
    assert resource["count"] == {"in": 1001, "inserted": 1000, "updated": 1}
    assert resource["bytes"]["done"] == resource["bytes"]["total"] > 1000
    assert resource["invalid"]["count"] == 2
    assert [one["line"] for one in resource["invalid"]["samples"]] == [1002, 1003]
    assert resource["codesPerSecond"] > 0
    assert resource["startedAt"] <= resource["finishedAt"] == resource["updatedAt"]
    assert world.stored(campaign) == set(codes)
    assert listed(second_service, campaign) == {"uploads": [resource]}


def test_a_synchronous_one_is_a_resource_as_well(world: World, campaign: str) -> None:
    codes = make_codes(10)
    reply = world.upload(campaign, csv_of(codes))
    assert_counts(reply, 10, 10, 0)
    (resource,) = listed(world.service, campaign)["uploads"]
    assert reply.header("Location") == f"/v1/{campaign}/uploads/{resource['uploadId']}"
    assert (resource["state"], resource["count"]["inserted"]) == ("succeeded", 10)


def test_a_failure_after_it_was_accepted(world: World, campaign: str) -> None:
    key = world.put(campaign, csv_of(["\x01", *make_codes(3)]))
    resource = ended(world.service, accepted(world.service, key, strict=True))
    assert resource["state"] == "failed"
    assert resource["error"]["code"] == "invalidRow"
    assert resource["error"]["title"]
    assert "line 1" in resource["error"]["detail"]
    assert resource["count"]["in"] == 0
    reply = world.service.upload(key, strict=True)
    assert_problem(reply, 422, "invalidRow")
    assert [one["error"]["code"] for one in listed(world.service, campaign)["uploads"]] == ["invalidRow"] * 2


def test_what_is_refused_at_once(world: World, campaign: str) -> None:
    service = world.service
    missing = f"codes/{campaign}/tm/none.csv"
    assert_problem(start(service, missing), 404, "fileNotFound")
    assert_problem(start(service, "codes/x/tm/none.csv", header=3), 400, "invalidJson")
    reply = service.post(f"/v1/{campaign}/codes", {"fileKey": "codes/other/tm/x.csv"}, headers=ASYNC)
    assert_problem(reply, 400, "campaignMismatch")
    assert listed(service, campaign) == {"uploads": []}


@pytest.mark.parametrize(
    ("prefer", "status"),
    [
        ("respond-async", 202),
        ('foo; bar="a", Respond-Async ;x=1', 202),
        ("wait=10, respond-async", 202),
        ("respond-asynchronously", 200),
        ("wait=100", 200),
        ("", 200),
    ],
)
def test_preferences(world: World, campaign: str, prefer: str, status: int) -> None:
    key = world.put(campaign, csv_of(make_codes(2)))
    reply = start(world.service, key, {"Prefer": prefer})
    assert reply.status == status
    assert (reply.header("Preference-Applied") == "respond-async") is (status == 202)


def test_every_invalid_row(world: World, second_service: Service, campaign: str) -> None:
    """100,000 of them, in several documents; never a row's content."""
    codes = make_codes(1000)
    rows = [f"{CODE_MARK}\x01{number:04}" for number in range(100_000)]
    key = world.put(campaign, csv_of([*rows[:500], *codes, *rows[500:]]) + b'"open')
    resource = ended(world.service, accepted(world.service, key))
    assert resource["count"] == {"in": 1000, "inserted": 1000, "updated": 0}
    assert resource["invalid"]["count"] == 100_001
    address = f"/v1/{campaign}/uploads/{resource['uploadId']}/invalid"
    whole = world.service.get(address).body
    for service in (world.service, second_service):
        reply = service.get(address)
        assert reply.body == whole
        assert reply.status == 200
        assert reply.media_type == "text/csv"
        assert reply.header("Cache-Control") == "no-store"
        assert CODE_MARK.encode() not in reply.body
        head, *found = csv.reader(io.StringIO(reply.body.decode(), newline=""))
        assert head == ["line", "reason"]
        assert [int(line) for line, _ in found] == [*range(1, 501), *range(1501, 101_002)]
        samples = resource["invalid"]["samples"]
        assert [[str(one["line"]), one["reason"]] for one in samples] == found[:100]
        assert found[-1] == ["101001", "a quote is still open at the end of the file"]
        assert service.request("HEAD", address).body == b""
    lines = world.service.log_lines_of(world.service.get(address).header("X-Correlation-ID") or "")
    assert lines[-1]["route"] == "/v1/{campaignId}/uploads/{uploadId}/invalid"
    assert lines[-1]["bytes"] == len(whole)
    assert world.database["invalid_rows"].count_documents({"_id.uploadId": resource["uploadId"]}) > 1


def test_pages(world: World, campaign: str) -> None:
    key = world.put(campaign, csv_of(make_codes(1)))
    for _ in range(5):
        assert world.service.upload(key).status == 200
    whole = listed(world.service, campaign)["uploads"]
    assert "next" not in listed(world.service, campaign, "?limit=5")
    started = [one["startedAt"] for one in whole]
    assert started == sorted(started, reverse=True)
    pages, query = [], "?limit=2"
    while True:
        page = listed(world.service, campaign, query)
        pages.append(page["uploads"])
        if "next" not in page:
            break
        query = f"?limit=2&after={page['next']}"
    assert [len(page) for page in pages] == [2, 2, 1]
    assert [one for page in pages for one in page] == whole
    for query, code in (
        ("limit=0", "invalidLimit"),
        ("limit=101", "invalidLimit"),
        ("limit=x", "invalidLimit"),
        ("limit=1&limit=2", "invalidLimit"),
        ("after=x", "invalidAfter"),
        ("after=", "invalidAfter"),
    ):
        assert_problem(world.service.get(f"/v1/{campaign}/uploads?{query}"), 400, code)


def test_one_that_is_not_there(world: World, campaign: str) -> None:
    key = world.put(campaign, csv_of(make_codes(1)))
    upload_id = ended(world.service, accepted(world.service, key))["uploadId"]
    for campaign_id, wanted in ((new_campaign(), upload_id), (campaign, str(uuid.uuid4())), (campaign, "x")):
        address = f"/v1/{campaign_id}/uploads/{wanted}"
        for method, path in (("GET", ""), ("GET", "/events"), ("GET", "/invalid"), ("DELETE", "")):
            assert_problem(world.service.request(method, address + path), 404, "notFound")
    refused = world.service.post(f"/v1/{campaign}/uploads", {})
    assert_problem(refused, 405, "methodNotAllowed")


def test_codes_of_one_upload_share_an_instant_that_no_other_has(world: World, campaign: str) -> None:
    keys = [world.put(campaign, csv_of(make_codes(3, tag=f"u{n}"))) for n in range(40)]
    addresses = in_parallel([partial(accepted, world.service, key) for key in keys])
    for address in addresses:
        assert ended(world.service, address)["state"] == "succeeded"
    saved: dict[Any, set[str]] = {}
    for code, document in world.documents(campaign).items():
        saved.setdefault(document["date"]["saved"], set()).add(re.sub(r"-.*", "", code))
    assert len(saved) == 40
    assert all(len(tags) == 1 for tags in saved.values())

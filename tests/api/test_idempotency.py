"""Idempotency-Key: the first reply again, whichever process is asked."""

import base64
import json
import random
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest

from .harness import (
    CODE_MARK,
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
from .world import Hosting, World

KEY = "Idempotency-Key"
REPLAYED = "Idempotency-Replayed"


def new_key() -> str:
    return str(uuid.uuid4())


def keyed(service: Service, key: str, campaign: str, what: str, body: Any, **headers: str) -> Reply:
    return service.post(f"/v1/{campaign}/{what}", body, headers={KEY: key, **headers})


def reserve(service: Service, key: str, campaign: str, count: int = 5) -> Reply:
    return keyed(service, key, campaign, "reserve", {"count": count, "type": "tm"})


def assert_again(again: Reply, first: Reply) -> None:
    """Check that a reply is the first one again, and says so."""
    assert again.status == first.status
    assert again.body == first.body
    assert again.header(REPLAYED) == "true"
    for name in (KEY, "Content-Type", "Location", "Preference-Applied", "Cache-Control"):
        assert again.header(name) == first.header(name), name


def keyed_requests(service: Service, outcome: str) -> int:
    text = service.get("/metrics", auth=None).body.decode()
    (line,) = [one for one in text.splitlines() if f'key_requests_total{{outcome="{outcome}"}}' in one]
    return int(float(line.rpartition(" ")[2]))


def test_the_first_reply_again(world: World, second_service: Service, campaign: str) -> None:
    world.stock(campaign, make_codes(20))
    key = new_key()
    before = keyed_requests(world.service, "replayed")
    first = reserve(world.service, key, campaign)
    assert first.status == 200
    assert first.json()["count"] == 5
    assert first.header(KEY) == key
    assert first.header(REPLAYED) is None
    for service in (world.service, second_service):
        assert_again(reserve(service, key, campaign), first)
    assert world.service.count(campaign) == {"available": 15, "reserved": 5, "assigned": 0}
    assert keyed_requests(world.service, "replayed") == before + 1


def test_get_and_post_and_both_spellings_are_one_request(world: World, campaign: str) -> None:
    world.stock(campaign, make_codes(20))
    key = new_key()
    first = world.service.get(f"/v1/{campaign}/reserve?count=3&type=tm", headers={KEY: key})
    assert first.status == 200
    target = f"/v1/{campaign}/reserve?type=tm&count=3"
    for again in (
        reserve(world.service, f'"{key}"', campaign, 3),
        world.service.request("POST", target, headers={KEY: key}),
    ):
        assert again.body == first.body
        assert again.header(REPLAYED) == "true"
    assert reserve(world.service, f'"{key}"', campaign, 3).header(KEY) == f'"{key}"'
    assert world.service.count(campaign)["reserved"] == 3


def test_assign_and_release(world: World, campaign: str) -> None:
    codes = make_codes(10)
    world.stock(campaign, codes)
    world.service.reserve(campaign, 10)
    for action, updated in (("release", 4), ("assign", 4)):
        key = new_key()
        first = keyed(world.service, key, campaign, action, {"codes": codes[:4]})
        assert first.json() == {"count": {"in": 4, "updated": updated}}
        assert_again(keyed(world.service, key, campaign, action, {"codes": codes[:4]}), first)
    # Done again, it would count none.
    assert world.service.change(campaign, "assign", codes[:4]) == {"in": 4, "updated": 0}


def test_an_upload(world: World, campaign: str) -> None:
    file_key = world.put(campaign, csv_of(make_codes(30)) + b"bad\x01\n")
    key = new_key()
    first = keyed(world.service, key, campaign, "codes", {"fileKey": file_key})
    assert first.json()["count"] == {"in": 30, "inserted": 30, "updated": 0}
    assert_again(keyed(world.service, key, campaign, "codes", {"fileKey": file_key}), first)
    assert_counts_of_uploads(world, campaign, 1)


def assert_counts_of_uploads(world: World, campaign: str, count: int) -> None:
    assert len(world.service.get(f"/v1/{campaign}/uploads").json()["uploads"]) == count


def test_an_upload_that_nobody_waits_for(world: World, campaign: str) -> None:
    file_key = world.put(campaign, csv_of(make_codes(30)))
    key = new_key()
    body = {"fileKey": file_key}
    first = keyed(world.service, key, campaign, "codes", body, Prefer="respond-async")
    assert first.status == 202
    again = keyed(world.service, key, campaign, "codes", body, Prefer="respond-async")
    assert_again(again, first)
    assert again.header("Location") == f"/v1/{campaign}/uploads/{first.json()['uploadId']}"
    assert_counts_of_uploads(world, campaign, 1)


def test_a_file_that_is_refused_is_refused_again(world: World, campaign: str) -> None:
    """Under the correlation ID of the request that is refused: that is what is in the log."""
    file_key = world.put(campaign, csv_of(make_codes(3)) + b"bad\x01\n")
    key = new_key()
    body = {"fileKey": file_key, "strict": True}
    first = assert_problem(keyed(world.service, key, campaign, "codes", body), 422, "invalidRow")
    assert first["line"] == 4
    reply = keyed(world.service, key, campaign, "codes", body)
    again = assert_problem(reply, 422, "invalidRow")
    assert reply.header(REPLAYED) == "true"
    assert again | {"correlationId": ""} == first | {"correlationId": ""}
    assert_counts_of_uploads(world, campaign, 1)


@pytest.mark.parametrize(
    ("what", "body"),
    [
        ("reserve", {"type": "tm", "count": 4}),
        ("reserve", {"type": "external", "count": 3}),
        ("assign", {"codes": ["A"]}),
        ("release", {"codes": ["A"]}),
    ],
    ids=["another count", "another type", "assign", "release"],
)
def test_another_request_with_the_key(world: World, campaign: str, what: str, body: Any) -> None:
    key = new_key()
    assert reserve(world.service, key, campaign, 3).status == 200
    reply = keyed(world.service, key, campaign, what, body)
    assert_problem(reply, 422, "idempotencyKeyReused")
    assert reply.header(KEY) == key
    # What is as if it had not been sent makes no other request of it.
    assert keyed(world.service, key, campaign, "reserve", {"type": "tm", "count": 3.0, "else": 1}).header(
        REPLAYED
    )


def test_a_key_is_of_one_campaign(world: World) -> None:
    key = new_key()
    for campaign in (new_campaign(), new_campaign()):
        world.stock(campaign, make_codes(5))
        assert reserve(world.service, key, campaign, 2).header(REPLAYED) is None
        assert world.service.count(campaign)["reserved"] == 2


def test_the_same_codes_to_assign_and_to_release(world: World, campaign: str) -> None:
    key = new_key()
    assert keyed(world.service, key, campaign, "assign", {"codes": ["A"]}).status == 200
    reply = keyed(world.service, key, campaign, "release", {"codes": ["A"]})
    assert_problem(reply, 422, "idempotencyKeyReused")


@pytest.mark.parametrize(
    "key",
    ["", " ", '"', '""', "a b", '"a b"', '"a', '"a"b"', '"a\\b"', "x" * 256, '"' + "x" * 256 + '"', "ä"],
)
def test_what_is_no_key(world: World, campaign: str, key: str) -> None:
    reply = reserve(world.service, key, campaign)
    assert_problem(reply, 400, "invalidIdempotencyKey")
    assert reply.header(KEY) is None
    assert world.service.get(f"/v1/{campaign}/codes/count?type=tm", headers={KEY: key}).status == 200


@pytest.mark.parametrize("key", ["x", "x" * 255, '"' + "x" * 255 + '"', '"a\\"b\\\\"', "it's;a=b,c", "$x.y"])
def test_what_is_one(world: World, campaign: str, key: str) -> None:
    first = reserve(world.service, key, campaign)
    assert first.status == 200
    assert_again(reserve(world.service, key, campaign), first)


def test_what_failed_gives_its_key_back(world: World, campaign: str) -> None:
    """The file comes later; then the same key is good for it, or for anything else."""
    key = new_key()
    name = f"codes/{campaign}/tm/late.csv"
    assert_problem(keyed(world.service, key, campaign, "codes", {"fileKey": name}), 404, "fileNotFound")
    world.put(campaign, csv_of(make_codes(3)), name="late.csv")
    assert_counts(keyed(world.service, key, campaign, "codes", {"fileKey": name}), 3, 3, 0)
    for body, status in (({"count": 0, "type": "tm"}, 400), ({"count": 1, "type": "tm"}, 200)):
        assert keyed(world.service, f"{key}-2", campaign, "reserve", body).status == status


def test_every_reply_carries_the_key(world: World, campaign: str) -> None:
    key = new_key()
    for reply in (
        world.service.get(f"/v1/{campaign}/reserve?count=0&type=tm", headers={KEY: key}),
        world.service.get(f"/v1/{campaign}/reserve?count=1&type=tm", headers={KEY: key}, auth=None),
        world.service.post(f"/v1/{campaign}/assign", {"codes": []}, headers={KEY: key}),
    ):
        assert reply.status in {400, 401}
        assert reply.header(KEY) == key
    # Where it is not honoured, nobody says that it is.
    assert world.service.get(f"/v1/{campaign}/uploads", headers={KEY: key}).header(KEY) is None


def test_twenty_at_once_at_two_processes(world: World, second_service: Service, campaign: str) -> None:
    world.stock(campaign, make_codes(500))
    services = (world.service, second_service)
    for _ in range(3):
        key = new_key()
        before = world.service.count(campaign)["reserved"]
        replies: list[Reply] = in_parallel(
            [partial(reserve, services[at % 2], key, campaign, 7) for at in range(20)]
        )
        good = [one for one in replies if one.status == 200]
        assert len({one.body for one in good}) == 1
        assert len([one for one in good if one.header(REPLAYED) is None]) == 1
        for one in replies:
            if one.status != 200:
                assert_problem(one, 409, "idempotencyKeyInUse")
                assert one.header("Retry-After") == "1"
        assert world.service.count(campaign)["reserved"] == before + 7
        assert_again(reserve(second_service, key, campaign, 7), replies[replies.index(good[0])])


def test_uploads_at_once_at_two_processes(world: World, second_service: Service, campaign: str) -> None:
    body = {"fileKey": world.put(campaign, csv_of(make_codes(2000)))}
    services = (world.service, second_service)
    key = new_key()
    replies: list[Reply] = in_parallel(
        [partial(keyed, services[at % 2], key, campaign, "codes", body) for at in range(8)]
    )
    good = {one.body for one in replies if one.status == 200}
    assert len(good) == 1
    assert {one.status for one in replies} <= {200, 409}
    assert json.loads(good.pop())["count"] == {"in": 2000, "inserted": 2000, "updated": 0}
    assert_counts_of_uploads(world, campaign, 1)


def abandon(world: World, key: str, *names: str) -> None:
    """Leave a key as a process does that dies before it keeps the reply, some time later."""
    found = world.database["idempotency_keys"].update_one(
        {"_id.key": key},
        {
            "$set": {"names": list(names), "leaseUntil": datetime.now(UTC) - timedelta(seconds=1)},
            "$unset": {"status": ""},
        },
    )
    assert found.matched_count == 1


def test_what_a_process_held_that_died_is_released(world: World, campaign: str) -> None:
    world.stock(campaign, make_codes(10))
    other = world.service.reserve(campaign, 2)["codes"]
    key = new_key()
    first = reserve(world.service, key, campaign, 3)
    abandon(world, key, first.json()["reserveId"])
    # The claim is of the first request, whatever has become of that.
    assert_problem(reserve(world.service, key, campaign, 4), 422, "idempotencyKeyReused")
    again = reserve(world.service, key, campaign, 3)
    assert again.header(REPLAYED) is None
    assert again.json()["reserveId"] != first.json()["reserveId"]
    assert_again(reserve(world.service, key, campaign, 3), again)
    held = {code for code, one in world.documents(campaign).items() if "reserveId" in one}
    assert held == {one["code"] for one in [*other, *again.json()["codes"]]}


def test_nothing_is_left_of_any_of_those_that_died(world: World, campaign: str) -> None:
    world.stock(campaign, make_codes(10))
    key = new_key()
    lost = [world.service.reserve(campaign, 2)["reserveId"] for _ in range(3)]
    reserve(world.service, key, campaign, 1)
    abandon(world, key, *lost)
    assert reserve(world.service, key, campaign, 1).status == 200
    # The first one was told of, and its codes are not among what was abandoned.
    assert world.service.count(campaign)["reserved"] == 2


def test_of_an_upload_that_was_not_told_of_the_record_tells(world: World, campaign: str) -> None:
    body = {"fileKey": world.put(campaign, csv_of(make_codes(30)) + b"bad\x01\n")}
    key = new_key()
    first = keyed(world.service, key, campaign, "codes", body)
    upload_id = (first.header("Location") or "").rpartition("/")[2]
    abandon(world, key, upload_id)
    again = keyed(world.service, key, campaign, "codes", body)
    assert (again.status, again.json()) == (200, first.json())
    assert again.header("Location") == first.header("Location")
    assert_again(keyed(world.service, key, campaign, "codes", body), again)
    assert_counts_of_uploads(world, campaign, 1)
    # To those who do not wait, it is told as a resource.
    abandon(world, key, upload_id)
    told = keyed(world.service, key, campaign, "codes", body, Prefer="respond-async")
    assert told.status == 202
    assert (told.json()["uploadId"], told.json()["state"]) == (upload_id, "succeeded")


def test_a_refusal_that_was_not_told_of(world: World, campaign: str) -> None:
    body = {"fileKey": world.put(campaign, csv_of(make_codes(3)) + b"bad\x01\n"), "strict": True}
    key = new_key()
    first = assert_problem(keyed(world.service, key, campaign, "codes", body), 422, "invalidRow")
    (upload,) = world.service.get(f"/v1/{campaign}/uploads").json()["uploads"]
    abandon(world, key, upload["uploadId"])
    again = assert_problem(keyed(world.service, key, campaign, "codes", body), 422, "invalidRow")
    assert again | {"correlationId": ""} == first | {"correlationId": ""}


def test_an_upload_under_way_is_in_use_and_then_told_of(world: World, campaign: str) -> None:
    """As when its process was drained or died, and another goes on with it."""
    body = {"fileKey": world.put(campaign, csv_of(make_codes(30)))}
    key = new_key()
    first = keyed(world.service, key, campaign, "codes", body)
    upload_id = (first.header("Location") or "").rpartition("/")[2]
    uploads = world.database["uploads"]
    lease = {"leaseUntil": datetime.now(UTC) + timedelta(minutes=1), "state": "running"}
    before = uploads.find_one_and_update({"_id": upload_id}, {"$set": lease})
    assert before is not None
    abandon(world, key, upload_id)
    for _ in range(3):
        assert_problem(keyed(world.service, key, campaign, "codes", body), 409, "idempotencyKeyInUse")
    uploads.replace_one({"_id": upload_id}, before)
    assert keyed(world.service, key, campaign, "codes", body).json() == first.json()
    assert_counts_of_uploads(world, campaign, 1)


def test_an_upload_that_came_to_nothing_is_begun_anew(world: World, campaign: str) -> None:
    body = {"fileKey": world.put(campaign, csv_of(make_codes(30)))}
    key = new_key()
    first = keyed(world.service, key, campaign, "codes", body)
    abandon(world, key, str(uuid.uuid4()))
    again = keyed(world.service, key, campaign, "codes", body)
    assert again.json()["count"] == {"in": 30, "inserted": 0, "updated": 30}
    assert again.header("Location") != first.header("Location")


def test_a_key_is_forgotten_and_another_process_knows_it(
    hosting: Hosting, api_settings: dict[str, str | None], new_database: Callable[[str], str], campaign: str
) -> None:
    settings = api_settings | {"CODESVC_IDEMPOTENCY_TTL": "3", "CODESVC_MAX_RESERVE": "100000"}
    database = new_database("keys")
    key = new_key()
    with hosting(settings, database) as world:
        world.stock(campaign, make_codes(20))
        began = time.monotonic()
        first = reserve(world.service, key, campaign)
    with hosting(settings, database) as world:
        again = reserve(world.service, key, campaign)
        if time.monotonic() - began < 3:
            assert_again(again, first)
        eventually(lambda: reserve(world.service, key, campaign).body != first.body, limit=20)
        assert world.service.count(campaign)["reserved"] == 10
        (document,) = world.database["idempotency_keys"].find({"_id.key": key})
        assert document["expireAt"] is not None


def test_a_reply_of_ten_thousand_codes(world: World, second_service: Service, campaign: str) -> None:
    world.stock(campaign, make_codes(10_000))
    key = new_key()
    first = reserve(world.service, key, campaign, 10_000)
    assert first.json()["count"] == 10_000
    assert_again(reserve(second_service, key, campaign, 10_000), first)
    assert world.service.count(campaign) == {"available": 0, "reserved": 10_000, "assigned": 0}


def test_a_reply_in_pieces(
    hosting: Hosting, api_settings: dict[str, str | None], new_database: Callable[[str], str], campaign: str
) -> None:
    """Codes of 256 random characters are too long, however well they are packed, for one document to hold them."""
    count = 25_000
    stored = [CODE_MARK + base64.b85encode(random.randbytes(201)).decode() for _ in range(count)]
    with hosting(api_settings | {"CODESVC_MAX_RESERVE": str(count)}, new_database("large")) as world:
        assert_counts(world.upload(campaign, csv_of(quoted(stored))), count, count, 0)
        key = new_key()
        first = reserve(world.service, key, campaign, count)
        assert first.status == 200
        assert_again(reserve(world.service, key, campaign, count), first)
        assert world.service.count(campaign) == {"available": 0, "reserved": count, "assigned": 0}
        pieces = [one["data"] for one in world.database["idempotency_keys"].find({"data": {"$exists": True}})]
        assert len(pieces) == 2
        assert sum(map(len, pieces)) > 4 << 20


def quoted(codes: list[str]) -> list[str]:
    return ['"' + code.replace('"', '""') + '"' for code in codes]

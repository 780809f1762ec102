"""DELETE of an upload that has ended: what it inserted and is still available goes, and nothing else."""

import contextlib
import signal
import threading
from datetime import timedelta
from http.client import HTTPException
from typing import Any

import pytest

from .harness import (
    RFC3339_MILLISECONDS,
    Document,
    Service,
    assert_counts,
    assert_problem,
    csv_of,
    eventually,
    in_parallel,
    make_codes,
)
from .proxy import Proxy
from .world import Hosting, World


def uploaded(world: World, campaign: str, content: bytes, **options: Any) -> str:
    """Upload a file; return the address of the upload."""
    reply = world.upload(campaign, content, **options)
    address = reply.header("Location")
    assert address is not None, reply
    return address


def delete(service: Service, address: str, query: str = "") -> Document:
    """Delete an upload until that is done; return it."""
    for _ in range(20):
        reply = service.request("DELETE", address + query)
        assert reply.status in {200, 202}, reply
        upload: Document = reply.json()
        if reply.status == 200:
            return upload
    raise AssertionError("it is not done after several tries")


def test_what_it_inserted_and_is_still_available_goes(
    world: World, second_service: Service, campaign: str
) -> None:
    before, new = make_codes(20), make_codes(200)
    world.stock(campaign, before)
    address = uploaded(world, campaign, csv_of([*before, *new]))
    later = make_codes(10)
    world.stock(campaign, [*later, *new[:5]][:10])
    service = world.service
    assigned = new[:30]
    assert service.change(campaign, "assign", assigned)["updated"] == 30
    held = {each["code"] for each in service.reserve(campaign, 40)["codes"]}
    kept = {*before, *later, *assigned, *(held & set(new))}

    assert service.get(address).json().get("takenBack") is None
    upload = delete(second_service, address)
    taken = upload["takenBack"]
    assert world.stored(campaign) == kept
    assert RFC3339_MILLISECONDS.fullmatch(taken.pop("at"))
    assert taken == {"count": len(set(new) - kept), "done": True}
    assert upload["state"] == "succeeded"
    assert upload["count"] == {"in": 220, "inserted": 200, "updated": 20}
    counts = service.count(campaign)
    assert counts == {
        "available": len(kept) - 30 - len(held),
        "reserved": len(held),
        "assigned": 30,
    }

    # Again: nothing has become available since, so the total is the same; then it has.
    assert delete(service, address)["takenBack"]["count"] == taken["count"]
    service.change(campaign, "release", sorted(held))
    total = delete(service, address)["takenBack"]["count"]
    assert total == taken["count"] + len(held & set(new))
    assert world.stored(campaign) == {*before, *later, *assigned}
    look: Document = second_service.get(address).json()
    assert look["takenBack"]["count"] == total


def test_codes_that_are_gone_can_be_uploaded_again(world: World, campaign: str) -> None:
    codes = make_codes(50)
    first = uploaded(world, campaign, csv_of(codes))
    assert delete(world.service, first)["takenBack"]["count"] == 50
    assert world.service.count(campaign) == {"available": 0, "reserved": 0, "assigned": 0}
    reply = world.upload(campaign, csv_of(codes))
    assert_counts(reply, 50, 50, 0)
    # They are the second one's now.
    assert delete(world.service, first)["takenBack"]["count"] == 50
    assert len(world.stored(campaign)) == 50


def test_of_a_failed_upload_what_it_stored_goes(world: World, campaign: str) -> None:
    codes = make_codes(30)
    key = world.put(campaign, csv_of(codes) + b"\x01\n")
    assert world.service.upload(key, strict=True).status == 422
    (upload,) = world.service.get(f"/v1/{campaign}/uploads").json()["uploads"]
    assert upload["state"] == "failed"
    address = f"/v1/{campaign}/uploads/{upload['uploadId']}"
    stored = len(world.stored(campaign))
    assert delete(world.service, address)["takenBack"]["count"] == stored == upload["count"]["inserted"]
    assert world.stored(campaign) == set()


def test_a_cancel_that_is_sent_twice_takes_nothing_back(world: World, campaign: str) -> None:
    address = uploaded(world, campaign, csv_of(make_codes(10)))
    uploads = world.database["uploads"]
    one = {"_id": address.rpartition("/")[2]}
    uploads.update_one(one, {"$set": {"state": "cancelled"}})
    assert delete(world.service, address).get("takenBack") is None
    assert delete(world.service, address, "?takeBack=false").get("takenBack") is None
    assert len(world.stored(campaign)) == 10
    assert delete(world.service, address, "?takeBack=true")["takenBack"]["count"] == 10
    again = uploaded(world, campaign, csv_of(make_codes(10)))
    found = uploads.find_one({"_id": again.rpartition("/")[2]})
    assert found is not None
    change = {"state": "cancelled", "finishedAt": found["finishedAt"] - timedelta(seconds=61)}
    uploads.update_one({"_id": found["_id"]}, {"$set": change})
    assert delete(world.service, again)["takenBack"]["count"] == 10


def test_who_only_wants_to_cancel_takes_nothing_back(world: World, campaign: str) -> None:
    address = uploaded(world, campaign, csv_of(make_codes(10)))
    assert delete(world.service, address, "?takeBack=false").get("takenBack") is None
    assert len(world.stored(campaign)) == 10


@pytest.mark.parametrize("query", ["takeBack=x", "takeBack=", "takeBack=true&takeBack=true"])
def test_refusals(world: World, campaign: str, query: str) -> None:
    address = uploaded(world, campaign, csv_of(make_codes(1)))
    assert_problem(world.service.request("DELETE", f"{address}?{query}"), 400, "invalidTakeBack")
    assert_problem(world.service.request("DELETE", f"{address[:-1]}g"), 404, "notFound")


def test_from_two_processes_while_codes_are_lent_and_uploaded(
    world: World, second_service: Service, campaign: str
) -> None:
    """Whoever comes first has a code: no caller loses one that it was told, and none is counted twice."""
    codes = make_codes(6_000)
    address = uploaded(world, campaign, csv_of(codes))
    fresh = make_codes(500)
    key = world.put(campaign, csv_of([*codes[:3_000], *fresh]))
    services = (world.service, second_service)
    lent: list[str] = []

    def lend(service: Service) -> None:
        for _ in range(15):
            lent.extend(each["code"] for each in service.reserve(campaign, 20)["codes"])

    upload, _, _, again, taken = in_parallel(
        [
            lambda: world.service.upload(key),
            *(lambda service=service: lend(service) for service in services),
            *(lambda service=service: delete(service, address)["takenBack"] for service in services),
        ],
        workers=5,
    )
    assert upload.status == 200
    counts = upload.json()["count"]
    assert counts["in"] == counts["inserted"] + counts["updated"] == 3_500
    # What both were told may have been said before the end; the record has it all.
    total = delete(world.service, address)["takenBack"]["count"]
    assert total >= max(again["count"], taken["count"])
    documents = world.documents(campaign)
    assert len(lent) == len(set(lent))
    assert set(lent) <= set(documents)
    saved = {each["date"]["saved"] for each in documents.values()}
    assert len(saved) <= 2
    assert len(documents) == 6_000 + counts["inserted"] - total
    assert set(fresh) <= set(documents)
    counted = world.service.count(campaign)
    assert counted == {"available": len(documents) - len(lent), "reserved": len(lent), "assigned": 0}


def test_a_process_that_is_killed_in_the_middle(
    hosting: Hosting,
    fragile_settings: dict[str, str | None],
    world: World,
    main_database: str,
    mongo_proxy: Proxy,
    campaign: str,
) -> None:
    codes = make_codes(9_000)
    address = uploaded(world, campaign, csv_of(codes))
    record = {"_id": address.rpartition("/")[2]}
    with hosting(fragile_settings, main_database) as mortal:
        threading.Thread(target=_try_to_delete, args=(mortal.service, address)).start()
        eventually(lambda: _taken(world, record) > 0, limit=20, every=0.001)
        mortal.service.signal(signal.SIGKILL)
        mortal.service.wait(limit=10)
    left = len(world.stored(campaign))
    assert _taken(world, record) == 9_000 - left
    assert delete(world.service, address)["takenBack"]["count"] == 9_000
    assert world.stored(campaign) == set()


def _try_to_delete(service: Service, address: str) -> None:
    with contextlib.suppress(OSError, HTTPException):
        service.request("DELETE", address)


def _taken(world: World, record: Document) -> int:
    found = world.database["uploads"].find_one(record)
    assert found is not None
    return int(found.get("takenBack", {}).get("count", 0))

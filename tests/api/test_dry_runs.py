"""Dry runs: what an upload would come to, told by a service that writes nothing."""

import gzip
import random
from functools import partial
from typing import Any

import pytest

from .harness import (
    CODE_MARK,
    Document,
    Reply,
    Service,
    assert_problem,
    csv_of,
    eventually,
    in_parallel,
    make_codes,
    new_campaign,
)
from .proxy import Proxy
from .world import World

ASYNC = {"Prefer": "respond-async"}


@pytest.fixture(params=["world", "tiny"])
def either(request: pytest.FixtureRequest) -> World:
    """The service as it comes, and one that reads parts of 100 bytes and writes batches of 3 codes."""
    found: World = request.getfixturevalue(request.param)
    return found


def state(world: World, campaign: str) -> Any:
    """Return all that a dry run must leave as it is."""
    counts = {name: world.service.count(campaign, name) for name in ("tm", "external")}
    return world.documents(campaign), counts


def dry_run(world: World, campaign: str, content: bytes, name: str = "x.csv", **options: Any) -> Reply:
    return world.service.upload(world.put(campaign, content, name=name), dryRun=True, **options)


def found(count_in: int, inserted: int) -> Document:
    return {"count": {"in": count_in, "inserted": inserted, "updated": count_in - inserted}, "dryRun": True}


def test_what_would_be_is_what_then_is(either: World, campaign: str) -> None:
    """New and known codes, of either type, held and assigned; some twice, close together and far apart."""
    known, new = make_codes(60), make_codes(60)
    either.stock(campaign, known[:30])
    either.stock(campaign, known[30:], code_type="external")
    either.service.reserve(campaign, 5)
    either.service.change(campaign, "assign", known[7:11])
    rows = [*known, *new, *new[:20], *known[:20], *new[:5]]
    random.Random(3).shuffle(rows)
    content = csv_of(rows)
    before = state(either, campaign)
    reply = dry_run(either, campaign, content)
    assert reply.status == 200
    assert reply.json() == found(165, 60)
    assert state(either, campaign) == before
    real = either.upload(campaign, content).json()
    assert real == {"count": reply.json()["count"]}
    assert dry_run(either, campaign, content).json() == found(165, 0)


def test_nothing_is_written_of_a_campaign_that_there_is_not(either: World, campaign: str) -> None:
    codes = make_codes(40)
    assert dry_run(either, campaign, csv_of(codes)).json() == found(40, 40)
    assert not either.documents(campaign)
    assert either.database["campaigns"].find_one({"_id": campaign}) is None


def test_nothing_in_it(world: World, campaign: str) -> None:
    assert dry_run(world, campaign, b"\n\n").json() == found(0, 0)


def test_one_code_many_times(either: World, campaign: str) -> None:
    assert dry_run(either, campaign, csv_of(make_codes(1) * 500)).json() == found(500, 1)


def test_a_compressed_file(either: World, campaign: str) -> None:
    codes = make_codes(50)
    packed = gzip.compress(csv_of(codes))
    assert dry_run(either, campaign, packed, "x.csv.gz").json() == found(50, 50)
    problem = assert_problem(dry_run(either, campaign, packed[:-9], "x.csv.gz"), 422, "corruptFile")
    assert problem["count"]["inserted"] == problem["line"] - 1
    assert not either.stored(campaign)


def test_invalid_rows(either: World, campaign: str) -> None:
    content = f'code\n{CODE_MARK}a\n"{CODE_MARK}"x\n{CODE_MARK}a\n{CODE_MARK}\x01\n'.encode()
    expected = either.upload(new_campaign(), content, header=True).json()
    reply = dry_run(either, campaign, content, header=True)
    assert reply.json() == expected | {"dryRun": True}
    assert reply.json()["invalid"]["count"] == 2
    where = reply.header("Location")
    assert where is not None
    assert either.service.get(f"{where}/invalid").body == (
        b"line,reason\r\n3,text follows a closing quote\r\n5,the code holds a control character\r\n"
    )
    assert not either.stored(campaign)


@pytest.mark.parametrize(
    ("bad", "options", "code"),
    [("\x01", {"strict": True}, "invalidRow"), ('"' + "x" * (5 << 20), {}, "notCsv")],
)
def test_how_it_would_be_rejected(
    either: World, campaign: str, bad: str, options: dict[str, Any], code: str
) -> None:
    codes = make_codes(30)
    either.stock(campaign, codes[:10])
    content = csv_of([*codes, *codes[5:25], bad, *make_codes(5)])
    problem = assert_problem(dry_run(either, campaign, content, **options), 422, code)
    assert problem["line"] == 51
    assert problem["count"] == {"in": 50, "inserted": 20, "updated": 30}
    real = assert_problem(either.upload(campaign, content, **options), 422, code)
    assert {name: real[name] for name in ("line", "count", "detail")} == {
        name: problem[name] for name in ("line", "count", "detail")
    }


def test_a_file_that_is_not_there(world: World, campaign: str) -> None:
    reply = world.service.upload(f"codes/{campaign}/tm/none.csv", dryRun=True)
    assert_problem(reply, 404, "fileNotFound")


def begun(service: Service, key: str) -> str:
    reply = service.post(f"/v1/{key.split('/')[1]}/codes", {"fileKey": key, "dryRun": True}, headers=ASYNC)
    assert reply.status == 202
    assert reply.json()["dryRun"] is True
    where = reply.header("Location")
    assert where is not None
    return where


def ended(service: Service, where: str) -> Document:
    def end() -> Document | None:
        resource: Document = service.get(where).json()
        return None if resource["state"] in {"queued", "running"} else resource

    resource: Document = eventually(end, limit=30)
    return resource


def test_as_a_resource(world: World, second_service: Service, campaign: str) -> None:
    codes = make_codes(2_000)
    key = world.put(campaign, csv_of([*codes, *codes[:7], "\x01"]))
    where = begun(world.service, key)
    resource = ended(second_service, where)
    assert resource == world.service.get(where).json()
    assert (resource["state"], resource["dryRun"]) == ("succeeded", True)
    assert resource["count"] == {"in": 2_007, "inserted": 2_000, "updated": 7}
    assert resource["invalid"]["count"] == 1
    assert resource["bytes"]["done"] == resource["bytes"]["total"] > 0
    listed = world.service.get(f"/v1/{campaign}/uploads").json()["uploads"]
    assert listed == [resource]
    events = world.service.get(f"{where}/events").body
    assert events.count(b"event: end") == 1
    assert b'"dryRun":true' in events
    assert not world.stored(campaign)
    world.service.upload(key)
    assert ["dryRun" in one for one in world.service.get(f"/v1/{campaign}/uploads").json()["uploads"]] == [
        False,
        True,
    ]


def test_to_end_one_that_has_ended_takes_nothing_back(world: World, campaign: str) -> None:
    codes = make_codes(20)
    key = world.put(campaign, csv_of(codes))
    where = begun(world.service, key)
    ended(world.service, where)
    world.service.upload(key)
    reply = world.service.request("DELETE", where)
    assert reply.status == 200
    assert reply.json()["count"] == {"in": 20, "inserted": 20, "updated": 0}
    assert world.stored(campaign) == set(codes)


def test_many_at_once(world: World, campaign: str) -> None:
    codes = make_codes(400)
    world.stock(campaign, codes[:100])
    keys = [world.put(campaign, csv_of([*codes, *codes[: 10 * n]])) for n in range(8)]
    replies = in_parallel([partial(world.service.upload, key, dryRun=True) for key in keys])
    assert [reply.json() for reply in replies] == [found(400 + 10 * n, 300) for n in range(8)]


def test_an_unreachable_database(fragile: World, mongo_proxy: Proxy, campaign: str) -> None:
    key = fragile.put(campaign, csv_of(make_codes(30)))
    mongo_proxy.stop()
    try:
        assert_problem(fragile.service.upload(key, dryRun=True), 503, "databaseUnavailable")
    finally:
        mongo_proxy.start()
    fragile.service.wait_until_ready()
    assert fragile.service.upload(key, dryRun=True).json() == found(30, 30)


def test_metrics_count_no_codes_of_it(tiny: World, campaign: str) -> None:
    def codes() -> set[str]:
        text = tiny.service.get("/metrics", auth=None).body.decode()
        return {line for line in text.splitlines() if line.startswith("upload_codes_total{")}

    before = codes()
    assert dry_run(tiny, campaign, csv_of([*make_codes(9), "\x01"])).status == 200
    assert codes() == before

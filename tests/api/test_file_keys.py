"""What a fileKey may be, and what becomes of a file that is not there or not the same any more."""

import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .harness import (
    SECRET,
    Service,
    assert_counts,
    assert_problem,
    csv_of,
    in_parallel,
    make_codes,
    new_campaign,
    running,
)
from .proxy import Proxy
from .world import World


@pytest.mark.parametrize(
    "name",
    [
        "batch-001.csv",
        "x",
        "2026/11/batch.csv",
        "a/b/c/d/e",
        "with space.csv",
        "plus+sign.csv",
        "per%20cent.csv",
        "%2e%2e",
        "a.b.c",
        "question?.csv",
        "hash#1.csv",
        "a&b=c;d.csv",
        "quote'\"().csv",
        "\u00fcml\u00e4ut.csv",
        "\u6587\u4ef6.csv",
        "\U0001f600.csv",
        "dots.in.name.",
        ".hidden",
        "trailing/",
        "back\\slash",
        "tm",
        "codes/1/tm/x.csv",
        "n" * 255,
    ],
)
def test_names_that_are_fine(world: World, name: str) -> None:
    campaign = new_campaign()
    codes = make_codes(2)
    key = world.put(campaign, csv_of(codes), name=name)
    assert_counts(world.service.upload(key), 2, 2, 0)
    assert world.stored(campaign) == set(codes)


@pytest.mark.parametrize(
    "key",
    [
        "",
        "codes",
        "codes/",
        "codes/{c}",
        "codes/{c}/tm",
        "codes/{c}/tm/",
        "/codes/{c}/tm/x.csv",
        "codes//{c}/tm/x.csv",
        "codes//tm/x.csv",
        "Codes/{c}/tm/x.csv",
        "code/{c}/tm/x.csv",
        " codes/{c}/tm/x.csv",
        "s3://bucket/codes/{c}/tm/x.csv",
        "x.csv",
        "{c}/tm/x.csv",
        "other/codes/{c}/tm/x.csv",
        "codes/{c}/tm/../x.csv",
        "codes/{c}/tm/..",
        "codes/{c}/tm/a/../../x.csv",
        "codes/{c}/tm/a/..",
        "codes\\{c}\\tm\\x.csv",
        "codes/{c} /tm/x.csv",
        "codes/\u00e9/tm/x.csv",
        "codes/" + "c" * 129 + "/tm/x.csv",
    ],
)
def test_keys_that_are_not(world: World, campaign: str, key: str) -> None:
    key = key.format(c=campaign)
    reply = world.service.post(f"/v1/{campaign}/codes", {"fileKey": key})
    assert_problem(reply, 400, "invalidFileKey")


@pytest.mark.parametrize("kind", ["TM", "ext", "internal", "tm ", "", "externals"])
def test_types_that_are_none(world: World, campaign: str, kind: str) -> None:
    """The contract has two codes for it: the key does not match, and its type is none."""
    reply = world.service.post(f"/v1/{campaign}/codes", {"fileKey": f"codes/{campaign}/{kind}/x.csv"})
    assert_problem(reply, 400, {"invalidFileKey", "invalidType"})


@pytest.mark.parametrize("key", [None, 5, 1.5, True, [], {}, ["codes/{c}/tm/x.csv"], {"key": "x"}])
def test_keys_that_are_no_strings(world: World, campaign: str, key: Any) -> None:
    reply = world.service.post(f"/v1/{campaign}/codes", {"fileKey": key})
    assert_problem(reply, 400, "invalidFileKey")


def test_no_key_at_all(world: World, campaign: str) -> None:
    reply = world.service.post(f"/v1/{campaign}/codes", {})
    assert_problem(reply, 400, "invalidFileKey")


@pytest.mark.parametrize(
    "name", ["\ud800.csv", "nul\x00.csv", "line\nbreak.csv", "n" * 1100, "\u6587" * 400, "bell\x07"]
)
def test_names_that_no_store_would_have(world: World, campaign: str, name: str) -> None:
    """Refused, or looked for in vain: never an internal error, never a fault of the store."""
    reply = world.service.post(f"/v1/{campaign}/codes", {"fileKey": f"codes/{campaign}/tm/{name}"})
    assert reply.status in {400, 404}, reply
    assert_problem(reply, reply.status, {"invalidFileKey", "invalidJson", "fileNotFound"})


def test_another_campaigns_file(world: World) -> None:
    mine, other = new_campaign(), new_campaign()
    key = world.put(other, csv_of(make_codes(2)))
    reply = world.service.post(f"/v1/{mine}/codes", {"fileKey": key})
    assert_problem(reply, 400, "campaignMismatch")
    assert not world.stored(mine)
    assert not world.stored(other)


def test_campaigns_differ_by_case(world: World, campaign: str) -> None:
    reply = world.service.post(f"/v1/{campaign}/codes", {"fileKey": f"codes/{campaign.upper()}/tm/x.csv"})
    assert_problem(reply, 400, "campaignMismatch")


def test_a_campaign_in_another_spelling_is_the_same(world: World) -> None:
    """%7E is ~ (RFC 3986, section 2.3)."""
    campaign = new_campaign() + "~x"
    key = world.put(campaign, csv_of(make_codes(2)))
    reply = world.service.post(f"/v1/{campaign.replace('~', '%7E')}/codes", {"fileKey": key})
    assert_counts(reply, 2, 2, 0)


def test_no_such_file(world: World, campaign: str) -> None:
    reply = world.service.upload(f"codes/{campaign}/tm/none.csv")
    assert_problem(reply, 404, "fileNotFound")


def test_a_folder_is_no_file(world: World, campaign: str) -> None:
    world.put(campaign, b"x", name="folder/x.csv")
    assert_problem(world.service.upload(f"codes/{campaign}/tm/folder"), 404, "fileNotFound")


def test_no_such_bucket(
    api_settings: dict[str, str | None], logs: Path, campaign: str, new_database: Callable[[str], str]
) -> None:
    settings = api_settings | {
        "CODESVC_S3_BUCKET": f"none-{uuid.uuid4().hex}",
        "CODESVC_MONGO_DATABASE": new_database("no-bucket"),
        "CODESVC_JWT_SECRET": SECRET,
    }
    with running(Service(logs / "no-bucket.log", **settings)) as service:
        reply = service.upload(f"codes/{campaign}/tm/x.csv")
        assert_problem(reply, 503, "storageUnavailable")


# The files below are of about 1 MB, which the service behind the proxies reads in parts of 64 KiB.


def big_file(campaign: str) -> tuple[list[str], bytes]:
    codes = make_codes(20_000)
    return codes, csv_of(f"{code},{'.' * 25}" for code in codes)


def test_a_file_that_is_replaced_while_it_is_read(fragile: World, s3_proxy: Proxy, campaign: str) -> None:
    codes, content = big_file(campaign)
    key = fragile.put(campaign, content)
    stalled = s3_proxy.stall_after(300_000)

    def replace() -> None:
        assert stalled.wait(30)
        fragile.s3.put_object(Bucket=fragile.bucket, Key=key, Body=content.replace(b".", b"!"))
        s3_proxy.resume()

    reply, _ = in_parallel([lambda: fragile.service.upload(key), replace])
    assert_problem(reply, 409, "fileChanged")
    stored = fragile.stored(campaign)
    assert stored < set(codes), "what was stored must be of the first version, and not all of it"
    assert_counts(fragile.service.upload(key), 20_000, 20_000 - len(stored), len(stored))
    assert fragile.stored(campaign) == set(codes)


def test_a_file_that_is_replaced_by_its_equal(fragile: World, s3_proxy: Proxy, campaign: str) -> None:
    """The same bytes have the same ETag: nothing changed."""
    codes, content = big_file(campaign)
    key = fragile.put(campaign, content)
    stalled = s3_proxy.stall_after(300_000)

    def replace() -> None:
        assert stalled.wait(30)
        fragile.s3.put_object(Bucket=fragile.bucket, Key=key, Body=content)
        s3_proxy.resume()

    reply, _ = in_parallel([lambda: fragile.service.upload(key), replace])
    assert_counts(reply, 20_000, 20_000, 0)
    assert fragile.stored(campaign) == set(codes)


def test_a_file_that_is_deleted_while_it_is_read(fragile: World, s3_proxy: Proxy, campaign: str) -> None:
    codes, content = big_file(campaign)
    key = fragile.put(campaign, content)
    stalled = s3_proxy.stall_after(300_000)

    def delete() -> None:
        assert stalled.wait(30)
        fragile.s3.delete_object(Bucket=fragile.bucket, Key=key)
        s3_proxy.resume()

    reply, _ = in_parallel([lambda: fragile.service.upload(key), delete])
    assert reply.status in {404, 409}, reply
    assert_problem(reply, reply.status, {"fileNotFound", "fileChanged"})
    assert fragile.stored(campaign) < set(codes)


def test_connections_to_the_store_that_break_are_made_again(
    fragile: World, s3_proxy: Proxy, campaign: str
) -> None:
    codes, content = big_file(campaign)
    key = fragile.put(campaign, content)
    stalled = s3_proxy.stall_after(300_000)

    def cut() -> None:
        assert stalled.wait(30)
        s3_proxy.cut()
        s3_proxy.resume()

    reply, _ = in_parallel([lambda: fragile.service.upload(key), cut])
    assert_counts(reply, 20_000, 20_000, 0)
    assert fragile.stored(campaign) == set(codes)


def test_a_store_that_refuses_connections(fragile: World, s3_proxy: Proxy, campaign: str) -> None:
    codes = make_codes(3)
    key = fragile.put(campaign, csv_of(codes))
    s3_proxy.stop()
    try:
        assert_problem(fragile.service.upload(key), 503, "storageUnavailable")
        assert fragile.service.get("/readyz", auth=None).status == 200
        assert fragile.service.count(campaign)["available"] == 0
    finally:
        s3_proxy.start()
    assert_counts(fragile.service.upload(key), 3, 3, 0)


def test_a_store_that_goes_away_in_the_middle(fragile: World, s3_proxy: Proxy, campaign: str) -> None:
    codes, content = big_file(campaign)
    key = fragile.put(campaign, content)
    stalled = s3_proxy.stall_after(300_000)

    def stop() -> None:
        assert stalled.wait(30)
        s3_proxy.stop()

    try:
        reply, _ = in_parallel([lambda: fragile.service.upload(key), stop])
    finally:
        s3_proxy.start()
        s3_proxy.resume()
    assert_problem(reply, 503, "storageUnavailable")
    stored = fragile.stored(campaign)
    assert stored < set(codes)
    assert_counts(fragile.service.upload(key), 20_000, 20_000 - len(stored), len(stored))

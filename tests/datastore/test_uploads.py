"""One contract for every way of writing an upload: both strategies, both drivers, encoded or plain documents."""

import asyncio
import random
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

import codesvc.datastore.codes
from codesvc.models import CodeType, UploadCounts

from .rig import CAMPAIGN, START, Documents, Rig, Rigs, csv, document, numbered, stored

WAYS = [
    pytest.param(("pymongo", "insert-first", True), id="insert-first-pymongo"),
    pytest.param(("motor", "insert-first", True), id="insert-first-motor"),
    pytest.param(("pymongo", "insert-first", False), id="insert-first-plain-documents-pymongo"),
    pytest.param(("pymongo", "upsert", True), id="upsert-pymongo"),
    pytest.param(("motor", "upsert", True), id="upsert-motor"),
]

Open = Callable[[], Any]


@pytest.fixture(params=WAYS)
def open_rig(request: pytest.FixtureRequest, rigs: Rigs, monkeypatch: pytest.MonkeyPatch) -> Open:
    """Open a rig that writes in one of the ways; small batches, several in flight."""
    driver, strategy, raw = request.param
    if not raw:
        monkeypatch.setattr(codesvc.datastore.codes, "raw_encoding_works", lambda: False)

    async def open_() -> Rig:
        rig = await rigs(
            mongo_driver=driver,
            write_strategy=strategy,
            batch_size=100,
            sort_codes=100,
            write_concurrency=4,
        )
        assert rig.store.raw_encoding is raw
        return rig

    return open_


async def test_new_codes_are_inserted(open_rig: Open, documents: Documents) -> None:
    rig = await open_rig()
    codes = numbered(1_050)
    assert await rig.upload(codes) == UploadCounts(inserted=1_050, updated=0)
    assert sorted(stored(documents)) == codes


async def test_known_codes_are_updated(open_rig: Open, documents: Documents) -> None:
    rig = await open_rig()
    codes = numbered(1_050)
    await rig.upload(codes)
    assert await rig.upload(codes) == UploadCounts(inserted=0, updated=1_050)
    assert await rig.upload(codes, code_type=CodeType.EXTERNAL) == UploadCounts(inserted=0, updated=1_050)
    assert documents.count_documents({}) == 1_050


@pytest.mark.parametrize("known", [0.01, 0.3, 0.5, 0.99])
async def test_a_mix_of_new_and_known(open_rig: Open, documents: Documents, known: float) -> None:
    rig = await open_rig()
    codes = numbered(2_000)
    draw = random.Random(1)
    old = draw.sample(codes, round(known * len(codes)))
    await rig.upload(old)
    assert await rig.upload(codes) == UploadCounts(inserted=len(codes) - len(old), updated=len(old))
    assert sorted(stored(documents)) == codes


async def test_known_codes_first_and_new_ones_after_them(open_rig: Open, documents: Documents) -> None:
    # Whatever a strategy concludes from the first batches must not change the counts of the later ones.
    rig = await open_rig()
    known, new = numbered(1_000), numbered(1_000, start=1_000)
    await rig.upload(known)
    assert await rig.upload(known + new + known) == UploadCounts(inserted=1_000, updated=2_000)
    assert documents.count_documents({}) == 2_000


async def test_a_code_twice_in_a_batch_is_an_insert_and_an_update(
    open_rig: Open, documents: Documents
) -> None:
    rig = await open_rig()
    assert await rig.upload(["A", "B", "A", "C", "A"]) == UploadCounts(inserted=3, updated=2)
    assert await rig.upload(["A", "A", "D", "D"]) == UploadCounts(inserted=1, updated=3)
    assert sorted(stored(documents)) == ["A", "B", "C", "D"]


async def test_one_code_over_and_over(open_rig: Open, documents: Documents) -> None:
    rig = await open_rig()
    assert await rig.upload(["A"] * 1_000) == UploadCounts(inserted=1, updated=999)
    assert list(stored(documents)) == ["A"]


async def test_a_code_in_several_batches_in_flight(open_rig: Open, documents: Documents) -> None:
    rig = await open_rig()
    codes = numbered(100)
    assert await rig.upload(codes * 12) == UploadCounts(inserted=100, updated=1_100)
    shuffled = codes * 5 + numbered(300, start=50)
    random.Random(2).shuffle(shuffled)
    assert await rig.upload(shuffled) == UploadCounts(inserted=250, updated=550)
    assert documents.count_documents({}) == 350


async def test_two_uploads_of_the_same_file_at_once(open_rig: Open, documents: Documents) -> None:
    rig, other = await open_rig(), await open_rig()
    codes = numbered(3_000)
    first, second = await asyncio.gather(rig.upload(codes), other.upload(codes))
    assert first.total == second.total == 3_000
    assert first.inserted + second.inserted == 3_000
    assert documents.count_documents({}) == 3_000


async def test_four_overlapping_uploads_at_once(open_rig: Open, documents: Documents) -> None:
    rig = await open_rig()
    files = [numbered(1_000, start=start) for start in (0, 250, 500, 750)]
    for number, file in enumerate(files):
        random.Random(number).shuffle(file)
    files[3] += files[3][:100]
    counts = await asyncio.gather(*(rig.upload(file) for file in files))
    assert [one.total for one in counts] == [1_000, 1_000, 1_000, 1_100]
    assert sum(one.inserted for one in counts) == 1_750
    assert documents.count_documents({}) == 1_750


async def test_the_same_code_in_two_campaigns_is_two_codes(open_rig: Open, documents: Documents) -> None:
    rig = await open_rig()
    for campaign_id in ("1", "12", "12."):
        assert await rig.upload(["A", "B"], campaign_id=campaign_id) == UploadCounts(inserted=2)
    assert documents.count_documents({}) == 6


async def test_the_type_becomes_the_files(open_rig: Open, documents: Documents) -> None:
    rig = await open_rig()
    await rig.upload(["A", "B"])
    counts = await rig.upload(["B", "C"], code_type=CodeType.EXTERNAL)
    assert counts == UploadCounts(inserted=1, updated=1)
    types = {code: one["type"] for code, one in stored(documents).items()}
    assert types == {"A": "tm", "B": "external", "C": "external"}


async def test_an_update_leaves_the_life_cycle_alone(open_rig: Open, documents: Documents) -> None:
    rig = await open_rig()
    then = START - timedelta(hours=3)
    before = {
        "available": document("available", saved=then),
        "reserved": document("reserved", saved=then, reserved=then, reserve_id="r-1"),
        "expired": document("expired", saved=then, reserved=then - timedelta(days=9), reserve_id="r-2"),
        "assigned": document("assigned", saved=then, reserved=then, reserve_id="r-3", assigned=then),
        "given": document("given", saved=then, assigned=then),
    }
    documents.insert_many(before.values())
    codes = [*before, *before, "new"]
    assert await rig.upload(codes, code_type=CodeType.EXTERNAL) == UploadCounts(inserted=1, updated=10)
    after = stored(documents)
    assert after.pop("new")["date"] == {"saved": START}
    assert after == {code: one | {"type": "external"} for code, one in before.items()}


async def test_the_shape_of_a_document(open_rig: Open, documents: Documents) -> None:
    rig = await open_rig()
    await rig.upload(["A"])
    await rig.upload(["A", "B"], code_type=CodeType.EXTERNAL)
    for code, one in stored(documents).items():
        assert one == {
            "_id": {"campaign_id": CAMPAIGN, "code": code},
            "type": "external",
            "date": {"saved": START},
        }
        # MongoDB compares embedded documents field by field, in order: {code, campaign_id} would be another key.
        assert list(one["_id"]) == ["campaign_id", "code"]


async def test_all_that_one_upload_inserts_is_saved_at_one_instant(
    open_rig: Open, documents: Documents
) -> None:
    rig = await open_rig()
    await rig.upload(numbered(300))
    rig.clock.now += timedelta(seconds=1, milliseconds=1)
    await rig.upload(numbered(500))
    assert documents.count_documents({"date.saved": START}) == 300
    assert documents.count_documents({"date.saved": rig.clock.now}) == 200


async def test_codes_of_any_text(open_rig: Open, documents: Documents) -> None:
    rig = await open_rig()
    codes = [
        "a",
        "A",
        "é",
        "e\u0301",
        '"',
        '""',
        "a,b",
        "$set",
        "a.b",
        "\\",
        "\uffff",
        "😀",
        "\U0010ffff",
        "x" * 256,
    ]
    codes += ["中" * 85, "'", "{}", "null", "0", "00", "-1", "\u00a0", "\u200b"]
    assert await rig.upload(codes) == UploadCounts(inserted=len(codes))
    assert await rig.upload(codes) == UploadCounts(updated=len(codes))
    assert set(stored(documents)) == set(codes)


async def test_a_file_without_a_code(open_rig: Open, documents: Documents) -> None:
    rig = await open_rig()
    for data in (b"", b"\n", b"\xef\xbb\xbf\r\n", b' \n""\n\t,a\n'):
        assert await rig.upload(data) == UploadCounts()
    assert documents.count_documents({}) == 0


async def test_an_upload_makes_the_index_that_is_missing(open_rig: Open, documents: Documents) -> None:
    rig = await open_rig()
    documents.drop()
    await rig.upload(csv(["A"]))
    assert set(documents.index_information()) == {"_id_", "codes_by_status", "codes_by_reservation"}

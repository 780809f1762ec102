"""The looks that tell known codes from new ones before anything is written: what they cost, and that they are right."""

import asyncio
import random
from datetime import timedelta
from typing import Any

import pytest

from codesvc.datastore import looks
from codesvc.models import CodeType, UploadCounts

from .rig import CAMPAIGN, START, Commands, Documents, Rig, Rigs, document, numbered, stored

TYPES = [CodeType.TM, CodeType.EXTERNAL]


@pytest.fixture
def short_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a few hundred codes go through everything that millions go through."""
    monkeypatch.setattr(looks, "_FIRST_LOOK", 4)
    monkeypatch.setattr(looks, "_LOOK", 50)
    monkeypatch.setattr(looks, "_LOOK_FOR_EACH", 7)
    monkeypatch.setattr(looks, "MAX_FOUND", 20)


def by_name(commands: Commands, name: str) -> list[dict[str, Any]]:
    return [one for one in commands.sent if one.get(name) == "codes"]


@pytest.mark.usefixtures("short_looks")
@pytest.mark.parametrize("seed", range(60))
async def test_any_mix_is_counted_and_stored_as_one_by_one(
    rigs: Rigs, documents: Documents, seed: int
) -> None:
    chance = random.Random(seed)
    everything = [f"{number:03x}" + chance.choice(["", "é", "-long" * 20]) for number in range(1500)]
    present = chance.sample(everything, chance.choice([0, 3, 200, 1500]))
    one_type = chance.choice([True, False])
    state = {
        code: document(code, code_type=CodeType.TM if one_type else chance.choice(TYPES)) for code in present
    }
    # Others' documents, among them some that lie between the campaign's own.
    strangers: list[dict[str, Any]] = [
        {"_id": {"campaign_id": CAMPAIGN, "code": f"{number:03x}", "more": number}}
        for number in range(0, 1500, 90)
    ]
    strangers += [document(code, campaign_id=CAMPAIGN + "x") for code in everything[:50]]
    strangers += [{"_id": number} for number in range(5)]
    documents.insert_many(strangers + list(state.values()))
    rig = await rigs(
        mongo_driver="pymongo", batch_size=chance.choice([30, 500]), sort_codes=chance.choice([1, 900])
    )
    wanted = chance.choice([everything, present, [code for code in everything if code not in state]])
    for _ in range(2):
        codes = chance.choices(wanted, k=chance.choice([1, 40, 700])) if wanted else []
        new = set(codes) - set(state)
        code_type = chance.choice(TYPES)
        would_be = await rig.dry_run(codes, code_type=code_type)
        counts = await rig.upload(codes, code_type=code_type)
        assert counts == would_be == UploadCounts(inserted=len(new), updated=len(codes) - len(new))
        state |= {code: document(code, code_type=code_type) for code in new}
        for code in codes:
            state[code]["type"] = code_type.value
    assert stored(documents, **{"_id.campaign_id": CAMPAIGN, "_id.more": None}) == state
    assert documents.count_documents({}) == len(strangers) + len(state)


@pytest.fixture
async def watched(rigs: Rigs) -> tuple[Rig, Commands]:
    commands = Commands()
    return await rigs(mongo_driver="pymongo", listeners=[commands]), commands


async def test_new_codes_cost_one_look(watched: tuple[Rig, Commands]) -> None:
    rig, commands = watched
    await rig.upload(numbered(5_000))
    assert (len(by_name(commands, "find")), len(by_name(commands, "insert"))) == (1, 1)
    assert by_name(commands, "update") == []


async def test_known_codes_are_only_read(watched: tuple[Rig, Commands]) -> None:
    rig, commands = watched
    await rig.upload(numbered(5_000))
    commands.sent.clear()
    assert await rig.upload(numbered(5_000)) == UploadCounts(inserted=0, updated=5_000)
    assert by_name(commands, "insert") == by_name(commands, "update") == []
    assert len(by_name(commands, "find")) == 3
    assert all(one["readConcern"]["level"] == "majority" for one in by_name(commands, "find"))


async def test_a_few_known_codes_among_new_ones_are_found_by_their_insert(
    watched: tuple[Rig, Commands],
) -> None:
    rig, commands = watched
    codes = numbered(5_000)
    await rig.upload(codes[2_000:2_010])
    commands.sent.clear()
    assert await rig.upload(codes) == UploadCounts(inserted=4_990, updated=10)
    assert [len(by_name(commands, name)) for name in ("find", "insert", "update")] == [1, 1, 1]


async def test_codes_far_apart_are_asked_for_one_by_one(
    watched: tuple[Rig, Commands], documents: Documents
) -> None:
    rig, commands = watched
    documents.insert_many([document(code) for code in numbered(40_000)])
    few = numbered(40_000)[::50]
    commands.sent.clear()
    assert await rig.upload(few) == UploadCounts(inserted=0, updated=800)
    filters = [set(one["filter"]["_id"]) for one in by_name(commands, "find") if "_id" in one["filter"]]
    assert filters == [{"$gte", "$lte"}, {"$in"}]


@pytest.mark.parametrize("other", [0, 1])
async def test_no_look_reads_a_document_it_need_not(
    watched: tuple[Rig, Commands], documents: Documents, other: int
) -> None:
    rig, commands = watched
    await rig.upload(numbered(3_000))
    for number in range(other):
        documents.insert_one(document(f"other-{number}", code_type=CodeType.EXTERNAL))
    commands.sent.clear()
    assert await rig.upload(numbered(3_000)) == UploadCounts(inserted=0, updated=3_000)
    examined = {True: 0, False: 0}
    for one in by_name(commands, "find"):
        explained = {key: one[key] for key in ("find", "filter", "projection", "sort", "limit") if key in one}
        told = documents.database.command({"explain": explained, "verbosity": "executionStats"})
        examined["_id" in one["filter"] and "type" in one["projection"]] += told["executionStats"][
            "totalDocsExamined"
        ]
    assert examined[False] == 0
    # With a second type in the campaign, each known code's document is read once, for its type.
    assert examined[True] == 3_000 * other


async def test_codes_of_another_type_are_found_and_changed(
    watched: tuple[Rig, Commands], documents: Documents
) -> None:
    rig, commands = watched
    codes = numbered(3_000)
    await rig.upload(codes[:1_500])
    await rig.upload(codes[1_500:], code_type=CodeType.EXTERNAL)
    commands.sent.clear()
    assert await rig.upload(codes) == UploadCounts(inserted=0, updated=3_000)
    assert {one["type"] for one in stored(documents).values()} == {"tm"}
    assert len(by_name(commands, "update")) == 1
    commands.sent.clear()
    assert await rig.upload(codes) == UploadCounts(inserted=0, updated=3_000)
    assert by_name(commands, "update") == []


async def test_what_was_seen_keeps_its_life_cycle(rigs: Rigs, documents: Documents) -> None:
    rig = await rigs(mongo_driver="pymongo")
    codes = numbered(2_000)
    await rig.upload(codes)
    await rig.reserve(700)
    before = stored(documents)
    rig.clock.now = START + timedelta(hours=2)
    assert await rig.upload(codes) == UploadCounts(inserted=0, updated=2_000)
    assert stored(documents) == before


async def test_uploads_of_both_types_at_once_leave_one_of_them(rigs: Rigs, documents: Documents) -> None:
    rig = await rigs(mongo_driver="pymongo", batch_size=300, write_concurrency=3)
    codes = numbered(3_000)
    await rig.upload(codes)
    both = await asyncio.gather(*(rig.upload(codes, code_type=code_type) for code_type in TYPES * 2))
    assert both == [UploadCounts(inserted=0, updated=3_000)] * 4
    await rig.upload(codes, code_type=CodeType.EXTERNAL)
    assert {one["type"] for one in stored(documents).values()} == {"external"}
    assert len(stored(documents)) == 3_000


async def test_a_reply_that_is_full_before_its_limit(
    rigs: Rigs, documents: Documents, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others' documents of a huge _id: the server ends a reply at 16 MiB and keeps a cursor for the rest."""
    monkeypatch.setattr(looks, "_WORTH_A_LOOK", {True: 0.0, False: 0.0})
    commands = Commands()
    rig = await rigs(mongo_driver="pymongo", listeners=[commands])
    codes = numbered(100)
    await rig.upload(codes)
    # _id of an index key of any length is allowed since MongoDB 4.2.
    huge = "x" * 1_000_000
    documents.insert_many(
        {"_id": {"campaign_id": CAMPAIGN, "code": f"{codes[50]}-{number:02}", "more": huge}}
        for number in range(40)
    )
    commands.sent.clear()
    assert await rig.upload(codes) == UploadCounts(inserted=0, updated=100)
    assert len(by_name(commands, "killCursors")) >= 1
    assert by_name(commands, "insert") == by_name(commands, "update") == []


async def test_a_dry_run_sends_nothing_but_finds(watched: tuple[Rig, Commands], documents: Documents) -> None:
    rig, commands = watched
    await rig.upload(numbered(500))
    before = stored(documents)
    commands.sent.clear()
    assert await rig.dry_run(numbered(800), code_type=CodeType.EXTERNAL) == UploadCounts(300, 500)
    names = {next(iter(one)) for one in commands.sent}
    assert names == {"find"}
    # The index of _id alone tells: no document is read, nor what type it has.
    assert all(one["projection"] == {"_id": 1} for one in commands.sent)
    assert stored(documents) == before

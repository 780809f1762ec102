"""What a `find` has shown of a batch's codes: filters for it, its reply read against the batch."""

import random

import bson
import pytest
from support import CAMPAIGN_ID, batches, extractor

from codesvc._fastcsv import NOT_SEEN, SEEN, SEEN_OTHER_TYPE, Batch


def one_batch(*codes: str) -> Batch:
    (batch,) = batches(extractor(sort=10_000), "\n".join(codes).encode())
    return batch


def key(code: str, campaign: str = CAMPAIGN_ID) -> dict[str, str]:
    return {"campaign_id": campaign, "code": code}


def reply(*documents: object) -> bytes:
    return bson.encode({"cursor": {"id": 0, "ns": "x.codes", "firstBatch": list(documents)}, "ok": 1.0})


def test_the_filter_within() -> None:
    batch = one_batch("C", "AA", "B", "D" * 256)
    assert bson.decode(batch.within(1, 3)) == {"_id": {"$gte": key("B"), "$lte": key("C")}}
    assert bson.decode(batch.within(0, 4)) == {"_id": {"$gte": key("AA"), "$lte": key("D" * 256)}}
    assert list(bson.decode(batch.within(0, 1))["_id"]["$gte"]) == ["campaign_id", "code"]


def test_the_filter_among() -> None:
    codes = sorted(f"{number}" for number in range(1200))
    batch = one_batch(*codes)
    assert bson.decode(batch.among(0, 1200)) == {"_id": {"$in": [key(code) for code in codes]}}
    assert bson.decode(batch.among(7, 8)) == {"_id": {"$in": [key(codes[7])]}}
    # Array elements are named by their numbers, which a decoder does not show.
    array = bson.encode({str(i): key(code) for i, code in enumerate(codes)})
    assert array in batch.among(0, 1200)


@pytest.mark.parametrize(("start", "stop"), [(0, 0), (2, 2), (-1, 1), (0, 3), (1, 1), (2, 3)])
def test_filters_for_codes_that_are_not_there(start: int, stop: int) -> None:
    batch = one_batch("A", "B")
    for make in (batch.within, batch.among):
        with pytest.raises(IndexError):
            make(start, stop)


@pytest.mark.parametrize("seed", range(20))
def test_marks_are_what_a_set_would_tell(seed: int) -> None:
    chance = random.Random(seed)
    everything = [f"{number:x}" + "é" * chance.randrange(3) for number in range(1000)]
    codes = sorted(chance.sample(everything, 300), key=str.encode)
    stored = {code: chance.choice(["tm", "external"]) for code in chance.sample(everything, 300)}
    batch = one_batch(*codes)
    covered = seed % 2 == 0
    start, stop = (0, 300) if seed < 10 else (50, 250)
    found = sorted((c for c in stored if codes[start].encode() <= c.encode()), key=str.encode)
    marks = bytearray(300)
    documents = [
        {"_id": key(code)} if covered else {"_id": key(code), "type": stored[code]} for code in found
    ]
    shown, position, _cursor = batch.mark(reply(*documents), start, stop, marks)
    assert shown == len(found)
    assert list(marks) == [
        NOT_SEEN
        if not start <= i < stop or code not in stored
        else SEEN
        if covered or stored[code] == "tm"
        else SEEN_OTHER_TYPE
        for i, code in enumerate(codes)
    ]
    last = found[-1].encode()
    assert position == next((i for i in range(start, stop) if codes[i].encode() > last), stop)
    for mark in (NOT_SEEN, SEEN, SEEN_OTHER_TYPE):
        picked = batch.pick(marks, mark)
        assert picked.codes() == [code for i, code in enumerate(codes) if marks[i] == mark]
        assert [one["_id"]["code"] for one in bson.decode_all(picked.documents)] == picked.codes()
        assert [one["q"]["_id"]["code"] for one in bson.decode_all(picked.upserts())] == picked.codes()
        assert picked.repeats == 0


def test_a_reply_that_ends_early_decides_only_what_it_has_passed() -> None:
    batch = one_batch("A", "C", "E", "G")
    marks = bytearray(4)
    assert batch.mark(reply({"_id": key("A")}, {"_id": key("D")}), 0, 4, marks) == (2, 2, 0)
    assert batch.mark(reply({"_id": key("E")}), 2, 4, marks) == (1, 3, 0)
    assert batch.mark(reply(), 3, 4, marks) == (0, 3, 0)
    assert marks == bytes([SEEN, NOT_SEEN, SEEN, NOT_SEEN])


def test_a_cursor_that_has_more() -> None:
    unfinished = bson.encode({"ok": 1, "cursor": {"firstBatch": [{"_id": key("A")}], "id": 1 << 62}})
    assert one_batch("A").mark(unfinished, 0, 1, bytearray(1)) == (1, 1, 1 << 62)


def test_documents_that_are_not_codes_of_the_campaign_mark_nothing() -> None:
    batch = one_batch("A", "B")
    marks = bytearray(2)
    strangers = [
        {"_id": 5},
        {"_id": key("A", "12346")},
        {"_id": key("A", "1234")},
        {"_id": {"code": "A", "campaign_id": CAMPAIGN_ID}},
        {"_id": {**key("A"), "more": 1}},
        {"_id": {"campaign_id": CAMPAIGN_ID, "code": 7}},
        {"_id": {"campaign_id": CAMPAIGN_ID}},
        {"type": "tm"},
        {},
    ]
    assert batch.mark(reply(*strangers), 0, 2, marks) == (len(strangers), 0, 0)
    assert marks == bytes(2)


@pytest.mark.parametrize("kind", [5, None, "TM", "tm ", b"tm"])
def test_another_type_than_the_batchs(kind: object) -> None:
    marks = bytearray(1)
    assert one_batch("A").mark(reply({"type": kind, "_id": key("A")}), 0, 1, marks) == (1, 1, 0)
    assert marks == bytes([SEEN_OTHER_TYPE])


@pytest.mark.parametrize(
    "wrong",
    [
        b"",
        b"\0" * 20,
        bson.encode({}),
        bson.encode({"ok": 1.0}),
        bson.encode({"cursor": 5}),
        bson.encode({"cursor": {}}),
        bson.encode({"cursor": {"firstBatch": {}}}),
        bson.encode({"cursor": {"firstBatch": [5]}}),
        reply({"_id": key("A")}) + b"x",
    ],
)
def test_what_is_no_reply(wrong: bytes) -> None:
    with pytest.raises(ValueError, match="reply to a find"):
        one_batch("A").mark(wrong, 0, 1, bytearray(1))


def test_every_beginning_of_a_reply_is_refused() -> None:
    whole = reply({"_id": key("A"), "type": "tm"})
    for size in range(len(whole)):
        with pytest.raises(ValueError, match="reply to a find"):
            one_batch("A").mark(whole[:size], 0, 1, bytearray(1))


def test_any_byte_of_a_reply_may_be_wrong() -> None:
    """Nothing outside the reply is read; what comes of it is a mark or a ValueError."""
    whole = reply({"_id": key("A"), "type": "tm"}, {"_id": key("B"), "type": "external"})
    batch = one_batch("A", "B")
    for at in range(len(whole)):
        for value in (0, 1, 5, 0x7F, 0x80, 0xFF):
            broken = whole[:at] + bytes([value]) + whole[at + 1 :]
            try:
                shown, position, _cursor = batch.mark(broken, 0, 2, bytearray(2))
            except ValueError:
                continue
            assert 0 <= position <= 2
            assert 0 <= shown <= 2


@pytest.mark.parametrize(("start", "stop", "marks"), [(1, 0, 2), (0, 3, 2), (0, 2, 1), (0, 2, 3)])
def test_marks_of_codes_that_are_not_there(start: int, stop: int, marks: int) -> None:
    with pytest.raises(IndexError):
        one_batch("A", "B").mark(reply(), start, stop, bytearray(marks))


def test_a_batch_in_file_order_cannot_be_looked_up() -> None:
    (batch,) = batches(extractor(), b"B\nA\n")
    with pytest.raises(ValueError, match="not sorted"):
        batch.mark(reply(), 0, 2, bytearray(2))
    with pytest.raises(ValueError, match="not sorted"):
        batch.within(0, 2)
    assert bson.decode(batch.among(0, 2)) == {"_id": {"$in": [key("B"), key("A")]}}
    assert batch.pick(bytearray([1, 0]), 1).codes() == ["B"]


def test_pick_wants_a_mark_for_each_code() -> None:
    with pytest.raises(ValueError, match="each code"):
        one_batch("A", "B").pick(bytearray(1), 0)

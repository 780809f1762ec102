"""Replies to write commands, as a server makes them, in every number type, and mutated by a hostile hand."""

import struct

import bson
import pytest
from bson.int64 import Int64
from hypothesis import given, settings
from hypothesis import strategies as st

from codesvc._fastcsv import WriteReply, read_write_reply

OPERATION_TIME = {
    "$clusterTime": {
        "clusterTime": bson.Timestamp(5, 1),
        "signature": {"hash": b"\0" * 20, "keyId": Int64(0)},
    },
    "operationTime": bson.Timestamp(5, 1),
    "electionId": bson.ObjectId("7fffffff0000000000000001"),
}


def duplicate(index: object, code: object = 11000) -> dict[str, object]:
    return {
        "index": index,
        "code": code,
        "errmsg": "E11000 duplicate key error collection: codesvc.codes index: _id_ dup key",
        "keyPattern": {"_id": 1},
        "keyValue": {"_id": {"campaign_id": "12345", "code": "A"}},
    }


def everything(reply: WriteReply) -> tuple[object, ...]:
    return (
        reply.ok, reply.n, reply.n_modified, reply.upserted, reply.duplicates, reply.other_errors,
        reply.first_other_error, reply.write_concern_error,
    )  # fmt: skip


def test_insert() -> None:
    reply = read_write_reply(bson.encode({"n": 50_000, **OPERATION_TIME, "ok": 1.0}))
    assert everything(reply) == (True, 50_000, 0, 0, [], 0, None, None)
    assert reply.ok is True


def test_insert_with_duplicates_and_others() -> None:
    errors = [duplicate(3), duplicate(4, 121), duplicate(7), duplicate(9, 11001), duplicate(70_000)]
    reply = read_write_reply(bson.encode({"n": 2, "writeErrors": errors, **OPERATION_TIME, "ok": 1.0}))
    assert everything(reply) == (True, 2, 0, 0, [3, 7, 70_000], 2, (4, 121), None)


def test_update() -> None:
    upserted = [{"index": i, "_id": {"campaign_id": "12345", "code": f"{i}"}} for i in range(1234)]
    reply = read_write_reply(bson.encode({"n": 5000, "upserted": upserted, "nModified": 77, "ok": 1.0}))
    assert everything(reply) == (True, 5000, 77, 1234, [], 0, None, None)


def test_fifty_thousand_duplicates() -> None:
    errors = [duplicate(i) for i in range(50_000)]
    assert read_write_reply(bson.encode({"writeErrors": errors, "ok": 1})).duplicates == list(range(50_000))


@pytest.mark.parametrize(
    ("error", "code"), [({"code": 64, "errmsg": "timed out"}, 64), ({"errmsg": "?"}, 0), ({}, 0)]
)
def test_write_concern_error(error: dict[str, object], code: int) -> None:
    reply = read_write_reply(bson.encode({"n": 1, "writeConcernError": error, "ok": 1.0}))
    assert everything(reply) == (True, 1, 0, 0, [], 0, None, code)


def test_command_error() -> None:
    reply = read_write_reply(
        bson.encode({"ok": 0.0, "errmsg": "not primary", "code": 10107, "codeName": "x"})
    )
    assert everything(reply) == (False, 0, 0, 0, [], 0, None, None)


@pytest.mark.parametrize("number", [int, float, Int64])
def test_numbers_of_any_type(number: type) -> None:
    encoded = bson.encode(
        {
            "ok": number(1),
            "n": number(5),
            "nModified": number(2),
            "writeErrors": [duplicate(number(3), number(11000)), duplicate(number(4), number(-2))],
            "writeConcernError": {"code": number(100)},
        }
    )
    assert everything(read_write_reply(encoded)) == (True, 5, 2, 0, [3], 1, (4, -2), 100)


@pytest.mark.parametrize(("ok", "expected"), [(True, True), (False, False), (1, True), (0, False)])
def test_ok(ok: object, expected: bool) -> None:
    assert read_write_reply(bson.encode({"ok": ok})).ok is expected


def test_fields_of_every_type_are_skipped() -> None:
    fields: dict[str, object] = {
        "double": 1.5,
        "string": "n",
        "document": {"n": 9},
        "array": [{"n": 9}],
        "binary": b"n\0",
        "oid": bson.ObjectId(),
        "bool": True,
        "null": None,
        "regex": bson.Regex("n", "im"),
        "code": bson.Code("n"),
        "scope": bson.Code("n", {"n": 9}),
        "int32": 9,
        "int64": Int64(9),
        "dbref": bson.DBRef("n", bson.ObjectId()),
        "timestamp": bson.Timestamp(9, 9),
        "decimal": bson.Decimal128("9"),
        "min": bson.MinKey(),
        "max": bson.MaxKey(),
        "": 9,
        "nn": 9,
    }
    deprecated = b"\x06undefined\0" + b"\x0epointed\0\x02\0\0\0n\0" + b"\x0cdb\0\x02\0\0\0n\0" + b"\1" * 12
    body = bson.encode(fields)[4:-1] + deprecated + bson.encode({"n": 5, "ok": 1})[4:-1]
    reply = read_write_reply(struct.pack("<i", len(body) + 5) + body + b"\0")
    assert everything(reply) == (True, 5, 0, 0, [], 0, None, None)


@pytest.mark.parametrize(
    "wrong",
    [
        {"n": "5"},
        {"n": None},
        {"n": 1.5},
        {"n": float("nan")},
        {"n": float("inf")},
        {"n": 1e300},
        {"ok": "1"},
        {"upserted": 5},
        {"upserted": {"0": {}}},
        {"writeErrors": {}},
        {"writeErrors": [5]},
        {"writeErrors": [{"index": 1}]},
        {"writeErrors": [{"code": 11000}]},
        {"writeErrors": [{"index": -1, "code": 11000}]},
        {"writeErrors": [{"index": "1", "code": 11000}]},
        {"writeConcernError": [64]},
        {"writeConcernError": {"code": "64"}},
    ],
)
def test_fields_of_a_wrong_type(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="not the BSON"):
        read_write_reply(bson.encode({"ok": 1.0, **wrong}))


FULL = bson.encode(
    {
        "n": 2,
        "writeErrors": [duplicate(3), duplicate(4, 121)],
        "upserted": [{"index": 1, "_id": {"campaign_id": "1", "code": "A"}}],
        "nModified": Int64(7),
        "writeConcernError": {"code": 64, "errInfo": {"writeConcern": {"w": "majority"}}},
        **OPERATION_TIME,
        "regex": bson.Regex("a", "i"),
        "ok": 1.0,
    }
)


def test_every_truncation() -> None:
    for size in range(len(FULL)):
        with pytest.raises(ValueError, match="not the BSON"):
            read_write_reply(FULL[:size])
        # The length as it should be, the rest missing: right only where an element ends.
        shorter = struct.pack("<i", max(size, 5)) + FULL[4 : max(size - 1, 4)] + b"\0"
        try:
            decoded = bson.decode(shorter)
        except bson.errors.InvalidBSON:
            with pytest.raises(ValueError, match="not the BSON"):
                read_write_reply(shorter)
        else:
            assert read_write_reply(shorter).n == decoded.get("n", 0)


@pytest.mark.parametrize(
    "element",
    [
        b"\x02s\0\x02\0\0\0ab",  # a string without its NUL
        b"\x02s\0\x00\0\0\0a\0",  # a string too short for its NUL
        b"\x02s\0\x7f\0\0\0a\0",  # lengths beyond the end
        b"\x02s\0\xff\xff\xff\xffa\0",
        b"\x05b\0\x7f\0\0\0\0a",
        b"\x05b\0\xff\xff\xff\xff\0a",
        b"\x03d\0\x7f\0\0\0\0",
        b"\x03d\0\xff\xff\xff\xff\0",
        b"\x0fc\0\x7f\0\0\0\x02\0\0\0a\0\x05\0\0\0\0",
        b"\x0fc\0\x05\0\0\0\0",
        b"\x03d\0\x04\0\0\0",  # a document shorter than an empty one
        b"\x03d\0\x05\0\0\0\x01",  # a document without its NUL
        b"\x0br\0aa",  # a regular expression of one string, of none
        b"\x0br\0aa\0bb",
        b"\x10i\0\x01\0\0",  # a number cut off
        b"\x12i\0\x01\0\0\0\0\0\0",
        b"\x08b\0",
        b"\x20u\0\x01",  # no such type
        b"\x10name",  # a name without an end
        b"\x10",
    ],
)
def test_malformed_elements(element: bytes) -> None:
    body = element + b"\0"
    with pytest.raises(ValueError, match="not the BSON"):
        read_write_reply(struct.pack("<i", len(body) + 4) + body)


def test_bytes_after_the_end() -> None:
    with pytest.raises(ValueError, match="not the BSON"):
        read_write_reply(FULL + b"\0")


@settings(max_examples=2000, deadline=None)
@given(
    changes=st.lists(
        st.tuples(
            st.integers(0, len(FULL) - 1), st.sampled_from([0, 1, 2, 3, 4, 5, 0x0B, 0x0F, 0x7F, 0x80, 0xFF])
        ),
        min_size=1,
        max_size=4,
    )
)
def test_mutated_replies_are_read_or_refused(changes: list[tuple[int, int]]) -> None:
    """What the driver takes too must not differ; nothing may crash."""
    mutated = bytearray(FULL)
    for at, value in changes:
        mutated[at] = value
    try:
        reply = read_write_reply(bytes(mutated))
    except ValueError:
        return
    assert reply.upserted >= 0
    assert all(index >= 0 for index in reply.duplicates)
    try:
        decoded = bson.decode(bytes(mutated))
    except bson.errors.InvalidBSON:
        return  # Something it does not look into is broken.
    assert reply.upserted == len(decoded.get("upserted", []))
    assert len(reply.duplicates) + reply.other_errors == len(decoded.get("writeErrors", []))
    assert reply.n == decoded.get("n", 0)


@settings(max_examples=500, deadline=None)
@given(noise=st.binary(max_size=80))
def test_noise(noise: bytes) -> None:
    body = struct.pack("<i", len(noise) + 5) + noise + b"\0"
    for hostile in (noise, body):
        try:
            reply = read_write_reply(hostile)
        except ValueError:
            continue
        assert reply.upserted >= 0


def test_only_bytes() -> None:
    with pytest.raises(TypeError):
        read_write_reply(bytearray(FULL))  # type: ignore[arg-type]

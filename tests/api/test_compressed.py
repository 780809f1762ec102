"""Files that are decompressed on the way."""

import gzip
import random

import pytest

from .harness import CODE_MARK, Reply, assert_counts, assert_problem, csv_of, eventually, make_codes
from .world import World


@pytest.fixture(params=["world", "tiny"])
def either(request: pytest.FixtureRequest) -> World:
    """The service as it comes, and one that reads parts of 100 bytes and writes batches of 3 codes."""
    found: World = request.getfixturevalue(request.param)
    return found


def upload(world: World, campaign: str, data: bytes, name: str = "x.csv.gz", **options: bool) -> Reply:
    return world.service.upload(world.put(campaign, data, name=name), **options)


def test_what_it_holds_is_stored(either: World, campaign: str) -> None:
    codes = make_codes(200)
    content = csv_of([*codes, *codes[:50]])
    assert_counts(upload(either, campaign, gzip.compress(content)), 250, 200, 50)
    assert either.stored(campaign) == set(codes)
    assert_counts(upload(either, campaign, gzip.compress(content)), 250, 0, 250)


def test_members_in_a_row(either: World, campaign: str) -> None:
    """As pigz and cat make them, cut in the middle of a code; with the padding of a tape."""
    codes = make_codes(60)
    content = csv_of(codes)
    cuts = sorted(random.Random(1).sample(range(len(content)), 5))
    pieces = [content[a:b] for a, b in zip([0, *cuts], [*cuts, len(content)], strict=True)]
    data = b"".join(map(gzip.compress, pieces)) + b"\0" * 512
    assert_counts(upload(either, campaign, data), 60, 60, 0)
    assert either.stored(campaign) == set(codes)


def test_rules_and_lines_are_those_of_what_it_holds(either: World, campaign: str) -> None:
    content = f"code\n{CODE_MARK}a\n{CODE_MARK}\x01\n{CODE_MARK}b".encode()
    reply = upload(either, campaign, gzip.compress(content), header=True)
    assert reply.status == 200
    reason = "the code holds a control character"
    assert reply.json() == {
        "count": {"in": 2, "inserted": 2, "updated": 0},
        "invalid": {"count": 1, "samples": [{"line": 3, "reason": reason}]},
    }
    strict = assert_problem(
        upload(either, campaign, gzip.compress(content), header=True, strict=True), 422, "invalidRow"
    )
    assert (strict["line"], strict["count"]) == (3, {"in": 1, "inserted": 0, "updated": 1})


def test_nothing_in_it(world: World, campaign: str) -> None:
    assert_counts(upload(world, campaign, gzip.compress(b"")), 0, 0, 0)


WORDS = {
    "empty": "the file is empty, and not gzip",
    "plain": "the file is not gzip",
    "rubbish": "something that is not gzip follows the compressed data",
    "checksum": "the compressed data is damaged: its checksum is wrong",
}


def damaged(kind: str, content: bytes) -> bytes:
    whole = gzip.compress(content)
    match kind:
        case "empty":
            return b""
        case "plain":
            return content
        case "rubbish":
            return whole + content
    return whole[:-8] + bytes([whole[-8] ^ 1]) + whole[-7:]


@pytest.mark.parametrize("kind", WORDS)
def test_a_file_that_is_damaged(either: World, campaign: str, kind: str) -> None:
    codes = make_codes(20)
    problem = assert_problem(upload(either, campaign, damaged(kind, csv_of(codes))), 422, "corruptFile")
    stored = either.stored(campaign)
    assert stored <= set(codes)
    assert problem["count"] == {"in": len(stored), "inserted": len(stored), "updated": 0}
    assert problem["line"] == len(stored) + 1
    assert problem["detail"] == f"line {problem['line']}: {WORDS[kind]}"
    if kind == "rubbish":
        assert stored == set(codes)


@pytest.mark.parametrize("strict", [False, True])
def test_a_file_that_was_cut_off(either: World, campaign: str, strict: bool) -> None:
    """What came of it is stored, up to the last whole record; the rest is missing, and somebody has to know."""
    codes = make_codes(300)
    content = f"{CODE_MARK}\x01\n".encode() * (not strict) + csv_of(codes)
    data = gzip.compress(content)
    problem = assert_problem(
        upload(either, campaign, data[: len(data) * 3 // 4], strict=strict), 422, "corruptFile"
    )
    stored = either.stored(campaign)
    assert 10 < len(stored) < 300
    # In the file's order, and nothing that is half a code.
    assert stored == set(codes[: len(stored)])
    assert problem["count"] == {"in": len(stored), "inserted": len(stored), "updated": 0}
    assert problem["line"] == len(stored) + 1 + (not strict)
    assert problem["detail"].endswith("the file ends in the middle of its compressed data")
    assert_counts(upload(either, campaign, gzip.compress(csv_of(codes))), 300, 300 - len(stored), len(stored))


def test_half_a_code_at_the_end_is_none(world: World, campaign: str) -> None:
    """A line without an end is a code at the end of a file, but not where that was cut off."""
    packed = gzip.compress(f"{CODE_MARK}a\n{CODE_MARK}b".encode())
    problem = assert_problem(upload(world, campaign, packed[:-8]), 422, "corruptFile")
    assert (problem["line"], problem["count"]["in"]) == (2, 1)
    assert world.stored(campaign) == {f"{CODE_MARK}a"}


def test_its_bytes_are_those_that_are_stored(world: World, campaign: str) -> None:
    """The resource tells how far it is in the object, whatever that holds."""
    data = gzip.compress(csv_of([make_codes(1)[0]] * 100_000))
    key = world.put(campaign, data, name="x.csv.gz")
    reply = world.service.post(f"/v1/{campaign}/codes", {"fileKey": key}, headers={"Prefer": "respond-async"})
    assert reply.status == 202
    where = reply.header("Location")
    assert where is not None
    seen = []

    def ended() -> bool:
        resource = world.service.get(where).json()
        seen.append(resource["bytes"]["done"])
        assert resource["bytes"]["total"] in {0, len(data)}
        return bool(resource["state"] == "succeeded")

    eventually(ended, limit=30)
    assert seen == sorted(seen)
    assert seen[-1] == len(data)


def test_a_damaged_one_as_a_resource(world: World, campaign: str) -> None:
    key = world.put(campaign, b"no gzip", name="x.csv.gz")
    reply = world.service.post(f"/v1/{campaign}/codes", {"fileKey": key}, headers={"Prefer": "respond-async"})
    where = reply.header("Location")
    assert where is not None
    eventually(lambda: world.service.get(where).json()["state"] == "failed", limit=30)
    assert world.service.get(where).json()["error"] == {
        "code": "corruptFile",
        "title": "The compressed file is damaged",
        "detail": "line 1: the file is not gzip",
    }


@pytest.mark.parametrize("name", ["x.gz", "x.csv.gz.gz", "x.tar.gz", "csv.gz", ".gz"])
def test_other_names_of_compressed_files_are_refused(world: World, campaign: str, name: str) -> None:
    reply = upload(world, campaign, gzip.compress(b"A\n"), name=name)
    assert "csv.gz" in assert_problem(reply, 400, "invalidFileKey")["detail"]


@pytest.mark.parametrize("name", [".csv.gz", "a/b.csv.gz", "2026.11.csv.gz", "x.csv.gz.csv.gz"])
def test_names_that_are_fine(world: World, campaign: str, name: str) -> None:
    codes = make_codes(2)
    assert_counts(upload(world, campaign, gzip.compress(csv_of(codes)), name=name), 2, 2, 0)


@pytest.mark.parametrize("name", ["x.csv", "x.csv.gz"])
@pytest.mark.parametrize("encoding", ["gzip", "GZIP", "aws-chunked,gzip"])
def test_what_the_store_calls_gzip(either: World, campaign: str, name: str, encoding: str) -> None:
    """Decompressed once, by whatever says so: the name, the metadata, or both."""
    codes = make_codes(40)
    key = either.put(campaign, gzip.compress(csv_of(codes)), name=name, ContentEncoding=encoding)
    assert_counts(either.service.upload(key), 40, 40, 0)
    assert either.stored(campaign) == set(codes)


@pytest.mark.parametrize("encoding", ["identity", "aws-chunked"])
def test_encodings_that_are_none(world: World, campaign: str, encoding: str) -> None:
    codes = make_codes(3)
    key = world.put(campaign, csv_of(codes), ContentEncoding=encoding)
    assert_counts(world.service.upload(key), 3, 3, 0)


def test_an_encoding_that_nobody_knows(world: World, campaign: str) -> None:
    key = world.put(campaign, csv_of(make_codes(3)), ContentEncoding="br")
    problem = assert_problem(world.service.upload(key), 422, "corruptFile")
    assert problem["detail"] == "line 1: the file is stored with a content encoding other than gzip"
    assert problem["count"] == {"in": 0, "inserted": 0, "updated": 0}
    assert not world.stored(campaign)

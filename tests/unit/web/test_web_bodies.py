"""Compressed bodies: what they hold, and no more than they may."""

import gzip
import zlib

import pytest

from codesvc.web.bodies import inflated
from codesvc.web.problems import RequestError

TEXT = b'{"codes": ["A"]}'


def bare(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


def packed(text: bytes) -> bytes:
    """Compress without the time: what is in a test's name must be the same in every process that collects it."""
    return gzip.compress(text, mtime=0)


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        ("gzip", packed(TEXT)),
        ("gzip", packed(TEXT[:5]) + packed(b"") + packed(TEXT[5:])),
        ("deflate", zlib.compress(TEXT)),
        ("deflate", bare(TEXT)),
    ],
)
async def test_what_a_body_holds(coding: str, body: bytes) -> None:
    assert await inflated(body, coding, len(TEXT)) == TEXT
    assert await inflated(body, coding, 1000) == TEXT


@pytest.mark.parametrize("members", [1, 2, 5])
async def test_one_byte_too_many(members: int) -> None:
    body = b"".join(packed(b"x" * 100) for _ in range(members))
    assert await inflated(body, "gzip", 100 * members) == b"x" * 100 * members
    with pytest.raises(RequestError) as caught:
        await inflated(body, "gzip", 100 * members - 1)
    assert caught.value.code == "payloadTooLarge"


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        ("gzip", b""),
        ("gzip", b"not gzip"),
        ("gzip", packed(TEXT)[:-1]),
        ("gzip", packed(TEXT)[:-8] + bytes(8)),
        ("gzip", packed(TEXT) + b"rubbish"),
        ("gzip", packed(b"") * 101),
        ("gzip", zlib.compress(TEXT)),
        ("deflate", b""),
        ("deflate", b"\xff" * 9),
        ("deflate", zlib.compress(TEXT)[:-1]),
        ("deflate", zlib.compress(TEXT) + zlib.compress(TEXT)),
    ],
)
async def test_what_is_not_of_its_coding(coding: str, body: bytes) -> None:
    with pytest.raises(RequestError) as caught:
        await inflated(body, coding, 1000)
    assert caught.value.code == "invalidJson"

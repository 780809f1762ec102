"""Bearer tokens judged per second: seen before, and never seen; beside PyJWT alone, which remembers nothing."""

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any, Final

import jwt
import pytest
import uvloop
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from benchmarks.micro.measure import Measure
from codesvc.web.auth import Authenticator, TokenRules, UnauthorizedError

_OURS: Final = "codesvc"
_BASE: Final = "PyJWT"
_SECRET: Final = "benchmarks-only-benchmarks-only-benchmarks"


@dataclass(frozen=True, slots=True)
class Signer:
    """An algorithm with its keys, and what the service must know to accept what it signs."""

    algorithm: str
    private: Any = field(repr=False)
    public: Any = field(repr=False)
    rules: TokenRules = field(repr=False)

    def token(self, number: int) -> str:
        """Sign a token of its own."""
        claims = {"exp": int(time.time()) + 3600, "isSupreme": True, "jti": str(number)}
        return jwt.encode(claims, self.private, self.algorithm)


@pytest.fixture(scope="session")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        yield runner


@pytest.mark.parametrize("contender", [_OURS, _BASE])
@pytest.mark.parametrize(
    "case",
    [f"{algorithm}, {kind}" for algorithm in ("HS256", "RS256", "ES256") for kind in ("fresh", "remembered")],
)
def test_authenticate(
    measure: Measure, runner: asyncio.Runner, contender: str, case: str, quick: bool
) -> None:
    """Hazard: every request pays for a signature, above all an asymmetric one; or what is remembered is never found."""
    algorithm, _, kind = case.partition(", ")
    count = 100 if quick else 2000
    headers = _headers(algorithm, count)
    signer = _signer(algorithm)
    authenticator = Authenticator(signer.rules)
    if kind == "remembered":
        headers = [headers[0]] * 10 * count
        runner.run(_authenticate(authenticator, headers[:1]))
    ours = partial(_run, runner, authenticator, headers)
    base = partial(_decode, signer, headers)
    # Not on the authenticator that is timed: it would remember what is to be fresh.
    checked = partial(_run, runner, Authenticator(signer.rules), headers) if contender == _OURS else base
    measure(
        case,
        contender,
        ours if contender == _OURS else base,
        amount=len(headers),
        right=partial(_right, runner, signer, headers, checked),
    )


def _run(runner: asyncio.Runner, authenticator: Authenticator, headers: list[str]) -> int:
    return runner.run(_authenticate(authenticator, headers))


async def _authenticate(authenticator: Authenticator, headers: list[str]) -> int:
    supreme = 0
    for header in headers:
        claims = await authenticator.authenticate(header)
        supreme += claims["isSupreme"] is True
    return supreme


def _decode(signer: Signer, headers: list[str]) -> int:
    supreme = 0
    for header in headers:
        token = header.removeprefix("Bearer ")
        claims = jwt.decode(token, signer.public, [signer.algorithm], options={"require": ["exp"]})
        supreme += claims["isSupreme"] is True
    return supreme


def _right(runner: asyncio.Runner, signer: Signer, headers: list[str], run: Callable[[], int]) -> bool:
    """Tell whether every token passes, and one of another signer does not."""
    forged = f"{headers[0].rpartition('.')[0]}.{_signer('HS256').token(0).rpartition('.')[2][:-4]}AAAA"
    try:
        runner.run(_authenticate(Authenticator(signer.rules), [forged]))
    except UnauthorizedError:
        return run() == len(headers)
    return False


@lru_cache(maxsize=1)
def _headers(algorithm: str, count: int) -> list[str]:
    signer = _signer(algorithm)
    return [f"Bearer {signer.token(number)}" for number in range(count)]


@lru_cache
def _signer(algorithm: str) -> Signer:
    if algorithm == "HS256":
        return Signer(algorithm, _SECRET, _SECRET, TokenRules(secret=_SECRET))
    private = (
        rsa.generate_private_key(public_exponent=65537, key_size=2048)
        if algorithm == "RS256"
        else ec.generate_private_key(ec.SECP256R1())
    )
    public = private.public_key()
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    return Signer(algorithm, private, public, TokenRules(public_key=pem))

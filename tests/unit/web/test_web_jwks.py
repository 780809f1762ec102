"""Key sets: fetched over real HTTP, rotated, slow, broken and gone."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import jwt
import orjson
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm
from webroom import SECRET, Client, Service, send, token

from codesvc.web.auth import Authenticator, JwksKeys, KeysUnavailableError, TokenRules, UnauthorizedError

pytest_plugins = ("webroom",)

RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC = ec.generate_private_key(ec.SECP256R1())
ED = ed25519.Ed25519PrivateKey.generate()


def jwk(key: Any, **members: Any) -> dict[str, Any]:
    algorithm = RSAAlgorithm if isinstance(key, rsa.RSAPrivateKey) else ECAlgorithm
    if isinstance(key, ed25519.Ed25519PrivateKey):
        algorithm = OKPAlgorithm  # type: ignore[assignment]
    return {**algorithm.to_jwk(key.public_key(), as_dict=True), **members}


def signed(key: Any, algorithm: str, kid: str | None = None, **claims: Any) -> str:
    payload = {"exp": time.time() + 3600, "isSupreme": True} | claims
    return "Bearer " + jwt.encode(payload, key, algorithm=algorithm, headers={"kid": kid} if kid else None)


@dataclass
class Issuer:
    """A server of one key set; ``answer`` may be any response."""

    keys: list[Any] = field(default_factory=list)
    answer: web.Response | None = None
    delay: float = 0.0
    requests: int = 0
    url: str = ""

    async def serve(self, _: web.Request) -> web.Response:
        self.requests += 1
        await asyncio.sleep(self.delay)
        return self.answer or web.Response(body=orjson.dumps({"keys": self.keys}))


@pytest.fixture
async def issuer() -> AsyncIterator[Issuer]:
    issuer = Issuer()
    app = web.Application()
    app.router.add_get("/jwks.json", issuer.serve)
    async with TestServer(app) as server:
        issuer.url = str(server.make_url("/jwks.json"))
        yield issuer


@dataclass
class Clock:
    """Goes on as fast as a test says."""

    ahead: float = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.ahead


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def authenticator(issuer: Issuer, clock: Clock) -> AsyncIterator[Authenticator]:
    authenticator = Authenticator(TokenRules(jwks_url=issuer.url), clock=clock)
    yield authenticator
    await authenticator.close()


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pause between fetches."""
    monkeypatch.setattr(JwksKeys, "PAUSE", 0.0)


async def test_every_kind_of_key(issuer: Issuer, authenticator: Authenticator) -> None:
    issuer.keys = [jwk(RSA, kid="r", alg="RS256", use="sig"), jwk(EC, kid="e"), jwk(ED, kid="d")]
    for _ in range(3):
        assert (await authenticator.authenticate(signed(RSA, "RS256", "r")))["isSupreme"] is True
        await authenticator.authenticate(signed(EC, "ES256", "e"))
        await authenticator.authenticate(signed(ED, "EdDSA", "d"))
        await authenticator.authenticate(signed(EC, "ES256"))
    assert issuer.requests == 1


@pytest.mark.usefixtures("eager")
async def test_tokens_that_no_key_of_the_set_signed(issuer: Issuer, authenticator: Authenticator) -> None:
    issuer.keys = [jwk(RSA, kid="r", alg="RS256"), jwk(EC, kid="e")]
    other = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    for header in (
        signed(other, "RS256", "r"),
        signed(other, "RS256"),
        signed(RSA, "RS256", "e"),
        signed(RSA, "RS512", "r"),
        signed(RSA, "RS256", "unknown"),
        signed(RSA, "RS256", "r", exp=1),
        f"Bearer {token()}",
    ):
        with pytest.raises(UnauthorizedError):
            await authenticator.authenticate(header)


async def test_a_secret_in_the_set_is_no_key(issuer: Issuer) -> None:
    issuer.keys = [{"kty": "oct", "k": "c2VjcmV0", "kid": "s", "alg": "HS256"}, jwk(EC, kid="e")]
    rules = TokenRules(jwks_url=issuer.url, algorithms=("HS256", "ES256"))
    authenticator = Authenticator(rules)
    with pytest.raises(UnauthorizedError):
        await authenticator.authenticate(
            "Bearer " + jwt.encode({"exp": 9e9, "isSupreme": True}, "secret" * 9, headers={"kid": "s"})
        )
    await authenticator.close()


async def test_what_cannot_be_used_is_passed_over(issuer: Issuer, authenticator: Authenticator) -> None:
    issuer.keys = [
        *(None, 5, {}, {"kty": "RSA"}, {"kty": "other", "kid": "e"}, {"kty": "EC", "crv": "P-256", "x": 1}),
        *({"kty": "RSA", "n": 5, "e": []}, jwk(EC, kid="e", alg=["ES256"]), jwk(EC, kid="e", alg="RS256")),
        jwk(RSA, kid="x", use="enc"),
        jwk(EC, kid="e"),
    ]
    await authenticator.authenticate(signed(EC, "ES256", "e"))
    with pytest.raises(UnauthorizedError):
        await authenticator.authenticate(signed(RSA, "RS256", "x"))


@pytest.mark.usefixtures("eager")
async def test_rotation(issuer: Issuer, authenticator: Authenticator) -> None:
    old = signed(EC, "ES256", "old")
    issuer.keys = [jwk(EC, kid="old")]
    await authenticator.authenticate(old)
    fresh = ec.generate_private_key(ec.SECP256R1())
    issuer.keys = [jwk(fresh, kid="new")]
    await authenticator.authenticate(signed(fresh, "ES256", "new"))
    # The set is known to have changed: what the old key signed is not remembered any longer.
    with pytest.raises(UnauthorizedError):
        await authenticator.authenticate(old)


async def test_a_key_taken_out_of_the_set_is_forgotten(
    issuer: Issuer, authenticator: Authenticator, clock: Clock
) -> None:
    issuer.keys = [jwk(EC, kid="e")]
    header = signed(EC, "ES256", "e")
    await authenticator.authenticate(header)
    issuer.keys = [jwk(RSA, kid="r")]
    await authenticator.authenticate(header)
    clock.ahead = 60
    with pytest.raises(UnauthorizedError):
        await authenticator.authenticate(header)


async def test_a_set_of_middling_age_is_fetched_without_waiting(
    issuer: Issuer, authenticator: Authenticator, clock: Clock
) -> None:
    issuer.keys = [jwk(EC, kid="e")]
    await authenticator.authenticate(signed(EC, "ES256", "e"))
    issuer.delay = 0.3
    clock.ahead = JwksKeys.FRESH * 0.75
    started = time.perf_counter()
    await authenticator.authenticate(signed(EC, "ES256", "e", jti="2"))
    assert time.perf_counter() - started < 0.25
    async with asyncio.timeout(5):
        while issuer.requests < 2:  # noqa: ASYNC110 - the server has no event to wait for
            await asyncio.sleep(0.01)


async def test_an_outage_keeps_the_keys(issuer: Issuer, authenticator: Authenticator, clock: Clock) -> None:
    issuer.keys = [jwk(EC, kid="e")]
    await authenticator.authenticate(signed(EC, "ES256", "e"))
    for minute, answer in enumerate(
        (web.Response(status=500), web.Response(body=b"<html>"), web.Response(body=b'{"keys": []}')), start=1
    ):
        issuer.answer = answer
        clock.ahead = 60 * minute
        await authenticator.authenticate(signed(EC, "ES256", "e", jti=str(minute)))
    assert issuer.requests == 4


async def test_one_fetch_serves_all_who_wait(issuer: Issuer, authenticator: Authenticator) -> None:
    issuer.keys, issuer.delay = [jwk(EC, kid="e")], 0.1
    header = signed(EC, "ES256", "e")
    await asyncio.gather(*(authenticator.authenticate(header) for _ in range(50)))
    assert issuer.requests == 1


async def test_who_gives_up_waiting_does_not_end_the_fetch(
    issuer: Issuer, authenticator: Authenticator
) -> None:
    issuer.keys, issuer.delay = [jwk(EC, kid="e")], 0.2
    header = signed(EC, "ES256", "e")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await authenticator.authenticate(header)
    await authenticator.authenticate(header)
    assert issuer.requests == 1


async def test_unknown_keys_do_not_make_a_storm(issuer: Issuer, authenticator: Authenticator) -> None:
    issuer.keys = [jwk(EC, kid="e")]
    for number in range(20):
        with pytest.raises(UnauthorizedError):
            await authenticator.authenticate(signed(EC, "ES256", f"unknown-{number}"))
    assert issuer.requests == 1


async def test_keys_that_were_never_there(issuer: Issuer, authenticator: Authenticator) -> None:
    issuer.answer = web.Response(status=503)
    for _ in range(3):
        with pytest.raises(KeysUnavailableError):
            await authenticator.authenticate(signed(EC, "ES256", "e"))
    assert issuer.requests == 1


async def test_a_key_set_without_end_is_not_read(issuer: Issuer, authenticator: Authenticator) -> None:
    issuer.answer = web.Response(body=b" " * (JwksKeys.MAX_BYTES + 1))
    with pytest.raises(KeysUnavailableError):
        await authenticator.authenticate(signed(EC, "ES256", "e"))


async def test_the_other_keys_do_without_the_set(issuer: Issuer) -> None:
    issuer.answer = web.Response(status=503)
    authenticator = Authenticator(TokenRules(secret=SECRET, jwks_url=issuer.url))
    await authenticator.authenticate(f"Bearer {token()}")
    assert issuer.requests == 0
    await authenticator.close()


class TestOverHttp:
    """What a caller sees of it."""

    @pytest.fixture(autouse=True)
    def _rules(self, service: Service, issuer: Issuer) -> None:
        service.rules = TokenRules(jwks_url=issuer.url)

    async def test_a_good_token(self, anonymous: Client, issuer: Issuer) -> None:
        issuer.keys = [jwk(EC, kid="e")]
        headers = {"Authorization": signed(EC, "ES256", "e")}
        assert (await send(anonymous, "GET", "/v1/1/codes/count?type=tm", headers=headers)).status == 200

    async def test_unavailable_keys(self, anonymous: Client, issuer: Issuer) -> None:
        issuer.answer = web.Response(status=500)
        headers = {"Authorization": signed(EC, "ES256", "e")}
        reply = await send(anonymous, "GET", "/v1/1/codes/count?type=tm", headers=headers)
        assert (reply.status, reply.code) == (503, "keysUnavailable")
        assert (await send(anonymous, "GET", "/v1/1/codes/count?type=tm")).code == "unauthorized"

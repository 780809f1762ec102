"""Key sets: fetched over real HTTP, rotated, slow, broken and gone."""

import asyncio
import gzip
import logging
import time
import warnings
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import jwt
import orjson
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm
from webroom import SECRET, Client, Service, send, token

from codesvc.web.auth import Authenticator, TokenRules, UnauthorizedError
from codesvc.web.keys import JwksKeys, KeysUnavailableError

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
    strays: int = 0
    """Requests for any other address."""
    url: str = ""

    async def serve(self, _: web.Request) -> web.Response:
        self.requests += 1
        await asyncio.sleep(self.delay)
        answer = self.answer or web.Response(body=orjson.dumps({"keys": self.keys}))
        # A response is sent once.
        return web.Response(body=answer.body, status=answer.status, headers=answer.headers)

    async def stray(self, _: web.Request) -> web.Response:
        self.strays += 1
        return web.Response(body=orjson.dumps({"keys": self.keys}))


@pytest.fixture
async def issuer() -> AsyncIterator[Issuer]:
    issuer = Issuer()
    app = web.Application()
    app.router.add_get("/jwks.json", issuer.serve)
    app.router.add_route("*", "/{other:.*}", issuer.stray)
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


BROKEN = [
    web.Response(status=500, body=b'{"keys": []}'),
    web.Response(status=204),
    web.Response(body=b""),
    web.Response(body=b"<html>"),
    web.Response(body=b'{"keys": []}'),
    web.Response(body=b'{"keys": {"e": {}}}'),
    web.Response(body=b'{"keys": [null, 5, "x", {}, []]}'),
    web.Response(body=b"[" * 50_000),
    web.Response(body=b'{"keys": [' + b'{"kty":' * 50_000),
    web.Response(body=b'\xff\xfe{"keys": []}'),
    web.Response(body=b"not gzip", headers={"Content-Encoding": "gzip"}),
    web.Response(body=gzip.compress(b'{"keys": [' + b" " * (64 << 20)), headers={"Content-Encoding": "gzip"}),
]


async def fetched(issuer: Issuer, times: int) -> None:
    """Wait until the key set was asked for so many times."""
    async with asyncio.timeout(10):
        while issuer.requests < times:  # noqa: ASYNC110 - the server has no event to wait for
            await asyncio.sleep(0.005)


async def settled(authenticator: Authenticator) -> None:
    """Wait until no fetch is under way."""
    assert authenticator._jwks is not None
    async with asyncio.timeout(10):
        while authenticator._jwks._fetching is not None:  # noqa: ASYNC110 - nor has this
            await asyncio.sleep(0.005)


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
    for minute, answer in enumerate(BROKEN, start=1):
        issuer.answer = answer
        clock.ahead = 60 * minute
        await authenticator.authenticate(signed(EC, "ES256", "e", jti=str(minute)))
        await fetched(issuer, minute + 1)
        await settled(authenticator)
    issuer.answer, issuer.keys = None, [jwk(RSA, kid="r")]
    clock.ahead += 60
    await authenticator.authenticate(signed(EC, "ES256", "e", jti="for the last time"))
    await fetched(issuer, len(BROKEN) + 2)
    await settled(authenticator)
    with pytest.raises(UnauthorizedError):
        await authenticator.authenticate(signed(EC, "ES256", "e", jti="too late"))


@pytest.mark.parametrize("answer", BROKEN)
async def test_what_is_no_key_set_lets_nobody_in(
    issuer: Issuer, authenticator: Authenticator, answer: web.Response
) -> None:
    issuer.answer = answer
    for kid in ("e", None):
        with pytest.raises(KeysUnavailableError):
            await authenticator.authenticate(signed(EC, "ES256", kid))


async def test_an_issuer_that_hangs_holds_nobody_up_twice(
    issuer: Issuer, authenticator: Authenticator, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who finds the set old waits for a fetch once; from then on, known keys go on beside the tries."""
    issuer.keys = [jwk(EC, kid="e")]
    await authenticator.authenticate(signed(EC, "ES256", "e"))
    issuer.delay = 60
    clock.ahead = 60
    monkeypatch.setattr(JwksKeys, "TIMEOUT", aiohttp.ClientTimeout(total=0.1))
    await authenticator.authenticate(signed(EC, "ES256", "e", jti="waits"))
    # The next try has all the time of the world, and nobody to wait for it.
    monkeypatch.setattr(JwksKeys, "TIMEOUT", aiohttp.ClientTimeout(total=60))
    async with asyncio.timeout(20):
        for minute in range(2, 12):
            clock.ahead = 60 * minute
            await authenticator.authenticate(signed(EC, "ES256", "e", jti=str(minute)))
        await fetched(issuer, 3)
    assert issuer.requests == 3


async def test_rotation_while_requests_run(
    issuer: Issuer, authenticator: Authenticator, clock: Clock
) -> None:
    """Nobody whose key is in the set before and after a change is turned away for it."""
    steady, keys = signed(EC, "ES256", "steady"), [jwk(EC, kid="steady")]
    issuer.keys, issuer.delay = keys, 0.01
    ended = asyncio.Event()

    async def call(number: int) -> int:
        calls = 0
        while not ended.is_set():
            await authenticator.authenticate(signed(EC, "ES256", "steady", jti=f"{number}-{calls}"))
            await authenticator.authenticate(steady)
            calls += 1
            await asyncio.sleep(0)
        return calls

    callers = [asyncio.create_task(call(number)) for number in range(8)]
    for number in range(5):
        fresh = ec.generate_private_key(ec.SECP256R1())
        issuer.keys = [*keys, jwk(fresh, kid=f"fresh-{number}")]
        clock.ahead += JwksKeys.FRESH + 1
        await authenticator.authenticate(signed(fresh, "ES256", f"fresh-{number}"))
    ended.set()
    assert min(await asyncio.gather(*callers)) > 0


@pytest.mark.parametrize("location", ["/jwks.json", "http://localhost:1/", "//evil.example/", ""])
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_not_followed(
    issuer: Issuer, authenticator: Authenticator, location: str, status: int
) -> None:
    """Not even to itself: the address that was configured is what is trusted."""
    issuer.keys = [jwk(EC, kid="e")]
    body = orjson.dumps({"keys": issuer.keys})
    issuer.answer = web.Response(status=status, headers={"Location": location}, body=body)
    with pytest.raises(KeysUnavailableError):
        await authenticator.authenticate(signed(EC, "ES256", "e"))
    assert (issuer.requests, issuer.strays) == (1, 0)


async def test_addresses_that_a_token_names_are_not_asked(
    issuer: Issuer, authenticator: Authenticator
) -> None:
    issuer.keys = [jwk(EC, kid="e")]
    stray = issuer.url.replace("jwks.json", "mine.json")
    mine = ec.generate_private_key(ec.SECP256R1())
    for header in (
        {"jku": stray},
        {"x5u": stray},
        {"jwk": jwk(mine, kid="e")},
        {"x5c": ["AAAA"]},
        {"kid": stray},
        {"kid": "../mine.json"},
        {"kid": f"e\x00{stray}"},
    ):
        text = jwt.encode(
            {"exp": time.time() + 60, "isSupreme": True},
            mine,
            algorithm="ES256",
            headers={"kid": "e", **header},
        )
        with pytest.raises(UnauthorizedError):
            await authenticator.authenticate(f"Bearer {text}")
    assert issuer.strays == 0


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize(
    "kid", ["", "E", "e ", " e", "e\x00", "\uff45", "e' OR '1'='1", "*", ".*", "x" * 3000]
)
async def test_key_ids_are_compared_and_nothing_else(
    issuer: Issuer, authenticator: Authenticator, kid: str
) -> None:
    issuer.keys = [jwk(EC, kid="e")]
    text = jwt.encode({"exp": time.time() + 60, "isSupreme": True}, EC, "ES256", headers={"kid": kid})
    with pytest.raises(UnauthorizedError):
        await authenticator.authenticate(f"Bearer {text}")


async def test_two_keys_of_one_id(issuer: Issuer, authenticator: Authenticator) -> None:
    other = ec.generate_private_key(ec.SECP256R1())
    issuer.keys = [jwk(EC, kid="e"), jwk(other, kid="e"), jwk(RSA, kid="e")]
    await authenticator.authenticate(signed(EC, "ES256", "e"))
    await authenticator.authenticate(signed(other, "ES256", "e"))
    await authenticator.authenticate(signed(RSA, "RS256", "e"))


async def test_keys_that_are_for_something_else(issuer: Issuer, authenticator: Authenticator) -> None:
    short = rsa.generate_private_key(public_exponent=65537, key_size=1024)
    k256 = ec.generate_private_key(ec.SECP256K1())
    issuer.keys = [
        jwk(EC, kid="sign", key_ops=["sign"]),
        jwk(EC, kid="encrypt", key_ops=["encrypt", "wrapKey"]),
        jwk(EC, kid="nothing", key_ops=[]),
        jwk(EC, kid="use", use="enc", key_ops=["verify"]),
        jwk(short, kid="short"),
        {**jwk(EC, kid="alg"), "alg": "HS256"},
        {**jwk(k256, kid="curve"), "crv": "P-256"},
        jwk(EC, kid="fine", key_ops=["verify"]),
    ]
    await authenticator.authenticate(signed(EC, "ES256", "fine"))
    for kid in ("sign", "encrypt", "nothing", "use", "alg"):
        with pytest.raises(UnauthorizedError):
            await authenticator.authenticate(signed(EC, "ES256", kid))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        text = signed(short, "RS256", "short")
    with pytest.raises(UnauthorizedError):
        await authenticator.authenticate(text)


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("http://issuer.example/keys", True),
        ("HTTP://10.0.0.1/keys", True),
        ("https://issuer.example/keys", False),
        ("http://127.0.0.1:8080/keys", False),
        ("http://localhost/keys", False),
    ],
)
def test_an_address_that_anybody_on_the_way_can_answer_for(
    caplog: pytest.LogCaptureFixture, url: str, told: bool
) -> None:
    with caplog.at_level(logging.WARNING):
        Authenticator(TokenRules(jwks_url=url))
    assert ["CODESVC_JWT_JWKS_URL" in record.message for record in caplog.records] == [True] * told
    assert "issuer" not in caplog.text


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

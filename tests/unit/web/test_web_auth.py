"""Who may call: tokens of every kind, and tokens of no kind."""

import base64
import hashlib
import hmac
import json
import logging
import time
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from webroom import SECRET, Client, Service, bearer, send, token

from codesvc.errors import SettingsError
from codesvc.web.auth import (
    Authenticator,
    SupremeUserRequiredError,
    TokenRules,
    UnauthorizedError,
    mint_token,
)

pytest_plugins = ("webroom",)

RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
KEYS: dict[str, Any] = {
    "RS256": RSA_KEY,
    "PS384": RSA_KEY,
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "ES384": ec.generate_private_key(ec.SECP384R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate(),
}


def public_pem(key: Any) -> str:
    pem: bytes = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return pem.decode()


def claims(**changes: Any) -> dict[str, Any]:
    return {"exp": time.time() + 60, "isSupreme": True} | changes


def encoded(value: Any) -> str:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def forged(header: dict[str, Any], payload: Any, secret: str | bytes = SECRET) -> str:
    """Sign by hand with an HMAC, where a library would refuse to."""
    text = f"{encoded(header)}.{encoded(payload)}"
    key = secret.encode() if isinstance(secret, str) else secret
    return f"{text}.{encoded(hmac.new(key, text.encode(), hashlib.sha256).digest())}"


async def accepts(rules: TokenRules, text: str) -> bool:
    authenticator = Authenticator(rules)
    try:
        await authenticator.authenticate(f"Bearer {text}")
    except UnauthorizedError:
        return False
    finally:
        await authenticator.close()
    return True


HS = {"alg": "HS256", "typ": "JWT"}


class TestHeader:
    """The Authorization header."""

    @pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "Bearer "])
    async def test_the_scheme_in_any_case(self, anonymous: Client, scheme: str) -> None:
        reply = await send(
            anonymous, "GET", "/v1/1/codes/count?type=tm", headers={"Authorization": f"{scheme} {token()}"}
        )
        assert reply.status == 200

    async def test_none(self, anonymous: Client, service: Service) -> None:
        for method, path in (
            *(("GET", "/v1/1/codes/count?type=tm"), ("GET", "/v1/1/reserve?type=tm&count=1")),
            *(("POST", f"/v1/1/{action}") for action in ("codes", "reserve", "assign", "release")),
            *(("GET", "/v1"), ("GET", "/v1/"), ("GET", "/v1/no/such/route"), ("DELETE", "/v1/1/assign")),
            *(
                ("HEAD", "/v1/1/reserve"),
                ("GET", "/%76%31/1/codes/count?type=tm"),
                ("GET", "/v1/%20/reserve"),
            ),
        ):
            reply = await send(anonymous, method, path)
            assert reply.status == 401, path
            assert reply.headers["WWW-Authenticate"] == 'Bearer realm="codesvc"'
            if method != "HEAD":
                assert reply.code == "unauthorized"
        assert not service.inventory.calls

    async def test_it_comes_before_everything_else_that_is_wrong(self, anonymous: Client) -> None:
        reply = await send(
            anonymous, "POST", "/v1/a%20b/assign", data=b"{", headers={"Content-Type": "text/x"}
        )
        assert (reply.status, reply.code) == (401, "unauthorized")

    @pytest.mark.parametrize(
        "header", ["", "Bearer", "Bearer ", "Basic dTpw", "Token x", "x", "Bearer\u00e9 x"]
    )
    async def test_without_a_bearer_token(self, anonymous: Client, header: str) -> None:
        reply = await send(anonymous, "GET", "/v1/1/codes/count?type=tm", headers={"Authorization": header})
        assert (reply.status, reply.code) == (401, "unauthorized")

    @pytest.mark.parametrize(
        "text",
        ["x", "a.b", "a.b.c", "..", "a.b.c.d", f"{token()} {token()}", token() + "x", token()[:-2], "é.é.é"],
    )
    async def test_with_a_token_that_is_none(self, anonymous: Client, text: str) -> None:
        headers = {"Authorization": f"Bearer {text}"}
        reply = await send(anonymous, "GET", "/v1/1/codes/count?type=tm", headers=headers)
        assert (reply.status, reply.code) == (401, "unauthorized")
        assert 'error="invalid_token"' in reply.headers["WWW-Authenticate"]

    async def test_the_other_routes_need_none(self, anonymous: Client) -> None:
        for path in (
            "/metrics",
            "/heartbeat",
            "/livez",
            "/readyz",
            "/openapi.json",
            "/docs",
            "/docs/docs.js",
            "/console",
            "/console/console.js",
        ):
            assert (await send(anonymous, "GET", path)).status == 200, path


class TestClaims:
    """What a token says."""

    @pytest.mark.parametrize("value", [False, None, 1, "true", "True", [True], {}])
    async def test_supreme_is_true_and_nothing_else(self, anonymous: Client, value: object) -> None:
        headers = {"Authorization": f"Bearer {forged(HS, claims(isSupreme=value))}"}
        reply = await send(anonymous, "GET", "/v1/1/codes/count?type=tm", headers=headers)
        assert (reply.status, reply.code) == (401, "supremeUserRequired")

    async def test_supreme_is_required(self, anonymous: Client) -> None:
        reply = await send(anonymous, "GET", "/v1/1/codes/count?type=tm", headers=bearer(supreme=False))
        assert (reply.status, reply.code) == (401, "supremeUserRequired")
        headers = {"Authorization": f"Bearer {forged(HS, {'exp': time.time() + 60})}"}
        again = await send(anonymous, "GET", "/v1/1/codes/count?type=tm", headers=headers)
        assert again.code == "supremeUserRequired"

    @pytest.mark.parametrize("exp", [None, "", "9999999999", True, [], {}, -1, 0, 1.5])
    async def test_exp_is_a_number_in_the_future(self, exp: object) -> None:
        assert not await accepts(TokenRules(secret=SECRET), forged(HS, claims(exp=exp)))

    async def test_exp_is_required(self) -> None:
        assert not await accepts(TokenRules(secret=SECRET), forged(HS, {"isSupreme": True}))

    async def test_exp_and_leeway(self) -> None:
        late = forged(HS, claims(exp=time.time() - 5))
        assert not await accepts(TokenRules(secret=SECRET), late)
        assert not await accepts(TokenRules(secret=SECRET, leeway=4), late)
        assert await accepts(TokenRules(secret=SECRET, leeway=60), late)
        assert await accepts(TokenRules(secret=SECRET), forged(HS, claims(exp=time.time() + 2.5)))

    async def test_nbf_and_leeway(self) -> None:
        early = forged(HS, claims(nbf=time.time() + 5))
        assert not await accepts(TokenRules(secret=SECRET), early)
        assert await accepts(TokenRules(secret=SECRET, leeway=10), early)
        assert not await accepts(TokenRules(secret=SECRET), forged(HS, claims(nbf="soon")))

    async def test_what_nobody_asks_for_is_not_looked_at(self) -> None:
        extra = claims(iat=time.time() + 60, sub=5, jti=[], aud="whoever", iss="whoever", other=None)
        assert await accepts(TokenRules(secret=SECRET), forged(HS, extra))

    @pytest.mark.parametrize(
        ("issuer", "fine"), [("us", True), ("them", False), (None, False), (["us"], False)]
    )
    async def test_issuer(self, issuer: object, fine: bool) -> None:
        assert await accepts(TokenRules(secret=SECRET, issuer="us"), forged(HS, claims(iss=issuer))) is fine

    @pytest.mark.parametrize(
        ("audience", "fine"),
        [
            ("me", True),
            (["you", "me"], True),
            ("you", False),
            ([], False),
            (None, False),
            ({"me": 1}, False),
            ("me2", False),
        ],
    )
    async def test_audience(self, audience: object, fine: bool) -> None:
        assert (
            await accepts(TokenRules(secret=SECRET, audience="me"), forged(HS, claims(aud=audience))) is fine
        )

    @pytest.mark.parametrize("payload", [[], "text", 1, None, b"", b"\xff", b"{"])
    async def test_claims_are_an_object(self, payload: object) -> None:
        assert not await accepts(TokenRules(secret=SECRET), forged(HS, payload))


class TestAlgorithms:
    """The kind of key decides."""

    @pytest.mark.parametrize(
        "algorithm", ["none", "None", "NONE", "", "HS384", "HS512", "RS256", "ES256", "XX", None, 5]
    )
    async def test_others_than_the_secret_is_for(self, algorithm: object) -> None:
        text = forged({"alg": algorithm, "typ": "JWT"}, claims())
        assert not await accepts(TokenRules(secret=SECRET), text)
        assert not await accepts(TokenRules(secret=SECRET), text.rpartition(".")[0] + ".")

    async def test_no_algorithm(self) -> None:
        assert not await accepts(TokenRules(secret=SECRET), forged({"typ": "JWT"}, claims()))

    @pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
    async def test_configured_hmac(self, algorithm: str) -> None:
        text = mint_token(secret=SECRET, algorithm=algorithm)
        assert await accepts(TokenRules(secret=SECRET, algorithms=(algorithm,)), text)
        assert await accepts(TokenRules(secret=SECRET), text) is (algorithm == "HS256")

    @pytest.mark.parametrize("algorithm", KEYS)
    async def test_public_keys(self, algorithm: str) -> None:
        key = KEYS[algorithm]
        text = jwt.encode(claims(), key, algorithm=algorithm)
        rules = TokenRules(public_key=public_pem(key), algorithms=(algorithm,))
        assert await accepts(rules, text)
        assert not await accepts(rules, text[:-8] + "AAAAAAAA")
        assert not await accepts(rules, jwt.encode(claims(exp=1), key, algorithm=algorithm))
        if algorithm in {"RS256", "ES256", "EdDSA"}:
            assert await accepts(TokenRules(public_key=public_pem(key)), text)

    async def test_another_key_of_the_same_kind(self) -> None:
        other = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        rules = TokenRules(public_key=public_pem(RSA_KEY))
        assert not await accepts(rules, jwt.encode(claims(), other, algorithm="RS256"))

    @pytest.mark.parametrize("encoding", [Encoding.PEM, Encoding.DER])
    async def test_a_public_key_is_no_secret(self, encoding: Encoding) -> None:
        public = RSA_KEY.public_key().public_bytes(encoding, PublicFormat.SubjectPublicKeyInfo)
        confused = forged(HS, claims(), public)
        assert not await accepts(TokenRules(public_key=public_pem(RSA_KEY)), confused)
        assert not await accepts(TokenRules(public_key=public_pem(RSA_KEY), secret=SECRET), confused)

    async def test_both_kinds_at_once(self) -> None:
        rules = TokenRules(secret=SECRET, public_key=public_pem(KEYS["ES256"]))
        assert await accepts(rules, token())
        assert await accepts(rules, jwt.encode(claims(), KEYS["ES256"], algorithm="ES256"))
        assert not await accepts(rules, jwt.encode(claims(), RSA_KEY, algorithm="RS256"))

    async def test_an_algorithm_that_is_not_allowed(self) -> None:
        rules = TokenRules(secret=SECRET, public_key=public_pem(RSA_KEY), algorithms=("RS256",))
        assert await accepts(rules, jwt.encode(claims(), RSA_KEY, algorithm="RS256"))
        assert not await accepts(rules, token())
        assert not await accepts(rules, jwt.encode(claims(), RSA_KEY, algorithm="RS512"))

    @pytest.mark.parametrize(
        "header", [{"crit": ["exp"], "exp": 1}, {"kid": 5}, {"b64": False, "crit": ["b64"]}]
    )
    async def test_headers_that_are_not_understood(self, header: dict[str, Any]) -> None:
        assert not await accepts(TokenRules(secret=SECRET), forged(HS | header, claims()))


class TestKeys:
    """Keys that cannot be used are told at start."""

    @pytest.mark.parametrize(
        "key", ["", "text", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "é"]
    )
    def test_no_public_key(self, key: str) -> None:
        with pytest.raises(SettingsError, match=r"CODESVC_JWT_PUBLIC_KEY: "):
            Authenticator(TokenRules(public_key=key))

    def test_a_private_key_is_not_public(self) -> None:
        pem = RSA_KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
        with pytest.raises(SettingsError, match="CODESVC_JWT_PUBLIC_KEY: is not a public key") as caught:
            Authenticator(TokenRules(public_key=pem))
        assert pem.splitlines()[1] not in str(caught.value)

    def test_a_key_that_fits_no_algorithm(self) -> None:
        with pytest.raises(SettingsError, match="fits none"):
            Authenticator(TokenRules(public_key=public_pem(RSA_KEY), algorithms=("ES256",)))
        with pytest.raises(SettingsError, match="fits none"):
            Authenticator(TokenRules(public_key=public_pem(ec.generate_private_key(ec.SECP256K1()))))

    def test_a_secret_that_is_a_public_key(self) -> None:
        with pytest.raises(SettingsError, match="CODESVC_JWT_SECRET: "):
            Authenticator(TokenRules(secret=public_pem(RSA_KEY)))

    async def test_a_short_secret_works_and_is_told_once(self, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.WARNING):
            authenticator = Authenticator(TokenRules(secret="short"))
            for ttl in (10, 20, 30):
                await authenticator.authenticate(f"Bearer {mint_token(secret='short', ttl=ttl)}")
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert "short" not in caplog.text.replace("shorter", "")

    def test_rules_do_not_show_the_secret(self) -> None:
        assert SECRET not in repr(TokenRules(secret=SECRET))


class TestMemory:
    """A token that was found valid is not verified again, but no longer than it holds."""

    async def test_until_it_expires(self, monkeypatch: pytest.MonkeyPatch) -> None:
        authenticator = Authenticator(TokenRules(secret=SECRET, leeway=5))
        header = f"Bearer {token(ttl=60)}"
        now = time.time()
        await authenticator.authenticate(header)
        monkeypatch.setattr(time, "time", lambda: now + 64)
        await authenticator.authenticate(header)
        monkeypatch.setattr(time, "time", lambda: now + 66)
        with pytest.raises(UnauthorizedError, match="expired"):
            await authenticator.authenticate(header)

    async def test_is_bounded(self) -> None:
        authenticator = Authenticator(TokenRules(secret=SECRET))
        for ttl in range(100, 100 + Authenticator.REMEMBERED + 50):
            await authenticator.authenticate(f"Bearer {token(ttl=ttl)}")
        assert len(authenticator._remembered) == Authenticator.REMEMBERED

    async def test_does_not_make_anybody_supreme(self) -> None:
        authenticator = Authenticator(TokenRules(secret=SECRET))
        for _ in range(2):
            with pytest.raises(SupremeUserRequiredError):
                await authenticator.authenticate(f"Bearer {token(supreme=False)}")

    async def test_does_not_hold_tokens(self) -> None:
        authenticator = Authenticator(TokenRules(secret=SECRET))
        text = token()
        await authenticator.authenticate(f"Bearer {text}")
        assert text not in repr(vars(authenticator))


def test_minted_tokens() -> None:
    text = mint_token(secret=SECRET * 2, ttl=100, issuer="us", audience="me", algorithm="HS512")
    decoded = jwt.decode(text, SECRET * 2, algorithms=["HS512"], audience="me", issuer="us")
    assert decoded["isSupreme"] is True
    assert decoded["exp"] - decoded["iat"] == 100
    plain = jwt.decode(mint_token(secret=SECRET, supreme=False), SECRET, algorithms=["HS256"])
    assert plain["isSupreme"] is False
    assert not {"iss", "aud"} & plain.keys()

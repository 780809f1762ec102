"""Forged, bent and oversized tokens, against a service with a shared secret and one with a key set.

tests/unit/web/test_web_jwks.py has what needs a clock: outages, rotation, floods.
"""

import base64
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from .forging import encoded, hand_made, part, signed
from .harness import SECRET, Service, assert_problem, eventually, running, token
from .test_tokens import KeySet, jwk, pem

TARGET = "/v1/12345/codes/count?type=tm"
GOOD: dict[str, Any] = {"exp": 9_999_999_999, "isSupreme": True}
HS: dict[str, Any] = {"alg": "HS256", "typ": "JWT"}
RSA = rsa.generate_private_key(65537, 2048)
EC = ec.generate_private_key(ec.SECP256R1())


def refuse(service: Service, text: str, code: str = "unauthorized") -> None:
    """Check that a token is refused, and that nothing of it comes back."""
    reply = service.get(TARGET, auth=f"Bearer {text}")
    problem = assert_problem(reply, 401, code)
    assert not text or text not in json.dumps(problem) + str(reply.headers)


@pytest.fixture(scope="module")
def keyed(
    api_settings: dict[str, str | None],
    tmp_path_factory: pytest.TempPathFactory,
    new_database: Callable[[str], str],
) -> Iterator[tuple[Service, KeySet]]:
    """A service that trusts a key set and nothing else, and its key set."""
    key_set = KeySet()
    key_set.keys = [jwk(RSA, "rsa-1", alg="RS256"), jwk(EC, "ec-1", alg="ES256")]
    settings = api_settings | {
        "CODESVC_JWT_SECRET": None,
        "CODESVC_JWT_JWKS_URL": key_set.url,
        "CODESVC_MONGO_DATABASE": new_database("keyed"),
    }
    log: Path = tmp_path_factory.mktemp("keyed") / "log"
    try:
        with running(Service(log, **settings)) as service:
            yield service, key_set
    finally:
        key_set.close()


# The algorithm

UNSIGNED = [
    "none",
    "None",
    "NONE",
    "nOnE",
    "none ",
    " none",
    "none\x00",
    "n\u043ene",
    "",
    "null",
    "HS0",
    "HMAC",
    "SHA256",
]


@pytest.mark.parametrize(
    "algorithm", [*UNSIGNED, "hs256", "HS256 ", "HS256\x00", "Hs256", "RS256", "ES256", "EdDSA"]
)
@pytest.mark.parametrize("signature", ["", "AAAA", "signed"])
def test_algorithms_that_are_none(service: Service, algorithm: str, signature: str) -> None:
    text = hand_made(GOOD, {"alg": algorithm})
    refuse(service, text if signature == "signed" else f"{text.rpartition('.')[0]}.{signature}")


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512", "none", "hs256"])
def test_public_keys_as_secrets(keyed: tuple[Service, KeySet], algorithm: str) -> None:
    """The confusion of HMAC and RSA: the public key, in every form that a library may keep it in, as the secret."""
    service, key_set = keyed
    public = RSA.public_key()
    secrets = [
        pem(RSA).encode(),
        pem(RSA).strip().encode(),
        public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        public.public_bytes(Encoding.DER, PublicFormat.PKCS1),
        public.public_bytes(Encoding.PEM, PublicFormat.PKCS1),
        json.dumps(key_set.keys[0]).encode(),
        base64.urlsafe_b64decode(key_set.keys[0]["n"] + "=="),
        key_set.keys[0]["n"].encode(),
        b"",
    ]
    for secret in secrets:
        for kid in ("rsa-1", "ec-1", None):
            header = {"alg": algorithm} | ({} if kid is None else {"kid": kid})
            refuse(service, signed(part(header), part(GOOD), secret=secret))


@pytest.mark.parametrize("size", [64, 70, 0, 1])
def test_signatures_of_nothing_but_zeros(keyed: tuple[Service, KeySet], size: int) -> None:
    """CVE-2022-21449: r and s of zero verified everything."""
    service, _ = keyed
    head, body = part({"alg": "ES256", "kid": "ec-1"}), part(GOOD)
    for byte in (b"\x00", b"\xff"):
        refuse(service, f"{head}.{body}.{encoded(byte * size)}")


# The header

ODD_IDS: list[Any] = [
    "../../../../dev/null",
    "/dev/null",
    "file:///etc/passwd",
    "http://127.0.0.1:1/keys.json",
    "rsa-1\x00",
    "x' UNION SELECT 'secret' -- ",
    "$(id)",
    "|id",
    "{{7*7}}",
    "%00",
    "",
    "x" * 4000,
    "\ud800",
    5,
    None,
    True,
    ["rsa-1"],
    {"$ne": ""},
]


@pytest.mark.parametrize("kid", ODD_IDS, ids=lambda kid: repr(kid)[:30])
def test_key_ids(service: Service, keyed: tuple[Service, KeySet], kid: Any) -> None:
    """An id chooses among the keys that are known; it is no path, no query and no address."""
    for secret in (b"", b"\x00", b"secret"):
        refuse(service, signed(part(HS | {"kid": kid}), part(GOOD), secret=secret))
        refuse(keyed[0], signed(part(HS | {"kid": kid}), part(GOOD), secret=secret))


@pytest.mark.parametrize(
    "extra",
    [
        {"jwk": {"kty": "oct", "k": encoded(b"mine")}},
        {"jku": "http://127.0.0.1:1/keys.json"},
        {"x5u": "http://127.0.0.1:1/cert.pem"},
        {"x5c": [encoded(b"mine")]},
        {"jwk": jwk(RSA, "rsa-1")},
    ],
    ids=lambda extra: next(iter(extra)),
)
def test_keys_that_a_token_brings_along(
    service: Service, keyed: tuple[Service, KeySet], extra: dict[str, Any]
) -> None:
    for each in (service, keyed[0]):
        refuse(each, signed(part(HS | extra), part(GOOD), secret=b"mine"))
    stranger = rsa.generate_private_key(65537, 2048)
    own = token(stranger, "RS256", headers={"kid": "rsa-1", "jwk": jwk(stranger, "rsa-1"), **extra})
    refuse(keyed[0], own)


@pytest.mark.parametrize(
    "header",
    [
        HS | {"crit": ["exp"]},
        HS | {"crit": ["b64"], "b64": False},
        HS | {"crit": ["http://example/"], "http://example/": 1},
        HS | {"crit": []},
        HS | {"crit": "exp"},
        HS | {"b64": False},
        b'{"alg":"HS256","alg":"none"}',
        b'{"alg":"HS256"',
        b'["HS256"]',
        b'"HS256"',
        b"null",
        b"",
        b"\xff\xfe",
        b'{"alg":"HS256","x":' + b"[" * 5000,
        b'{"alg":"HS256","x":' + b"[" * 2500 + b"]" * 2500 + b"}",
        b'{"a":' * 1000 + b"1" + b"}" * 1000,
        b'{"alg":"HS256","x":' + b"9" * 5000 + b"}",
    ],
    ids=lambda header: str(header)[:40],
)
def test_headers(service: Service, header: Any) -> None:
    """What must be understood and is not (RFC 7515, section 4.1.11), and what is no header: 401, never 500."""
    refuse(service, hand_made(GOOD, header))


# The claims


@pytest.mark.parametrize(
    "claims",
    [
        {"exp": "9999999999"},
        {"exp": "4102444800"},
        {"exp": [9_999_999_999]},
        {"exp": {"$gt": 0}},
        {"exp": True},
        {"exp": -9_999_999_999},
        {"exp": 0.5},
        {"nbf": 9_999_999_999},
        {"nbf": "0"},
        {"nbf": {}},
        b'{"exp":1e999,"isSupreme":true}',
        b'{"exp":Infinity,"isSupreme":true}',
        b'{"exp":NaN,"isSupreme":true}',
        b'{"exp":9999999999,"exp":1,"isSupreme":true}',
        b'{"exp":9999999999,"isSupreme":true,"x":' + b"[" * 2500 + b"]" * 2500 + b"}",
        b'{"exp":9999999999,"isSupreme":true}{}',
        b'{"exp":9999999999,"isSupreme":true,"x":"\xff"}',
        b"\xef\xbb\xbf" + json.dumps(GOOD).encode(),
        json.dumps(GOOD).encode("utf-16"),
    ],
    ids=lambda claims: str(claims)[:40],
)
def test_claims(service: Service, claims: Any) -> None:
    refuse(service, hand_made({**GOOD, **claims} if isinstance(claims, dict) else claims))


@pytest.mark.parametrize("claim", ["true", "True", 1, 1.0, "1", [True], {"$ne": False}, {}, "yes", None, 0])
def test_what_is_nearly_true(service: Service, claim: Any) -> None:
    refuse(service, hand_made(GOOD | {"isSupreme": claim}), "supremeUserRequired")


@pytest.mark.parametrize(
    "name", ["issupreme", "IsSupreme", "isSupreme ", "is_supreme", "isSupreme\x00", "\uff49sSupreme"]
)
def test_names_that_are_nearly_right(service: Service, name: str) -> None:
    refuse(service, hand_made({"exp": 9_999_999_999, name: True}), "supremeUserRequired")


def test_the_last_of_two_says_who_is_supreme(service: Service) -> None:
    """As all JSON here is read; one reader judges and uses it, so nobody is of two minds."""
    refuse(
        service, hand_made(b'{"exp":9999999999,"isSupreme":true,"isSupreme":false}'), "supremeUserRequired"
    )


def test_a_number_that_is_no_whole_one(service: Service) -> None:
    """NumericDate may have a fraction (RFC 7519, section 2)."""
    assert service.get(TARGET, auth=f"Bearer {hand_made(GOOD | {'exp': time.time() + 60.5})}").status == 200


# The size and the spelling


@pytest.mark.parametrize("size", [8_200, 60_000, 1_000_000])
def test_tokens_that_are_too_long(service: Service, size: int) -> None:
    reply = service.get(TARGET, auth=f"Bearer {hand_made(GOOD | {'x': 'x' * size})}")
    assert_problem(reply, 400, "badRequest")


def test_the_longest_token(service: Service) -> None:
    longest = hand_made(GOOD | {"x": "x" * 5500})
    assert 7_000 < len(longest) < 8_000
    assert service.get(TARGET, auth=f"Bearer {longest}").status == 200


def test_other_spellings_of_a_good_token(service: Service) -> None:
    """Characters that lenient decoders of base64 pass over, further parts, and the other alphabet."""
    head, body, signature = hand_made(GOOD).split(".")
    for text in (
        f"{head}.{body}.{signature[:5]}!{signature[5:]}",
        f"{head}.{body}.{signature[:5]}%0A{signature[5:]}",
        f"{head}.{body}.{signature}.",
        f"{head}.{body}.{signature}.{signature}",
        f".{head}.{body}.{signature}",
        f"{head}..{body}.{signature}",
        f"{head}=.{body}.{signature}",
        f"{head}.{body[:-1]}.{signature}",
        f"{head}.{body}.{signature[:-1]}",
        f"{head}.{body}.{signature.swapcase()}",
        f"{body}.{head}.{signature}",
    ):
        refuse(service, text)


# What is remembered


def test_a_token_that_was_fine_expires(service: Service) -> None:
    """It is not verified anew for each request, but never outlives its exp."""
    auth = f"Bearer {hand_made(GOOD | {'exp': time.time() + 1.5})}"
    assert service.get(TARGET, auth=auth).status == 200
    eventually(lambda: service.get(TARGET, auth=auth).status == 401, limit=10)
    assert_problem(service.get(TARGET, auth=auth), 401, "unauthorized")


def test_a_remembered_token_vouches_for_no_other(service: Service) -> None:
    good = hand_made(GOOD | {"jti": "remembered"})
    assert service.get(TARGET, auth=f"Bearer {good}").status == 200
    head, body, _ = good.split(".")
    refuse(service, f"{head}.{body}.")
    refuse(service, f"{head}.{body}.{encoded(bytes(32))}")
    refuse(service, signed(head, body, secret=SECRET.encode() + b"x"))
    assert service.get(TARGET, auth=f"Bearer {good}").status == 200

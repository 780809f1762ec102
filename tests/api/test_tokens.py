"""Who may come in: every way a token is checked."""

import http.server
import json
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from .forging import encoded, hand_made, part, signed
from .harness import SECRET, Reply, Service, assert_problem, eventually, in_parallel, running, token

TARGET = "/v1/12345/codes/count?type=tm"


def ask(service: Service, auth: str | None) -> Reply:
    return service.get(TARGET, auth=auth)


def assert_unauthorized(service: Service, auth: str | None) -> None:
    problem = assert_problem(ask(service, auth), 401, "unauthorized")
    if auth:
        assert auth.split()[-1] not in json.dumps(problem)


def pem(key: Any) -> str:
    text: bytes = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return text.decode()


RSA = rsa.generate_private_key(65537, 2048)
OTHER_RSA = rsa.generate_private_key(65537, 2048)
EC = ec.generate_private_key(ec.SECP256R1())
ED = ed25519.Ed25519PrivateKey.generate()


class KeySet:
    """A key set behind an address, which counts how often it is asked for."""

    def __init__(self) -> None:
        self.keys: list[dict[str, Any]] = []
        self.status = 200
        self.fetched = 0
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.fetched += 1
                body = json.dumps({"keys": outer.keys}).encode()
                self.send_response(outer.status)
                self.send_header("Content-Type", "application/jwk-set+json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
                """Say nothing."""

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}/keys.json"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


def jwk(key: Any, kid: str | None, **members: str) -> dict[str, Any]:
    algorithms: dict[type, Any] = {
        rsa.RSAPublicKey: jwt.algorithms.RSAAlgorithm,
        ec.EllipticCurvePublicKey: jwt.algorithms.ECAlgorithm,
        ed25519.Ed25519PublicKey: jwt.algorithms.OKPAlgorithm,
    }
    public = key.public_key()
    kind = next(found for each, found in algorithms.items() if isinstance(public, each))
    made: dict[str, Any] = json.loads(kind.to_jwk(public))
    made |= {"use": "sig", **members}
    made.pop("key_ops", None)
    if kid is not None:
        made["kid"] = kid
    return made


@pytest.fixture(scope="module")
def key_set() -> Iterator[KeySet]:
    made = KeySet()
    made.keys = [
        jwk(RSA, "rsa-1", alg="RS256"),
        jwk(EC, "ec-1", alg="ES256"),
        jwk(ED, "ed-1", alg="EdDSA"),
        {"kty": "something new", "kid": "of tomorrow"},
    ]
    yield made
    made.close()


@pytest.fixture(scope="module")
def services(
    api_settings: dict[str, str | None],
    logs: Path,
    key_set: KeySet,
    tmp_path_factory: pytest.TempPathFactory,
    new_database: Callable[[str], str],
) -> Iterator[dict[str, Service]]:
    """A service for every kind of key, started side by side."""
    file = tmp_path_factory.mktemp("keys") / "public.pem"
    file.write_text(pem(EC))
    base = api_settings | {"CODESVC_JWT_SECRET": None, "CODESVC_MONGO_DATABASE": new_database("tokens")}
    settings: dict[str, dict[str, str | None]] = {
        "rsa": base
        | {
            "CODESVC_JWT_PUBLIC_KEY": pem(RSA),
            "CODESVC_JWT_ISSUER": "https://issuer.example/",
            "CODESVC_JWT_AUDIENCE": "codesvc",
            "CODESVC_JWT_LEEWAY": "30",
        },
        "ec": base | {"CODESVC_JWT_PUBLIC_KEY": str(file)},
        "ed": base | {"CODESVC_JWT_PUBLIC_KEY": pem(ED), "CODESVC_JWT_ALGORITHMS": "EdDSA"},
        "jwks": base | {"CODESVC_JWT_JWKS_URL": key_set.url},
        "hmac": base | {"CODESVC_JWT_SECRET": "S" * 64, "CODESVC_JWT_ALGORITHMS": "HS384, HS512"},
    }
    made = {name: Service(logs / f"token-{name}.log", **each) for name, each in settings.items()}
    try:
        for each in made.values():
            each.launch()
        for each in made.values():
            each.wait_until_ready()
        yield made
    finally:
        in_parallel([each.stop for each in made.values()])


# With the secret


@pytest.mark.parametrize(
    "auth",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Bearer x",
        "Bearer a.b.c",
        "Bearer ..",
        "Bearer null",
        "Basic dXNlcjpwYXNz",
        f"Token {token()}",
        f"Bearer{token()}",
        token(),
        f"Bearer {token()} {token()}",
        f"Bearer {token()}x",
        f"Bearer {token()[:-6]}",
        f"Bearer ={token()}",
        f"Bearer {token()}\u00e9",
        f'Bearer "{token()}"',
        f"Bearer {token()}, Bearer {token()}",
        f"Bearer {'a' * 3000}.{'b' * 3000}.c",
    ],
)
def test_missing_or_malformed(service: Service, auth: str | None) -> None:
    assert_unauthorized(service, auth)


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_the_scheme_is_case_insensitive(service: Service, scheme: str) -> None:
    """RFC 9110, section 11.1."""
    assert ask(service, f"{scheme} {token()}").status == 200


@pytest.mark.parametrize(
    "claims",
    [
        {"exp": 1},
        {"exp": int(time.time()) - 2},
        {"exp": None},
        {"exp": 0},
        {"exp": -1},
        {"nbf": int(time.time()) + 3600},
    ],
)
def test_not_in_force(service: Service, claims: dict[str, Any]) -> None:
    assert_unauthorized(service, f"Bearer {token(**claims)}")


@pytest.mark.parametrize("exp", ["soon", "9999999999999", [9999999999], {}, True, 1e400, "", None, 9e99])
def test_odd_exp(service: Service, exp: Any) -> None:
    reply = ask(service, f"Bearer {hand_made({'exp': exp, 'isSupreme': True})}")
    # PyJWT and others take digits in a string; what matters is that nothing breaks.
    if exp not in ("9999999999999", 9e99) or reply.status != 200:
        assert_problem(reply, 401, "unauthorized")


def test_wrongly_signed(service: Service) -> None:
    assert_unauthorized(service, f"Bearer {token(SECRET + 'x')}")
    head, body, signature = token().split(".")
    assert_unauthorized(service, f"Bearer {head}.{body}.{signature[::-1]}")
    other = token(isSupreme=True, sub="other").split(".")[1]
    assert_unauthorized(service, f"Bearer {head}.{other}.{signature}")
    assert_unauthorized(service, f"Bearer {head}.{body}.")


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "nOnE"])
def test_unsigned(service: Service, algorithm: str) -> None:
    head, body = part({"alg": algorithm, "typ": "JWT"}), token().split(".")[1]
    assert_unauthorized(service, f"Bearer {head}.{body}.")
    assert_unauthorized(service, f"Bearer {head}.{body}.{token().split('.')[2]}")


@pytest.mark.parametrize("algorithm", ["HS384", "HS512"])
def test_only_hs256_unless_told_so(service: Service, algorithm: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        minted = token(algorithm=algorithm)
    assert_unauthorized(service, f"Bearer {minted}")


def test_signed_with_a_key_the_token_brings_along(service: Service) -> None:
    minted = token(RSA, "RS256", headers={"jwk": jwk(RSA, "mine"), "kid": "mine"})
    assert_unauthorized(service, f"Bearer {minted}")


@pytest.mark.parametrize(
    "header", [{}, {"alg": 5}, {"alg": None}, {"alg": []}, {"alg": "HS256", "crit": ["x"]}]
)
def test_odd_headers(service: Service, header: dict[str, Any]) -> None:
    assert_unauthorized(service, f"Bearer {hand_made({'exp': 9999999999, 'isSupreme': True}, header)}")


@pytest.mark.parametrize("payload", [b"", b"null", b"[]", b'"x"', b"{", b"\xff", b"5"])
def test_odd_payloads(service: Service, payload: bytes) -> None:
    assert_unauthorized(service, f"Bearer {signed(part({'alg': 'HS256'}), encoded(payload))}")


@pytest.mark.parametrize("claim", [False, None, "true", 1, "1", [True], {"isSupreme": True}])
def test_not_supreme(service: Service, claim: Any) -> None:
    problem = assert_problem(ask(service, f"Bearer {token(isSupreme=claim)}"), 401, "supremeUserRequired")
    assert problem["code"] == "supremeUserRequired"


def test_an_expired_token_of_nobody_is_unauthorized(service: Service) -> None:
    assert_unauthorized(service, f"Bearer {token(isSupreme=False, exp=1)}")


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("POST", "/v1/c/codes"),
        ("GET", "/v1/c/codes/count?type=tm"),
        ("GET", "/v1/c/reserve?count=1&type=tm"),
        ("POST", "/v1/c/reserve?count=1&type=tm"),
        ("POST", "/v1/c/assign"),
        ("POST", "/v1/c/release"),
    ],
)
def test_every_route_asks_for_a_token(service: Service, method: str, target: str) -> None:
    """Whatever else is wrong with the request."""
    assert_problem(service.request(method, target, auth=None), 401, "unauthorized")
    reply = service.request(method, target, auth=f"Bearer {token(isSupreme=False)}", json_body={})
    assert_problem(reply, 401, "supremeUserRequired")
    reply = service.request(method, target.replace("/c/", "/ /").replace(" ", "%20"), auth=None)
    assert_problem(reply, 401, "unauthorized")


@pytest.mark.parametrize("path", ["/metrics", "/heartbeat", "/livez", "/readyz", "/openapi.json", "/docs"])
@pytest.mark.parametrize("auth", [None, "Bearer rubbish"])
def test_open_routes(service: Service, path: str, auth: str | None) -> None:
    assert service.get(path, auth=auth).status == 200


# With asymmetric keys

ISSUED = {"iss": "https://issuer.example/", "aud": "codesvc"}


def test_rs256_by_pem_text(services: dict[str, Service]) -> None:
    assert ask(services["rsa"], f"Bearer {token(RSA, 'RS256', **ISSUED)}").status == 200
    assert_unauthorized(services["rsa"], f"Bearer {token(OTHER_RSA, 'RS256', **ISSUED)}")


def test_es256_by_the_path_of_a_pem_file(services: dict[str, Service]) -> None:
    assert ask(services["ec"], f"Bearer {token(EC, 'ES256')}").status == 200
    stranger = ec.generate_private_key(ec.SECP256R1())
    assert_unauthorized(services["ec"], f"Bearer {token(stranger, 'ES256')}")
    assert_unauthorized(services["ec"], f"Bearer {token(RSA, 'RS256')}")
    assert_problem(
        ask(services["ec"], f"Bearer {token(EC, 'ES256', isSupreme=False)}"), 401, "supremeUserRequired"
    )


def test_eddsa_by_pem_text(services: dict[str, Service]) -> None:
    assert ask(services["ed"], f"Bearer {token(ED, 'EdDSA')}").status == 200
    stranger = ed25519.Ed25519PrivateKey.generate()
    assert_unauthorized(services["ed"], f"Bearer {token(stranger, 'EdDSA')}")


@pytest.mark.parametrize("name", ["rsa", "ec", "ed", "jwks"])
def test_a_public_key_is_no_secret(services: dict[str, Service], name: str) -> None:
    """The classic confusion: HS256 with the public key, which everybody knows, as the secret."""
    key = {"rsa": RSA, "ec": EC, "ed": ED, "jwks": RSA}[name]
    claims = {"exp": 9999999999, "isSupreme": True, **ISSUED}
    for secret in (pem(key), pem(key).strip(), pem(key).replace("\n", "\\n"), ""):
        head = part({"alg": "HS256", "typ": "JWT", "kid": "rsa-1"})
        forged = signed(head, part(claims), secret=secret.encode())
        assert_unauthorized(services[name], f"Bearer {forged}")


@pytest.mark.parametrize("name", ["rsa", "ec", "ed", "jwks", "hmac"])
def test_unsigned_tokens_never_pass(services: dict[str, Service], name: str) -> None:
    forged = f"{part({'alg': 'none'})}.{part({'exp': 9999999999, 'isSupreme': True, **ISSUED})}."
    assert_unauthorized(services[name], f"Bearer {forged}")


@pytest.mark.parametrize(
    ("claims", "fine"),
    [
        ({}, True),
        ({"iss": None}, False),
        ({"iss": "https://issuer.example"}, False),
        ({"iss": "https://other.example/"}, False),
        ({"iss": ["https://issuer.example/"]}, False),
        ({"aud": None}, False),
        ({"aud": "other"}, False),
        ({"aud": []}, False),
        ({"aud": ["other", "codesvc"]}, True),
        ({"aud": "codesvc2"}, False),
        ({"exp": int(time.time()) - 5}, True),  # the leeway is 30 s; the suite's own duration is not
        ({"exp": int(time.time()) - 3600}, False),
        ({"exp": None}, False),
    ],
)
def test_issuer_audience_leeway(services: dict[str, Service], claims: dict[str, Any], fine: bool) -> None:
    claims = {**ISSUED, **claims}
    if isinstance(claims.get("exp"), int) and fine:
        claims["exp"] = int(time.time()) - 5
    if isinstance(claims["iss"], list):
        # The library refuses to make one, so what it would sign is signed here.
        text = f"{part({'alg': 'RS256'})}.{part({'exp': 9999999999, 'isSupreme': True, **claims})}"
        signature = RSA.sign(text.encode(), padding.PKCS1v15(), hashes.SHA256())
        minted = f"{text}.{encoded(signature)}"
    else:
        minted = token(RSA, "RS256", **claims)
    auth = f"Bearer {minted}"
    if fine:
        assert ask(services["rsa"], auth).status == 200
    else:
        assert_unauthorized(services["rsa"], auth)


def test_algorithms(services: dict[str, Service]) -> None:
    for algorithm, fine in (("HS256", False), ("HS384", True), ("HS512", True)):
        auth = f"Bearer {token('S' * 64, algorithm)}"
        if fine:
            assert ask(services["hmac"], auth).status == 200
        else:
            assert_unauthorized(services["hmac"], auth)


def test_issuer_and_audience_are_not_asked_for_unless_set(service: Service) -> None:
    assert ask(service, f"Bearer {token(iss='anybody', aud='anything')}").status == 200


@pytest.mark.parametrize(
    ("key", "algorithm", "kid"), [(RSA, "RS256", "rsa-1"), (EC, "ES256", "ec-1"), (ED, "EdDSA", "ed-1")]
)
def test_key_set(services: dict[str, Service], key: Any, algorithm: str, kid: str) -> None:
    minted = token(key, algorithm, headers={"kid": kid})
    assert ask(services["jwks"], f"Bearer {minted}").status == 200


def test_key_set_and_strangers(services: dict[str, Service]) -> None:
    service = services["jwks"]
    assert_unauthorized(service, f"Bearer {token(OTHER_RSA, 'RS256', headers={'kid': 'rsa-1'})}")
    assert_unauthorized(service, f"Bearer {token(RSA, 'RS256', headers={'kid': 'ec-1'})}")
    assert_unauthorized(service, f"Bearer {token(EC, 'ES256', headers={'kid': 'rsa-1'})}")
    assert_unauthorized(service, f"Bearer {token(RSA, 'RS512', headers={'kid': 'rsa-1'})}")


def test_unknown_keys_do_not_hammer_the_key_set(services: dict[str, Service], key_set: KeySet) -> None:
    before = key_set.fetched
    calls = [
        lambda number=number: ask(
            services["jwks"], f"Bearer {token(OTHER_RSA, 'RS256', headers={'kid': f'unknown-{number}'})}"
        )
        for number in range(60)
    ]
    for reply in in_parallel(calls, workers=8):
        assert_problem(reply, 401, "unauthorized")
    assert key_set.fetched - before <= 5


def test_a_key_set_that_is_not_there(
    api_settings: dict[str, str | None], tmp_path: Path, new_database: Callable[[str], str]
) -> None:
    """Nobody can be let in; but the service is up, and what needs no token works."""
    settings = api_settings | {
        "CODESVC_JWT_SECRET": None,
        "CODESVC_JWT_JWKS_URL": "http://127.0.0.1:9/keys.json",
        "CODESVC_MONGO_DATABASE": new_database("no-keys"),
    }
    with running(Service(tmp_path / "log", **settings)) as service:
        began = time.monotonic()
        reply = ask(service, f"Bearer {token(RSA, 'RS256', headers={'kid': 'rsa-1'})}")
        assert reply.status in {401, 503}, reply
        assert_problem(reply, reply.status, reply.json()["code"])
        assert time.monotonic() - began < 15
        assert service.get("/livez", auth=None).status == 200


def test_rotation(services: dict[str, Service], key_set: KeySet) -> None:
    service = services["jwks"]
    old = f"Bearer {token(RSA, 'RS256', headers={'kid': 'rsa-1'})}"
    new = f"Bearer {token(OTHER_RSA, 'RS256', headers={'kid': 'rsa-2'})}"
    assert ask(service, old).status == 200
    assert_unauthorized(service, new)
    kept = key_set.keys
    try:
        key_set.keys = [*kept, jwk(OTHER_RSA, "rsa-2", alg="RS256")]
        eventually(lambda: ask(service, new).status == 200, limit=20, every=0.5)
        assert ask(service, old).status == 200
        # A key set that cannot be fetched takes no known key away.
        key_set.status = 500
        assert_unauthorized(service, f"Bearer {token(RSA, 'RS256', headers={'kid': 'rsa-3'})}")
        assert ask(service, new).status == 200
        key_set.status = 200
        # The new key's name, but the old key's signature.
        assert_unauthorized(service, f"Bearer {token(RSA, 'RS256', headers={'kid': 'rsa-2'})}")
    finally:
        key_set.status = 200
        key_set.keys = kept

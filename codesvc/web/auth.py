"""Bearer tokens: who may call. JWT (RFC 7519), signed with a shared secret, a public key, or a key set's.

The kind of key decides which algorithms may use it (RFC 8725, sections 2.1 and 3.1): the secret is never
handed to a signature algorithm, a public key never to an HMAC, and ``none`` is nobody's.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from logging import getLogger
from typing import Any, Final

import aiohttp
import jwt
import orjson
from jwt.algorithms import HMACAlgorithm

from codesvc.errors import SettingsError
from codesvc.web.keys import CURVES, RSA_ALGORITHMS, JwksKeys, PublicKey, is_private, pem_key
from codesvc.web.problems import RequestError

Claims = Mapping[str, Any]

DEFAULT_HMAC: Final = ("HS256",)
DEFAULT_ASYMMETRIC: Final = ("RS256", "ES256", "EdDSA")

_HMAC: Final = frozenset({"HS256", "HS384", "HS512"})
_REALM: Final = 'Bearer realm="codesvc"'

_logger = getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TokenRules:
    """What a token must satisfy; ``public_key`` is PEM text, ``leeway`` is in seconds.

    Without ``algorithms``: HS256 for the secret; RS256, ES256 and EdDSA for public keys.
    """

    secret: str | None = field(default=None, repr=False)
    public_key: str | None = None
    jwks_url: str | None = None
    algorithms: tuple[str, ...] = ()
    issuer: str | None = None
    audience: str | None = None
    leeway: float = 0.0


class UnauthorizedError(RequestError):
    """There is no token, or it is not valid; carries the challenge of RFC 6750, section 3."""

    def __init__(self, detail: str, *, error: str = "") -> None:
        challenge = f'{_REALM}, error="{error}", error_description="{detail}"' if error else _REALM
        super().__init__("unauthorized", detail, headers={"WWW-Authenticate": challenge})


class SupremeUserRequiredError(RequestError):
    """The token is valid, but its claim ``isSupreme`` is not true."""

    def __init__(self) -> None:
        detail = "The claim isSupreme must be true"
        challenge = f'{_REALM}, error="insufficient_scope", error_description="{detail}"'
        super().__init__("supremeUserRequired", detail, headers={"WWW-Authenticate": challenge})


class Authenticator:
    """Judges the Authorization header of each request.

    A token found valid is remembered until it expires, by its BLAKE2b (RFC 7693: as good as SHA-256, and quicker than
    OpenSSL is to begin one), never itself; one that a key set verified for at most ``JwksKeys.FRESH`` seconds, and
    never beyond a change of that set.

    Raises:
        SettingsError: a key cannot be used for any of the algorithms.

    """

    REMEMBERED: Final = 1024

    def __init__(
        self,
        rules: TokenRules,
        *,
        session_factory: Callable[[], aiohttp.ClientSession] = aiohttp.ClientSession,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._rules = rules
        self._clock = clock
        allowed = frozenset(rules.algorithms or _default_algorithms(rules))
        self._hmac = allowed & _HMAC if rules.secret is not None else frozenset()
        self._asymmetric = allowed - _HMAC
        self._secret = _checked_secret(rules.secret, self._hmac) if rules.secret is not None else ""
        self._static = (
            [] if rules.public_key is None else [pem_key(rules.public_key, algorithms=self._asymmetric)]
        )
        if rules.jwks_url is not None and not is_private(rules.jwks_url):
            _logger.warning("CODESVC_JWT_JWKS_URL is not https: whoever is on the way can sign tokens")
        self._jwks = (
            None
            if rules.jwks_url is None
            else JwksKeys(
                rules.jwks_url,
                algorithms=self._asymmetric,
                session_factory=session_factory,
                clock=clock,
            )
        )
        self._remembered: OrderedDict[bytes, _Remembered] = OrderedDict()

    async def authenticate(self, header: str | None) -> Claims:
        """Return the claims of the token in an Authorization header.

        Raises:
            UnauthorizedError: it is missing, malformed, expired, or not signed by a key that is trusted.
            SupremeUserRequiredError: its claim isSupreme is anything but true.
            KeysUnavailableError: the keys to judge it by could not be fetched.

        """
        # NOTE: the header as it came: how it is spelt does not matter once it was found valid.
        digest = blake2b((header or "").encode("utf-8", "surrogateescape")).digest()
        entry = self._remembered.get(digest)
        if entry is not None and self._still_valid(entry):
            self._remembered.move_to_end(digest)
        else:
            entry = await self._verify(_bearer_token(header))
            self._remembered[digest] = entry
            if len(self._remembered) > self.REMEMBERED:
                self._remembered.popitem(last=False)
        if entry.claims.get("isSupreme") is not True:
            raise SupremeUserRequiredError
        return entry.claims

    async def close(self) -> None:
        """End the session that fetches the key set."""
        if self._jwks is not None:
            await self._jwks.close()

    def _still_valid(self, entry: "_Remembered") -> bool:
        if time.time() >= entry.expires:
            return False
        return entry.generation is None or (
            self._jwks is not None
            and entry.generation == self._jwks.generation
            and self._clock() < entry.verified + JwksKeys.FRESH
        )

    async def _verify(self, token: str) -> "_Remembered":
        header = _unverified_header(token)
        algorithm = header.get("alg")
        if not isinstance(algorithm, str):
            raise UnauthorizedError("The token names no algorithm", error="invalid_token")
        if algorithm in self._hmac:
            return _Remembered(*_verified(token, [self._secret], algorithm, self._rules), None, 0.0)
        if algorithm not in self._asymmetric:
            raise UnauthorizedError("The token's algorithm is not accepted", error="invalid_token")
        keys = [key.key for key in self._static if algorithm in key.algorithms]
        if self._jwks is None:
            return _Remembered(*_verified(token, keys, algorithm, self._rules), None, 0.0)
        found = await self._jwks.find(header.get("kid"), algorithm)
        # NOTE: taken before the claims are looked at, so that a change in between is not missed.
        generation, verified = self._jwks.generation, self._clock()
        claims, expires = _verified(token, [*found, *keys], algorithm, self._rules)
        return _Remembered(claims, expires, generation, verified)


def mint_token(
    *,
    secret: str,
    ttl: float = 3600,
    supreme: bool = True,
    issuer: str | None = None,
    audience: str | None = None,
    algorithm: str = "HS256",
) -> str:
    """Sign a token with a shared secret, for development and tests; ``ttl`` is in seconds."""
    now = int(time.time())
    claims: dict[str, Any] = {"iat": now, "exp": int(now + ttl), "isSupreme": supreme}
    if issuer is not None:
        claims["iss"] = issuer
    if audience is not None:
        claims["aud"] = audience
    return _JWS.encode(orjson.dumps(claims), secret, algorithm=algorithm)


@dataclass(frozen=True, slots=True)
class _Remembered:
    claims: Claims = field(repr=False)
    expires: float
    generation: int | None
    """Of the key set that verified it; None where the key never changes."""
    verified: float


class _AnyLengthHmac(HMACAlgorithm):
    """An HMAC that does not warn of a short secret at every token: codesvc says it once, at start."""

    def check_key_length(self, key: bytes) -> str | None:  # noqa: ARG002
        return None


def _jws() -> jwt.PyJWS:
    jws = jwt.PyJWS(algorithms=[*_HMAC, *RSA_ALGORITHMS, *CURVES.values(), "EdDSA"])
    hashes = {"HS256": HMACAlgorithm.SHA256, "HS384": HMACAlgorithm.SHA384, "HS512": HMACAlgorithm.SHA512}
    for name, digest in hashes.items():
        jws.unregister_algorithm(name)
        jws.register_algorithm(name, _AnyLengthHmac(digest))
    return jws


_JWS: Final = _jws()


def _default_algorithms(rules: TokenRules) -> tuple[str, ...]:
    asymmetric = rules.public_key is not None or rules.jwks_url is not None
    return (*(DEFAULT_HMAC if rules.secret is not None else ()), *(DEFAULT_ASYMMETRIC if asymmetric else ()))


def _bearer_token(header: str | None) -> str:
    """Take the token out of ``Bearer <token>`` (RFC 6750, section 2.1); the scheme's case does not matter."""
    if header is None:
        raise UnauthorizedError("The Authorization header is missing")
    scheme, _, token = header.strip(" \t").partition(" ")
    token = token.strip(" ")
    if scheme.lower() != "bearer":
        raise UnauthorizedError("The Authorization header does not hold a bearer token")
    if not token or not token.isascii() or " " in token:
        raise UnauthorizedError("The token is malformed", error="invalid_token")
    return token


def _unverified_header(token: str) -> Mapping[str, Any]:
    try:
        return _JWS.get_unverified_header(token)
    except (
        jwt.PyJWTError,
        RecursionError,
    ):  # a header of nothing but brackets; later versions of PyJWT see to it
        raise UnauthorizedError("The token is malformed", error="invalid_token") from None


def _verified(
    token: str, keys: Sequence[PublicKey | str], algorithm: str, rules: TokenRules
) -> tuple[Claims, float]:
    """Return the claims and the instant (seconds since the epoch) from which they hold no more."""
    for key in keys:
        try:
            payload: bytes = _JWS.decode_complete(token, key, algorithms=[algorithm])["payload"]
        except jwt.InvalidSignatureError:
            continue
        except jwt.PyJWTError:
            raise UnauthorizedError("The token is malformed", error="invalid_token") from None
        return _checked_claims(payload, rules)
    raise UnauthorizedError("The token is not signed by a trusted key", error="invalid_token")


def _checked_claims(payload: bytes, rules: TokenRules) -> tuple[Claims, float]:
    """Check the registered claims (RFC 7519, section 4.1). Without a configured audience, any will do."""
    try:
        claims = orjson.loads(payload)
    except orjson.JSONDecodeError:
        claims = None
    if not isinstance(claims, dict):
        raise UnauthorizedError("The token's claims are not a JSON object", error="invalid_token")
    now = time.time()
    expires = claims.get("exp")
    if not isinstance(expires, int | float) or isinstance(expires, bool):
        raise UnauthorizedError("The claim exp is missing or not a number", error="invalid_token")
    if now >= expires + rules.leeway:
        raise UnauthorizedError("The token has expired", error="invalid_token")
    starts = claims.get("nbf")
    if starts is not None and not (isinstance(starts, int | float) and starts <= now + rules.leeway):
        raise UnauthorizedError("The token is not valid yet", error="invalid_token")
    if rules.issuer is not None and claims.get("iss") != rules.issuer:
        raise UnauthorizedError("The token has another issuer", error="invalid_token")
    if rules.audience is not None:
        audience = claims.get("aud")
        if rules.audience != audience and not (isinstance(audience, list) and rules.audience in audience):
            raise UnauthorizedError("The token is for another audience", error="invalid_token")
    return claims, expires + rules.leeway


def _checked_secret(secret: str, algorithms: frozenset[str]) -> str:
    try:
        HMACAlgorithm(HMACAlgorithm.SHA256).prepare_key(secret)
    except jwt.InvalidKeyError:
        raise SettingsError("CODESVC_JWT_SECRET: looks like a key pair's key, not a secret") from None
    # RFC 7518, section 3.2: a key of the size of the hash output, or larger, must be used.
    shortest = max((int(name[2:]) // 8 for name in algorithms), default=0)
    if len(secret.encode()) < shortest:
        _logger.warning("CODESVC_JWT_SECRET is shorter than %d bytes: easier to guess", shortest)
    return secret

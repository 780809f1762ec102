"""The keys that verify tokens: of a PEM file, and of a key set (RFC 7517) that an issuer changes as it likes.

A key is only ever handed to the algorithms that it is for.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from logging import getLogger
from typing import Any, Final

import aiohttp
import jwt
import orjson
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from yarl import URL

from codesvc.errors import SettingsError
from codesvc.web.problems import RequestError

PublicKey = RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey | Ed448PublicKey

RSA_ALGORITHMS: Final = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})
CURVES: Final = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}

# RFC 7518, section 3.3: a key of this size or larger must be used. One of 512 bits is factored in an afternoon.
_LEAST_RSA_BITS: Final = 2048

_logger = getLogger(__name__)


class KeysUnavailableError(RequestError):
    """The key set was never fetched, so that no token can be judged."""

    def __init__(self) -> None:
        super().__init__("keysUnavailable", "The key set could not be fetched yet")


@dataclass(frozen=True, slots=True)
class VerificationKey:
    """A public key, the id that a set gives it, and the algorithms that may use it."""

    kid: str | None
    key: PublicKey
    algorithms: frozenset[str]


class JwksKeys:
    """The keys of a key set (RFC 7517), fetched over HTTP, kept through outages.

    A set younger than half of ``FRESH`` seconds is used as it is; an older one is fetched again, by one
    request at a time and without making the caller wait until it is ``FRESH`` seconds old. An unknown
    key id fetches at once, unless that was done less than ``PAUSE`` seconds ago. While fetches fail, known keys
    go on and nobody waits for the next one: an issuer that hangs must not slow every call down by ``TIMEOUT``.

    Redirects are not followed. The address is what is trusted; a redirect would let whoever can make one there, or,
    from https to http, whoever is on the way, say whose tokens are good.
    """

    FRESH: Final = 30.0
    PAUSE: Final = 5.0
    TIMEOUT: Final = aiohttp.ClientTimeout(total=5.0)
    MAX_BYTES: Final = 1 << 20

    def __init__(
        self,
        url: str,
        *,
        algorithms: frozenset[str],
        session_factory: Callable[[], aiohttp.ClientSession] = aiohttp.ClientSession,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._url = url
        self._clock = clock
        self._algorithms = algorithms
        self._session_factory = session_factory
        self._session: aiohttp.ClientSession | None = None
        self._keys: tuple[VerificationKey, ...] = ()
        self._raw = b""
        self._fetched = float("-inf")
        self._tried = float("-inf")
        self._fetching: asyncio.Task[None] | None = None
        self._failing = False
        self.generation = 0
        """Grows with every change of the set."""

    async def find(self, kid: object, algorithm: str) -> list[PublicKey]:
        """Return the keys that may have signed a token with this ``kid`` (None: any) and algorithm.

        Raises:
            KeysUnavailableError: no set was ever fetched.

        """
        age = self._clock() - self._fetched
        if age > self.FRESH and not (self._keys and self._failing):
            await self._refresh()
        elif age > self.FRESH / 2:
            self._begin()
        found = self._matching(kid, algorithm)
        if not found and kid is not None:
            await self._refresh()
            found = self._matching(kid, algorithm)
        if not self._keys:
            raise KeysUnavailableError
        return found

    async def close(self) -> None:
        """Abandon a fetch under way, and close the session."""
        if self._fetching is not None:
            self._fetching.cancel()
            await asyncio.gather(self._fetching, return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    def _matching(self, kid: object, algorithm: str) -> list[PublicKey]:
        return [
            key.key for key in self._keys if algorithm in key.algorithms and (kid is None or key.kid == kid)
        ]

    async def _refresh(self) -> None:
        task = self._begin()
        if task is not None:
            # Shielded: the fetch is everybody's, whoever gives up waiting for it.
            await asyncio.shield(task)

    def _begin(self) -> "asyncio.Task[None] | None":
        if self._fetching is None and self._clock() - self._tried >= self.PAUSE:
            self._tried = self._clock()
            self._fetching = asyncio.create_task(self._fetch(), name="fetch-jwks")
        return self._fetching

    async def _fetch(self) -> None:
        try:
            raw = await self._download()
            if raw != self._raw:
                keys = tuple(_jwks_keys(raw, algorithms=self._algorithms))
                if not keys:
                    raise ValueError("no usable key")  # noqa: TRY301 - one place tells all failures
                self._keys, self._raw = keys, raw
                self.generation += 1
                _logger.info("key set loaded", extra={"keys": len(keys)})
            self._fetched, self._failing = self._clock(), False
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            self._failing = True
            _logger.warning(
                "key set not fetched", extra={"reason": type(error).__name__, "keysKept": len(self._keys)}
            )
        finally:
            self._fetching = None

    async def _download(self) -> bytes:
        if self._session is None:
            self._session = self._session_factory()
        async with self._session.get(self._url, timeout=self.TIMEOUT, allow_redirects=False) as response:
            if response.status != 200:
                raise ValueError("no key set, but a redirect or an error")
            body = await response.content.read(self.MAX_BYTES + 1)
            while not response.content.at_eof() and len(body) <= self.MAX_BYTES:
                body += await response.content.read(self.MAX_BYTES + 1 - len(body))
        if len(body) > self.MAX_BYTES:
            raise ValueError("too large")
        return body


def pem_key(pem: str, *, algorithms: frozenset[str]) -> VerificationKey:
    """Read a public key or a certificate.

    Raises:
        SettingsError: it is none, it is too short, or none of ``algorithms`` can use it.

    """
    try:
        data = pem.encode("ascii")
        key: object
        if b"-----BEGIN CERTIFICATE-----" in data:
            key = x509.load_pem_x509_certificate(data).public_key()
        else:
            key = load_pem_public_key(data)
    except ValueError:
        raise SettingsError("CODESVC_JWT_PUBLIC_KEY: is not a public key in PEM form") from None
    if isinstance(key, RSAPublicKey) and key.key_size < _LEAST_RSA_BITS:
        raise SettingsError(f"CODESVC_JWT_PUBLIC_KEY: is an RSA key of less than {_LEAST_RSA_BITS} bits")
    usable = algorithms_of(key) & algorithms
    if not usable or not isinstance(key, PublicKey):
        raise SettingsError("CODESVC_JWT_PUBLIC_KEY: fits none of the accepted algorithms")
    return VerificationKey(None, key, usable)


def is_private(url: str) -> bool:
    """Tell whether what is fetched there cannot be replaced on the way."""
    address = URL(url)
    return address.scheme == "https" or address.host in {"localhost", "127.0.0.1", "::1"}


def _jwks_keys(raw: bytes, *, algorithms: frozenset[str]) -> list[VerificationKey]:
    """Read the signature keys of a set; what cannot be used is passed over (RFC 7517, section 5)."""
    document = orjson.loads(raw)
    entries = document.get("keys") if isinstance(document, dict) else None
    keys: list[VerificationKey] = []
    for entry in entries if isinstance(entries, list) else ():
        try:
            key = _jwks_key(entry, algorithms=algorithms)
        except Exception:  # noqa: BLE001 - whatever it made the libraries raise, it is not usable
            key = None
        if key is not None:
            keys.append(key)
    return keys


def _jwks_key(entry: Any, *, algorithms: frozenset[str]) -> VerificationKey | None:
    # A secret has no place in a public set: trusting it would let whoever reads the set sign.
    if entry["kty"] == "oct" or entry.get("use", "sig") != "sig":
        return None
    # RFC 7517, section 4.3: what a key is for may be told by use, by key_ops, or by both.
    if "verify" not in entry.get("key_ops", ("verify",)):
        return None
    key = jwt.PyJWK(entry).key
    key = key.public_key() if hasattr(key, "public_key") else key
    usable = algorithms_of(key) & algorithms
    if "alg" in entry:
        usable &= {entry["alg"]}
    kid = entry.get("kid")
    return VerificationKey(kid if isinstance(kid, str) else None, key, usable) if usable else None


def algorithms_of(key: object) -> frozenset[str]:
    """Return the algorithms that a public key is for: none for what is no key, or one that is too short."""
    if isinstance(key, RSAPublicKey):
        return RSA_ALGORITHMS if key.key_size >= _LEAST_RSA_BITS else frozenset()
    if isinstance(key, EllipticCurvePublicKey):
        return frozenset({CURVES[key.curve.name]}) if key.curve.name in CURVES else frozenset()
    if isinstance(key, Ed25519PublicKey | Ed448PublicKey):
        return frozenset({"EdDSA"})
    return frozenset()

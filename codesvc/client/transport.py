"""Sends the request of a call, as often as the table of ``codesvc.client`` allows, and reads what comes back."""

import asyncio
import email.utils
import inspect
import os
import socket
import sys
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from ssl import SSLContext
from typing import Any, Final, TypeVar

import aiohttp
import orjson
from aiohttp import ClientTimeout, hdrs
from yarl import URL

from codesvc.client.errors import (
    CannotConnectError,
    CodesvcApiError,
    CodesvcClientError,
    ConflictError,
    NoReplyError,
    NotCodesvcError,
    RejectedError,
    UnauthorizedError,
    api_error_type,
)
from codesvc.client.events import read_events
from codesvc.client.replies import read_upload_counts
from codesvc.client.retries import Attempts, Kind, RetryPolicy, may_repeat
from codesvc.version import __version__

T = TypeVar("T")
TokenProvider = Callable[[], "str | Awaitable[str]"]

CORRELATION_HEADER: Final = "X-Correlation-ID"
IDEMPOTENCY_HEADER: Final = "Idempotency-Key"
REPLAYED_HEADER: Final = "Idempotency-Replayed"

_JSON: Final = frozenset({"application/json", "application/problem+json"})
_WATCH: Final = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}
_SILENCE_SECONDS: Final = 15.0
"""How long a stream of events, which has one a second, may be silent before it counts as broken."""


_SEARCH_SECONDS: Final = 300.0
"""How long an export may be silent: few of many millions of codes have to be looked for."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call: a request that may be sent several times.

    ``path`` is below the base URL, percent-encoded. ``patient`` says that the reply may take as long as it does.
    """

    method: str
    path: str = field(repr=False)  # a code may be in it
    kind: Kind
    query: Mapping[str, str] | None = field(default=None, repr=False)
    body: object = field(default=None, repr=False)
    headers: Mapping[str, str] | None = None
    patient: bool = False
    correlation_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    key: str | None = None
    """The Idempotency-Key that all tries carry."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back. ``exact`` is False if an earlier try may have taken effect as well.

    ``replayed``: the service has kept it under the key since an earlier try.
    """

    status: int
    body: Any = field(repr=False)
    exact: bool
    replayed: bool = False


class Transport:
    """Speaks HTTP with one service."""

    def __init__(
        self,
        base_url: URL,
        session: aiohttp.ClientSession,
        *,
        token: "str | TokenProvider | None",
        timeout: float,
        policy: RetryPolicy,
        ssl: SSLContext | bool,
        idempotency: bool | None,
    ) -> None:
        self.policy = policy
        self._base = str(base_url).rstrip("/")
        self._where = base_url.authority
        self._session = session
        self._token = token
        self._timeout = timeout
        self._ssl = ssl
        self._key_known = idempotency is True
        self._learns = idempotency is None

    async def send(self, call: Call) -> Reply:
        """Send a request until it is answered.

        Raises:
            CodesvcClientError: the last try's, when there is to be no other.

        """
        attempts = self.policy.start()
        unsure = refreshed = False
        while True:
            token = await self._current_token()
            try:
                reply = await self._try(call, token, attempts)
                # Sent again by the service, it tells of the first try, whatever became of those after it.
                return Reply(reply.status, reply.body, exact=reply.replayed or not unsure)
            except CodesvcClientError as error:
                error.correlation_id = call.correlation_id
                unsure = unsure or error.may_have_taken_effect
                if isinstance(error, UnauthorizedError) and not refreshed and callable(self._token):
                    # It may have expired on its way. Another one is tried at once.
                    refreshed = await self._current_token() != token
                    if refreshed:
                        continue
                pause = None
                if may_repeat(call.kind, error, key_known=self._key_known):
                    under_way = isinstance(error, ConflictError)
                    pause = attempts.pause(error.retry_after, counts=not under_way)
                if pause is None:
                    error.may_have_taken_effect = unsure or error.may_have_taken_effect
                    raise
            await asyncio.sleep(pause)

    async def events(self, path: str) -> AsyncIterator[Any]:
        """Yield None when the stream has begun, then the data of every server-sent event until it ends.

        Raises:
            CodesvcClientError: there was no stream, or it broke off; nothing is tried again.

        """
        call = Call("GET", path, Kind.READ, headers={hdrs.ACCEPT: "text/event-stream"}, patient=True)
        token = await self._current_token()
        timeout = ClientTimeout(total=None, sock_connect=self._timeout, sock_read=_SILENCE_SECONDS)
        try:
            async with self._request(call, token, timeout) as response:
                if response.status != 200 or response.content_type != "text/event-stream":
                    self._read(call, response, await response.read())
                    raise NotCodesvcError(f"{self._where} does not send events")
                yield None
                async for data in read_events(response.content.iter_any()):
                    yield data
        except (aiohttp.ClientError, OSError, TimeoutError, orjson.JSONDecodeError) as error:
            raise self._told(error) from None

    async def stream(self, call: Call, media_type: str) -> AsyncIterator[bytes]:
        """Yield a body of ``media_type`` as it comes.

        Raises:
            CodesvcClientError: there was none, or it broke off; nothing is tried again.

        """
        token = await self._current_token()
        timeout = ClientTimeout(total=None, sock_connect=self._timeout, sock_read=_SEARCH_SECONDS)
        try:
            async with self._request(call, token, timeout) as response:
                if response.status != 200 or response.content_type != media_type:
                    self._read(call, response, await response.read())
                    raise NotCodesvcError(f"{self._where} does not send {media_type}")
                async for piece in response.content.iter_any():
                    yield piece
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise self._told(error) from None

    async def _try(self, call: Call, token: str | None, attempts: Attempts) -> Reply:
        limit = min(self._timeout, max(attempts.seconds_left, 0.001))
        timeout = ClientTimeout(total=None if call.patient else limit, sock_connect=limit)
        try:
            async with self._request(call, token, timeout) as response:
                return self._read(call, response, await response.read())
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise self._told(error) from None

    def _request(
        self, call: Call, token: str | None, timeout: ClientTimeout
    ) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        headers = {
            hdrs.ACCEPT: "application/json",
            hdrs.USER_AGENT: f"codesvc-client/{__version__}",
            CORRELATION_HEADER: call.correlation_id,
            **(call.headers or {}),
        }
        if token is not None:
            headers[hdrs.AUTHORIZATION] = f"Bearer {token}"
        if call.key is not None:
            headers[IDEMPOTENCY_HEADER] = call.key
        data = None
        if call.body is not None:
            headers[hdrs.CONTENT_TYPE] = "application/json"
            data = orjson.dumps(call.body)
        _propagate(headers)
        # In a session of the caller's, which may have middlewares of its own, only where it matters.
        own: dict[str, Any] = {"middlewares": (only_once,)} if call.method == hdrs.METH_DELETE else {}
        return self._session.request(
            call.method,
            URL(f"{self._base}{call.path}", encoded=True).with_query(call.query),
            headers=headers,
            data=data,
            timeout=timeout,
            ssl=self._ssl,
            allow_redirects=False,  # where to, nobody has checked; and the token would go along
            **own,
        )

    def _read(self, call: Call, response: aiohttp.ClientResponse, content: bytes) -> Reply:
        """Return a good reply; raise what another is."""
        if self._learns and call.key is not None and response.headers.get(IDEMPOTENCY_HEADER) == call.key:
            self._key_known = True
        body = None
        if response.content_type in _JSON:
            try:
                body = orjson.loads(content)
            except orjson.JSONDecodeError:
                body = None
        if response.status >= 300:
            raise _problem(response, body, self._where)
        if not isinstance(body, dict | list):
            raise NotCodesvcError(f"{self._where} answers, but not as codesvc does: is the address right?")
        replayed = call.key is not None and response.headers.get(REPLAYED_HEADER) == "true"
        return Reply(response.status, body, exact=True, replayed=replayed)

    async def _current_token(self) -> str | None:
        if not callable(self._token):
            return self._token
        given = self._token()
        return await given if inspect.isawaitable(given) else given

    def _told(self, error: Exception) -> CodesvcClientError:
        """Put what aiohttp or the system raised into words that name no address but the host's."""
        where = self._where
        told: CodesvcClientError
        match error:
            case aiohttp.ClientConnectorCertificateError():
                reason = getattr(error.certificate_error, "verify_message", "") or "it cannot be verified"
                told = CannotConnectError(f"the certificate of {where} is not trusted: {reason}", False)
            case aiohttp.ClientSSLError():
                told = CannotConnectError(
                    f"{where} does not speak TLS as it should: is it http:// rather than https://?", False
                )
            case aiohttp.ClientConnectorDNSError():
                told = CannotConnectError(f"the host of {where} is not known")
            case aiohttp.ClientConnectorError():
                told = CannotConnectError(f"{where} cannot be connected to: {_system_words(error.os_error)}")
            case aiohttp.ConnectionTimeoutError():
                told = CannotConnectError(f"{where} cannot be connected to in time")
            case TimeoutError():
                told = NoReplyError(f"{where} did not answer in time")
            case aiohttp.ClientResponseError() | aiohttp.InvalidURL() | orjson.JSONDecodeError():
                told = NotCodesvcError(f"{where} answers, but not as codesvc does: is the address right?")
            case _:
                told = NoReplyError(f"the connection to {where} broke off before the answer was complete")
        return told


def _system_words(error: OSError) -> str:
    # asyncio's own words for several addresses quote each of them.
    return os.strerror(error.errno) if error.errno else "no answer"


def understood(read: Callable[[Any], T], body: Any) -> T:
    """Return what ``read`` makes of a body.

    Raises:
        NotCodesvcError: a member is missing, or is of another kind.

    """
    try:
        return read(body)
    except (AttributeError, KeyError, TypeError, ValueError):
        raise NotCodesvcError("the reply is not one of codesvc: is the address right?") from None


def watched_socket(address: aiohttp.AddrInfoType) -> socket.socket:
    """Make a socket whose connection breaks when its other end has been gone for a minute.

    Else a reply that may take as long as it does, as that of an older service to an upload, would be awaited from a
    machine that is no more.
    """
    made = socket.socket(*address[:3])
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _WATCH.items():
        if hasattr(socket, name):  # Linux has them all
            made.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return made


class _BrokenError(aiohttp.ClientError):
    """The connection broke, told so that aiohttp does not send the request again."""


async def only_once(
    request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """Keep aiohttp from sending a GET or a DELETE a second time by itself when a connection breaks (a middleware).

    To a DELETE of an upload, that would be another request; and tries would be twice as many as the policy says.
    """
    try:
        return await handler(request)
    except aiohttp.ClientConnectorError:
        raise
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError):
        raise _BrokenError from None


def _propagate(headers: dict[str, str]) -> None:
    """Add ``traceparent``, if the caller has loaded OpenTelemetry and a span is under way."""
    if "opentelemetry.trace" in sys.modules:
        from opentelemetry import propagate  # noqa: PLC0415 - only where somebody uses it

        propagate.inject(headers)


def _problem(response: aiohttp.ClientResponse, body: Any, where: str) -> CodesvcApiError:
    status = response.status
    retry_after = _retry_after(response.headers.get(hdrs.RETRY_AFTER))
    if not isinstance(body, dict) or not isinstance(body.get("code"), str):
        if status < 400:
            told = f"{where} sends its callers elsewhere, where the token is not sent"
        else:
            told = f"{where} answered, but codesvc did not"
        return api_error_type(status)(status, "", told, response.headers.get(CORRELATION_HEADER), retry_after)
    error = api_error_type(status, body["code"])(
        status,
        body["code"],
        str(body.get("detail") or body.get("title") or "no reason is given"),
        body.get("correlationId"),
        retry_after,
    )
    if isinstance(error, RejectedError):
        error.line = body.get("line")
        error.counts = read_upload_counts(body["count"]) if isinstance(body.get("count"), dict) else None
    return error


def _retry_after(text: str | None) -> float | None:
    """Read seconds or a date (RFC 9110, section 10.2.3)."""
    if text is None:
        return None
    if text.strip().isdecimal() and len(text) < 10:
        return float(text)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None

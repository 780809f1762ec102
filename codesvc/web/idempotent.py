"""Requests with an Idempotency-Key: what a handler does is done once for each key, and its reply is sent again.

The header is the one of draft-ietf-httpapi-idempotency-key-header: a structured field's string (RFC 8941, section
3.3.3). The same key without the quotes, as most clients send it, is the same key.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final, Protocol, TypeVar
from uuid import uuid4

import orjson
from aiohttp import hdrs, web
from multidict import istr

from codesvc.errors import CodesvcError
from codesvc.idempotency import Answer, Work
from codesvc.models import KeptReply, KeyedRequest
from codesvc.observability.logs import correlation_id
from codesvc.web.problems import RequestError
from codesvc.web.schemas import RequestSchema

IDEMPOTENCY_KEY: Final = istr("Idempotency-Key")
IDEMPOTENCY_REPLAYED: Final = istr("Idempotency-Replayed")
MAX_KEY_LENGTH: Final = 255

KEY_PATTERN: Final = (
    rf'([!#-~][!-~]{{0,{MAX_KEY_LENGTH - 1}}}|"(?:[!#-\[\]-~]|\\["\\]){{1,{MAX_KEY_LENGTH}}}")'
)
"""What the header may be: 1 to 255 visible characters of ASCII, or those in quotes, ``"`` and ``\\`` after a ``\\``."""

_key = re.compile(KEY_PATTERN).fullmatch
_escaped = re.compile(r'\\(["\\])')
_KEPT_HEADERS: Final = (hdrs.CONTENT_TYPE, hdrs.LOCATION, "Preference-Applied")
# What is longer is hashed beside the event loop.
_LONG: Final = 1 << 20

T = TypeVar("T")


class Idempotency(Protocol):
    """What the handlers need of codesvc.idempotency."""

    async def once(self, asked: KeyedRequest, work: Work) -> Answer:
        """Do the work, or return the reply of who has done it."""
        ...


IDEMPOTENCY: Final = web.AppKey("idempotency", Idempotency)


async def nothing_left(_names: Sequence[str], /) -> web.Response | CodesvcError | None:
    """See to what earlier tries of something have done that is the same if it is done again: there is nothing to do."""
    return None


async def nothing_to_undo(_name: str, /) -> bool:
    """Take nothing back."""
    return False


def random_name() -> str:
    """Make a UUID of version 4."""
    return str(uuid4())


@dataclass(frozen=True, slots=True)
class Operation:
    """What a handler does: see ``codesvc.idempotency.Work``, but for ``perform``, which needs no name without a key."""

    name: str
    campaign_id: str
    wanted: RequestSchema
    perform: Callable[[str | None], Awaitable[web.Response]]
    recover: Callable[[Sequence[str]], Awaitable[web.Response | CodesvcError | None]] = nothing_left
    give_up: Callable[[str], Awaitable[bool]] = nothing_to_undo
    new_name: Callable[[], str] = random_name


async def once(
    request: web.Request,
    operation: Operation,
    within: Callable[[Awaitable[Any]], Awaitable[Any]] | None = None,
) -> web.Response:
    """Perform an operation; under a key, once for each key. ``within`` puts a limit on the time of all of it.

    Raises:
        RequestError: invalidIdempotencyKey.
        CodesvcError: see ``codesvc.idempotency.Idempotency.once``.

    """
    if IDEMPOTENCY_KEY not in request.headers:
        performing = operation.perform(None)
        response: web.Response = await (performing if within is None else within(performing))
        return response
    asked = KeyedRequest(
        operation.campaign_id,
        _given_key(request),
        operation.name,
        await _fingerprint(operation),
    )
    doing = request.app[IDEMPOTENCY].once(asked, _Work(operation))
    answer: Answer = await (doing if within is None else within(doing))
    return _response(answer)


def echoed_key(request: web.BaseRequest) -> str | None:
    """Return the header as it came, if it is one."""
    given = request.headers.get(IDEMPOTENCY_KEY)
    return given if given is not None and _key(given) is not None else None


def _given_key(request: web.Request) -> str:
    headers = request.headers.getall(IDEMPOTENCY_KEY)
    if len(headers) == 1 and _key(headers[0]) is not None:
        given = headers[0]
        return _escaped.sub(r"\1", given[1:-1]) if given[0] == '"' else given
    raise RequestError(
        "invalidIdempotencyKey", f"An idempotency key is 1 to {MAX_KEY_LENGTH} visible characters of ASCII"
    )


async def _fingerprint(operation: Operation) -> bytes:
    """Hash what is asked for. A member that is as if it had not been sent is left out: later versions know more."""
    wanted = operation.wanted.model_dump(mode="json", exclude_defaults=True)
    canonical = orjson.dumps([operation.name, wanted], option=orjson.OPT_SORT_KEYS)
    if len(canonical) > _LONG:
        return await asyncio.to_thread(_digest, canonical)
    return _digest(canonical)


def _digest(data: bytes) -> bytes:
    return sha256(data).digest()


class _Work:
    """An operation whose responses are made ready to be kept."""

    def __init__(self, operation: Operation) -> None:
        self._operation = operation

    def new_name(self) -> str:
        return self._operation.new_name()

    async def perform(self, name: str, /) -> KeptReply:
        return _kept(await self._operation.perform(name))

    async def recover(self, names: Sequence[str], /) -> KeptReply | CodesvcError | None:
        found = await self._operation.recover(names)
        return _kept(found) if isinstance(found, web.Response) else found

    async def give_up(self, name: str, /) -> bool:
        return await self._operation.give_up(name)


def _kept(response: web.Response) -> KeptReply:
    body = response.body
    assert isinstance(body, bytes)  # noqa: S101 - what handlers make is whole
    headers = [(name, response.headers[name]) for name in _KEPT_HEADERS if name in response.headers]
    return KeptReply(response.status, tuple(headers), body)


def _response(answer: Answer) -> web.Response:
    reply = answer.reply
    body = reply.body
    if answer.replayed and reply.status >= 400:
        # A problem tells under which ID this request is in the log.
        body = orjson.dumps({**orjson.loads(body), "correlationId": correlation_id.get()})
    response = web.Response(status=reply.status, headers=dict(reply.headers), body=body)
    if answer.replayed:
        response.headers[IDEMPOTENCY_REPLAYED] = "true"
    return response

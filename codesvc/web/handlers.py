"""The handlers of /v1 but for uploads: each parses the request, makes one call, and serialises what came back."""

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from datetime import timedelta
from functools import lru_cache
from typing import Any, Final, Protocol

import orjson
from aiohttp import hdrs, web
from yarl import URL

from codesvc.errors import NotFoundError
from codesvc.models import ChangeCounts, Code, CodePage, CodeType, Counts, Reservation, Status
from codesvc.web.admission import BODIES
from codesvc.web.bodies import CODINGS, inflated
from codesvc.web.deadlines import Deadlines
from codesvc.web.idempotent import Operation, once
from codesvc.web.problems import RequestError
from codesvc.web.schemas import (
    CountQuery,
    Limits,
    ReserveRequest,
    checked_campaign_id,
    code_reply,
    is_code,
    is_reserve_id,
    parse,
    parse_change,
    reservation_reply,
    reserve_reply,
)


class Inventory(Protocol):
    """What the handlers need of codesvc.inventory."""

    async def count(self, campaign_id: str, code_type: CodeType) -> Counts:
        """Count codes by status."""
        ...

    async def count_status(self, campaign_id: str, code_type: CodeType, status: Status) -> int:
        """Count the codes of one status."""
        ...

    async def find(self, campaign_id: str, code: str) -> Code:
        """Tell where one code stands."""
        ...

    async def page(
        self,
        campaign_id: str,
        *,
        code_type: CodeType | None,
        status: Status | None,
        after: str,
        limit: int,
    ) -> CodePage:
        """Tell of some codes of a campaign."""
        ...

    def export(
        self, campaign_id: str, *, code_type: CodeType | None, status: Status | None, after: str
    ) -> AsyncGenerator[Sequence[Code], None]:
        """Yield all codes of a campaign, some at a time."""
        ...

    async def reserve(
        self,
        campaign_id: str,
        code_type: CodeType,
        count: int,
        *,
        ttl: timedelta | None = None,
        minimum: int = 0,
        reserve_id: str | None = None,
    ) -> Reservation:
        """Lend at most ``count`` codes, and ``minimum`` at least, or none."""
        ...

    async def reservation(self, campaign_id: str, reserve_id: str) -> Reservation:
        """Tell what a reservation still holds."""
        ...

    async def assign(self, campaign_id: str, codes: Sequence[str]) -> ChangeCounts:
        """Give codes away for good."""
        ...

    async def release(self, campaign_id: str, codes: Sequence[str]) -> ChangeCounts:
        """Take reserved codes back."""
        ...

    async def assign_reservation(self, campaign_id: str, reserve_id: str) -> ChangeCounts:
        """Give all codes of a reservation away for good."""
        ...

    async def release_reservation(self, campaign_id: str, reserve_id: str) -> ChangeCounts:
        """Take all codes of a reservation back."""
        ...


class ClientGoneError(Exception):
    """The client closed the connection before it had sent its request."""


INVENTORY: Final = web.AppKey("inventory", Inventory)
LIMITS: Final = web.AppKey("limits", Limits)
DEADLINES: Final = web.AppKey("deadlines", Deadlines)
DRAINING: Final[web.AppKey[Callable[[], bool]]] = web.AppKey("draining")

JSON: Final = "application/json"
_PLAIN: Final = frozenset({"", "identity"})


async def count(request: web.Request) -> web.Response:
    """Count codes by status."""
    app = request.app
    limits = app[LIMITS]
    campaign_id = checked_campaign_id(request.match_info["campaignId"])
    query = _count_query(request.rel_url.raw_query_string, limits)
    inventory = app[INVENTORY]
    if query.status is not None:
        number = await app[DEADLINES].within(inventory.count_status(campaign_id, query.type, query.status))
        return json_response({query.status.value: number})
    counts = await app[DEADLINES].within(inventory.count(campaign_id, query.type))
    return json_response(
        {"available": counts.available, "reserved": counts.reserved, "assigned": counts.assigned}
    )


async def code(request: web.Request) -> web.Response:
    """Tell where one code stands."""
    app = request.app
    campaign_id = checked_campaign_id(request.match_info["campaignId"])
    wanted = request.match_info["code"]
    if not is_code(wanted):
        raise NotFoundError("The campaign has no such code.")
    return json_response(code_reply(await app[DEADLINES].within(app[INVENTORY].find(campaign_id, wanted))))


async def reserve(request: web.Request) -> web.Response:
    """Lend codes for a day, or for less."""
    app = request.app
    limits = app[LIMITS]
    campaign_id = checked_campaign_id(request.match_info["campaignId"])
    query = request.rel_url.raw_query_string
    if request.method == hdrs.METH_POST and request.can_read_body:
        body = await json_object(request, limits, may_be_empty=True)
        wanted = parse(ReserveRequest, {**_reserve_parameters(query), **body}, limits)
    else:
        wanted = _reserve_query(query, limits)
    inventory = app[INVENTORY]
    ttl = None if wanted.ttl is None else timedelta(seconds=wanted.ttl)

    async def lend(reserve_id: str | None) -> web.Response:
        reservation = await inventory.reserve(
            campaign_id,
            wanted.type,
            wanted.count,
            ttl=ttl,
            minimum=wanted.min or 0,
            reserve_id=reserve_id,
        )
        return json_response(reserve_reply(reservation))

    async def take_back(reserve_ids: Sequence[str]) -> None:
        for reserve_id in reserve_ids:
            await inventory.release_reservation(campaign_id, reserve_id)

    async def give_up(reserve_id: str) -> bool:
        await inventory.release_reservation(campaign_id, reserve_id)
        return False

    operation = Operation("reserve", campaign_id, wanted, lend, recover=take_back, give_up=give_up)
    return await once(request, operation, app[DEADLINES].within)


async def reservation(request: web.Request) -> web.Response:
    """Tell what one reservation still holds."""
    app = request.app
    campaign_id = checked_campaign_id(request.match_info["campaignId"])
    reserve_id = request.match_info["reserveId"]
    if not is_reserve_id(reserve_id):
        raise NotFoundError("The campaign has no such reservation, or it holds nothing any more.")
    found = await app[DEADLINES].within(app[INVENTORY].reservation(campaign_id, reserve_id.lower()))
    return json_response(reservation_reply(found))


async def assign(request: web.Request) -> web.Response:
    """Give codes away for good."""
    app = request.app
    limits = app[LIMITS]
    campaign_id = checked_campaign_id(request.match_info["campaignId"])
    wanted = parse_change(await json_object(request, limits), limits)
    inventory = app[INVENTORY]

    async def change(_name: str | None) -> web.Response:
        if wanted.reserveId is not None:
            return _change_reply(await inventory.assign_reservation(campaign_id, wanted.reserveId))
        return _change_reply(await inventory.assign(campaign_id, wanted.codes or ()))

    return await once(request, Operation("assign", campaign_id, wanted, change), app[DEADLINES].within)


async def release(request: web.Request) -> web.Response:
    """Take reserved codes back."""
    app = request.app
    limits = app[LIMITS]
    campaign_id = checked_campaign_id(request.match_info["campaignId"])
    wanted = parse_change(await json_object(request, limits), limits)
    inventory = app[INVENTORY]

    async def change(_name: str | None) -> web.Response:
        if wanted.reserveId is not None:
            return _change_reply(await inventory.release_reservation(campaign_id, wanted.reserveId))
        return _change_reply(await inventory.release(campaign_id, wanted.codes or ()))

    return await once(request, Operation("release", campaign_id, wanted, change), app[DEADLINES].within)


def json_response(data: Any, *, status: int = 200) -> web.Response:
    """Encode ``data`` as the body of a response."""
    return web.Response(body=orjson.dumps(data), status=status, content_type=JSON)


def _change_reply(counts: ChangeCounts) -> web.Response:
    return json_response({"count": {"in": counts.total, "updated": counts.updated}})


# A caller asks the same again and again: what came of a query string that was fine is kept.
@lru_cache(maxsize=256)
def _count_query(query: str, limits: Limits) -> CountQuery:
    return parse(CountQuery, query_parameters(query), limits)


@lru_cache(maxsize=256)
def _reserve_query(query: str, limits: Limits) -> ReserveRequest:
    return parse(ReserveRequest, _reserve_parameters(query), limits)


def _reserve_parameters(query: str) -> dict[str, Any]:
    return query_parameters(query, "count", "ttl", "min")


def query_parameters(query: str, *numbers: str) -> dict[str, Any]:
    """Read a raw query string; a parameter given twice becomes a list, which no schema takes.

    ``numbers`` are parameters that become integers where they are decimal digits.
    """
    found = URL.build(query_string=query, encoded=True).query
    parameters: dict[str, Any] = {}
    for name in found:
        values = found.getall(name)
        parameters[name] = values[0] if len(values) == 1 else values
    for name in numbers:
        text = parameters.get(name)
        # A number of 20 digits is too large in any case, and int() refuses one of 5,000.
        if isinstance(text, str) and text.isascii() and text.isdigit() and len(text) <= 20:
            parameters[name] = int(text)
    return parameters


async def json_object(
    request: web.Request, limits: Limits, *, may_be_empty: bool = False
) -> Mapping[str, Any]:
    """Read the body as a JSON object.

    Raises:
        RequestError: unsupportedMediaType, payloadTooLarge, invalidJson or requestTimeout.
        OverloadedError: there is no room for it now.
        ClientGoneError: the client did not send all of it.

    """
    content_type = request.headers.get(hdrs.CONTENT_TYPE, JSON).partition(";")[0].strip().lower()
    if content_type not in {JSON, ""}:
        raise RequestError("unsupportedMediaType", f"The body must be {JSON}")
    coding = request.headers.get(hdrs.CONTENT_ENCODING, "").strip().lower()
    if coding not in _PLAIN and coding not in CODINGS:
        raise RequestError("unsupportedMediaType", "The body must be sent as it is, or by gzip or deflate")
    length = request.content_length
    if length is not None and length > limits.max_body:
        raise RequestError("payloadTooLarge", f"The largest body is {limits.max_body} bytes")
    if request.headers.get(hdrs.EXPECT, "").lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0
    try:
        body = await request.app[BODIES].read(request, limits.max_body)
    except web.HTTPRequestEntityTooLarge:
        raise RequestError("payloadTooLarge", f"The largest body is {limits.max_body} bytes") from None
    except web.RequestPayloadError:
        raise RequestError("invalidJson", "The body cannot be read") from None
    except ConnectionError:
        raise ClientGoneError from None
    if coding in CODINGS:
        body = await inflated(body, coding, limits.max_body)
        request.app[BODIES].keep(len(body))
    if may_be_empty and not body:
        return {}
    try:
        data = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise RequestError("invalidJson", "The body is not JSON") from None
    if not isinstance(data, dict):
        raise RequestError("invalidJson", "The body is not a JSON object")
    return data

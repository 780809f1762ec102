"""The handler that tells of a campaign's codes: of some of them, or, as a stream, of all."""

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Final

from aiohttp import hdrs, web

from codesvc.models import Code
from codesvc.web.accept import preferred
from codesvc.web.handlers import DEADLINES, INVENTORY, JSON, LIMITS, json_response, query_parameters
from codesvc.web.problems import RequestError
from codesvc.web.rows import CSV_HEAD, csv_rows, json_rows
from codesvc.web.schemas import CodesQuery, checked_campaign_id, code_reply, parse
from codesvc.web.streaming import Stream

CSV: Final = "text/csv"
NDJSON: Final = "application/x-ndjson"
_OFFERS: Final = (JSON, CSV, NDJSON)
# What a reader has to take within the time that it may stand still.
_ROWS_TOGETHER: Final = 500


async def codes(request: web.Request) -> web.Response | Stream:
    """Tell of a page of a campaign's codes, or send all of them."""
    campaign_id = checked_campaign_id(request.match_info["campaignId"])
    query = parse(
        CodesQuery, query_parameters(request.rel_url.raw_query_string, "limit"), request.app[LIMITS]
    )
    media_type = preferred(request.headers.getall(hdrs.ACCEPT, ()), _OFFERS)
    if media_type is None:
        raise RequestError("notAcceptable", f"What can be had is {', '.join(_OFFERS)}")
    if media_type == JSON:
        return await _page(request, campaign_id, query)
    rows = await _begun(request, campaign_id, query)
    if media_type == CSV:
        return _stream(
            rows, CSV_HEAD, csv_rows, f"{CSV}; charset=utf-8; header=present", f"{campaign_id}.csv"
        )
    return _stream(rows, b"", json_rows, NDJSON, f"{campaign_id}.ndjson")


async def _page(request: web.Request, campaign_id: str, query: CodesQuery) -> web.Response:
    app = request.app
    page = await app[DEADLINES].within(
        app[INVENTORY].page(
            campaign_id,
            code_type=query.type,
            status=query.status,
            after=query.after or "",
            limit=query.limit,
        )
    )
    reply: dict[str, object] = {"codes": [code_reply(one) for one in page.codes]}
    if page.next is not None:
        reply["next"] = page.next
    return json_response(reply)


async def _begun(request: web.Request, campaign_id: str, query: CodesQuery) -> AsyncGenerator[Sequence[Code]]:
    """Begin to read all codes: what can be refused has been refused by then."""
    app = request.app
    found = app[INVENTORY].export(
        campaign_id, code_type=query.type, status=query.status, after=query.after or ""
    )
    if request.method == hdrs.METH_HEAD:
        return found
    first = await app[DEADLINES].within(anext(found, ()))

    async def whole() -> AsyncGenerator[Sequence[Code]]:
        async with aclosing(found):
            yield first
            async for some in found:
                yield some

    return whole()


def _stream(
    found: AsyncGenerator[Sequence[Code]],
    head: bytes,
    written: Callable[[Sequence[Code]], bytes],
    content_type: str,
    name: str,
) -> Stream:
    async def body() -> AsyncGenerator[bytes]:
        async with aclosing(found):
            if head:
                yield head
            async for some in found:
                for start in range(0, len(some), _ROWS_TOGETHER):
                    yield written(some[start : start + _ROWS_TOGETHER])

    # A campaign's id has no character that would have to be escaped.
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return Stream(body(), content_type=content_type, headers=headers)

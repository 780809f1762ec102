"""The handlers of uploads: to begin one, to look at it, to follow it, and to end it."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from functools import partial
from typing import Final, Protocol

import orjson
from aiohttp import hdrs, web
from multidict import istr

from codesvc.errors import CodesvcError, NotFoundError
from codesvc.ingest.job import new_upload_id
from codesvc.models import Upload, UploadOrder, UploadReport
from codesvc.web.handlers import DEADLINES, DRAINING, LIMITS, json_object, json_response, query_parameters
from codesvc.web.idempotent import Operation, once
from codesvc.web.problems import RequestError
from codesvc.web.schemas import (
    UploadRequest,
    checked_campaign_id,
    parse,
    split_file_key,
    upload_reply,
)
from codesvc.web.streaming import Stream
from codesvc.web.upload_keys import UploadWork
from codesvc.web.upload_schemas import DeleteQuery, UploadsQuery, is_upload_id, upload_resource


class Uploads(Protocol):
    """What the handlers need of codesvc.ingest."""

    async def run(self, order: UploadOrder, *, upload_id: str | None = None) -> UploadReport:
        """Load a file; returns when all of it is stored."""
        ...

    async def start(self, order: UploadOrder, *, upload_id: str | None = None) -> Upload:
        """Begin to load a file, or queue that."""
        ...

    async def get(self, campaign_id: str, upload_id: str) -> Upload:
        """Tell how far an upload has come."""
        ...

    async def page(self, campaign_id: str, *, limit: int, after: str | None) -> list[Upload]:
        """Tell of a campaign's uploads, the latest first."""
        ...

    def watch(self, campaign_id: str, upload_id: str) -> AsyncGenerator[Upload | None, None]:
        """Tell once a second how far an upload has come, until it has ended; None where that is not known."""
        ...

    def invalid(self, upload_id: str) -> AsyncGenerator[bytes, None]:
        """Yield the invalid rows of an upload, as lines of CSV."""
        ...


class Removals(Protocol):
    """What the handlers need of codesvc.ingest.takeback."""

    async def delete(
        self, campaign_id: str, upload_id: str, *, take_back: bool | None
    ) -> tuple[Upload, bool]:
        """End an upload, or take it back; tell whether that is done."""
        ...


UPLOADS: Final = web.AppKey("uploads", Uploads)
REMOVALS: Final = web.AppKey("removals", Removals)

PREFER: Final = istr("Prefer")
PREFERENCE_APPLIED: Final = istr("Preference-Applied")
LAST_EVENT_ID: Final = istr("Last-Event-ID")
_RESPOND_ASYNC: Final = "respond-async"
_RETRY_MILLISECONDS: Final = 2000
# A watcher who hears nothing for so many seconds may as well ask again, perhaps another process.
_PATIENCE: Final = 30


async def upload(request: web.Request) -> web.Response:
    """Load a file into the inventory, now or later."""
    app = request.app
    limits = app[LIMITS]
    campaign_id = checked_campaign_id(request.match_info["campaignId"])
    wanted = parse(UploadRequest, await json_object(request, limits), limits)
    key_campaign, code_type = split_file_key(wanted.fileKey)
    if key_campaign != campaign_id:
        raise RequestError("campaignMismatch", "The campaign of the file key is not the path's")
    order = UploadOrder(
        campaign_id,
        code_type,
        wanted.fileKey,
        header=wanted.header,
        strict=wanted.strict,
        dry_run=wanted.dryRun,
    )
    running = app[UPLOADS]

    def located(response: web.Response, upload_id: str | None) -> web.Response:
        if upload_id is not None:
            response.headers[hdrs.LOCATION] = f"/v1/{campaign_id}/uploads/{upload_id}"
        return response

    def told(accepted: Upload) -> web.Response:
        response = json_response(upload_resource(accepted), status=202)
        response.headers[PREFERENCE_APPLIED] = _RESPOND_ASYNC
        return located(response, accepted.id)

    def done(report: UploadReport) -> web.Response:
        return located(json_response(upload_reply(report, dry_run=order.dry_run)), report.upload_id)

    async def start(upload_id: str | None) -> web.Response:
        return told(await running.start(order, upload_id=upload_id))

    async def run(upload_id: str | None) -> web.Response:
        return done(await running.run(order, upload_id=upload_id))

    waits = not _prefers_async(request)
    find = partial(running.get, campaign_id)
    work = UploadWork(load=run if waits else start, find=find, told=told, done=done, waits=waits)
    return await once(
        request,
        Operation(
            "upload",
            campaign_id,
            wanted,
            work.perform,
            recover=work.recover,
            give_up=work.give_up,
            new_name=new_upload_id,
        ),
    )


async def uploads(request: web.Request) -> web.Response:
    """Tell of a campaign's uploads."""
    app = request.app
    campaign_id = checked_campaign_id(request.match_info["campaignId"])
    query = parse(UploadsQuery, query_parameters(request.rel_url.raw_query_string, "limit"), app[LIMITS])
    # One more than is shown tells whether there is another page.
    found = await app[DEADLINES].within(
        app[UPLOADS].page(campaign_id, limit=query.limit + 1, after=query.after)
    )
    shown = found[: query.limit]
    page: dict[str, object] = {"uploads": [upload_resource(one) for one in shown]}
    if len(found) > len(shown):
        page["next"] = shown[-1].id
    return json_response(page)


async def one_upload(request: web.Request) -> web.Response:
    """Tell how far one upload has come."""
    return json_response(upload_resource(await _found(request)))


async def events(request: web.Request) -> web.Response | Stream:
    """Tell how far one upload comes, as server-sent events (HTML Living Standard, section 9.2)."""
    first = await _found(request)
    if first.state.ended and request.headers.get(LAST_EVENT_ID) == _event_id(first):
        # What makes a browser stop to connect again.
        return web.Response(status=204)
    watched = request.app[UPLOADS].watch(first.order.campaign_id, first.id)
    return Stream(
        _events(watched, request.app), content_type="text/event-stream; charset=utf-8", endless=True
    )


async def invalid(request: web.Request) -> Stream:
    """Tell of every invalid row of one upload (RFC 4180)."""
    upload_id = (await _found(request)).id
    headers = {"Content-Disposition": f'attachment; filename="invalid-{upload_id}.csv"'}
    rows = request.app[UPLOADS].invalid(upload_id)
    return Stream(_with_head(rows), content_type="text/csv; charset=utf-8; header=present", headers=headers)


async def delete(request: web.Request) -> web.Response:
    """End one upload, or take back what is left of it."""
    app = request.app
    query = parse(DeleteQuery, query_parameters(request.rel_url.raw_query_string), app[LIMITS])
    found = await _found(request)
    upload, done = await app[REMOVALS].delete(found.order.campaign_id, found.id, take_back=query.takeBack)
    return json_response(upload_resource(upload), status=200 if done else 202)


async def _found(request: web.Request) -> Upload:
    app = request.app
    campaign_id = checked_campaign_id(request.match_info["campaignId"])
    upload_id = request.match_info["uploadId"]
    if not is_upload_id(upload_id):
        raise NotFoundError("The campaign has no such upload.")
    return await app[DEADLINES].within(app[UPLOADS].get(campaign_id, upload_id))


async def _with_head(rows: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    async with aclosing(rows):
        yield b"line,reason\r\n"
        async for some in rows:
            yield some


async def _events(
    watched: AsyncGenerator[Upload | None, None], app: web.Application
) -> AsyncGenerator[bytes, None]:
    yield b"retry: %d\n\n" % _RETRY_MILLISECONDS
    silent = 0
    async with aclosing(watched):
        async for one in _known(watched):
            silent = silent + 1 if one is None else 0
            if silent > _PATIENCE:
                return
            yield b": the database does not answer\n\n" if one is None else _event(one)
            # NOTE: whoever follows goes on with another process.
            if app[DRAINING]():
                return


async def _known(watched: AsyncIterator[Upload | None]) -> AsyncIterator[Upload | None]:
    """Pass on what is watched, until it cannot be had any more: a record may go while it is looked at."""
    try:
        async for one in watched:
            yield one
    except CodesvcError:
        return


def _event(upload: Upload) -> bytes:
    name = b"end" if upload.state.ended else b"progress"
    data = orjson.dumps(upload_resource(upload))
    return b"event: %b\nid: %b\ndata: %b\n\n" % (name, _event_id(upload).encode(), data)


def _event_id(upload: Upload) -> str:
    return f"{round(upload.updated.timestamp() * 1000)}"


def _prefers_async(request: web.Request) -> bool:
    """Tell whether the caller does not want to wait (RFC 7240, section 4.1)."""
    for header in request.headers.getall(PREFER, ()):
        for preference in header.split(","):
            name = preference.partition(";")[0].partition("=")[0]
            if name.strip().lower() == _RESPOND_ASYNC:
                return True
    return False

"""The OpenAPI document and the page to try it, served from memory, with no asset of another host."""

from collections.abc import Mapping
from importlib.resources import files
from typing import Final

import orjson
from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from codesvc.web.handlers import JSON
from codesvc.web.openapi import openapi_document
from codesvc.web.schemas import Limits

PAGES: Final = {
    "/docs": ("docs.html", "text/html; charset=utf-8"),
    "/docs/docs.js": ("docs.js", "text/javascript; charset=utf-8"),
    "/docs/docs.css": ("docs.css", "text/css; charset=utf-8"),
}

_HEADERS: Final = {
    hdrs.CACHE_CONTROL: "no-cache",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


def documentation(limits: Limits, *, dev: bool) -> Mapping[str, Handler]:
    """Return the handler of each path."""
    document = orjson.dumps(openapi_document(limits, dev=dev))
    handlers = {"/openapi.json": _always(document, {hdrs.CONTENT_TYPE: JSON})}
    for path, (name, content_type) in PAGES.items():
        body = files("codesvc.web").joinpath("static", name).read_bytes()
        handlers[path] = _always(body, {**_HEADERS, hdrs.CONTENT_TYPE: content_type})
    return handlers


def _always(body: bytes, headers: Mapping[str, str]) -> Handler:
    async def show(_: web.Request) -> web.StreamResponse:
        return web.Response(body=body, headers=headers)

    return show

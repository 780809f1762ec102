"""The OpenAPI document, and the pages that stand on it: files of static/ kept in memory, none of another host.

A page and all that it loads lie below one path, and name each other relatively: a proxy may put a prefix before it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from importlib.resources import files
from pathlib import PurePosixPath
from typing import Final

import orjson
from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from codesvc.web.handlers import JSON
from codesvc.web.openapi import openapi_document
from codesvc.web.schemas import Limits

_SHARED: Final = ("base.css", "icon.svg", "dom.js", "api.js")
_PAGES: Final[Mapping[str, tuple[str, ...]]] = {
    "docs": ("docs.css", "docs.js", "operation.js", "schema.js"),
    "console": (
        "console.css",
        "console.js",
        "session.js",
        "stock.js",
        "uploads.js",
        "upload.js",
        "codes.js",
        "confirm.js",
    ),
}
_CONTENT_TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
_HEADERS: Final = {
    hdrs.CACHE_CONTROL: "no-cache",
    # Nothing inline, nothing of another host, no string that becomes markup or script, no form that the browser sends
    # by itself (its fields would be in the address), no frame around the page.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
}


@dataclass(frozen=True, slots=True)
class Served:
    """What one path answers; ``template`` is what metrics and logs call it."""

    path: str
    template: str
    handler: Handler


def served_pages(limits: Limits, *, dev: bool, console: bool) -> Iterator[Served]:
    """Yield what the service shows to people: the document, the page to try it and, with ``console``, the console."""
    document = orjson.dumps(openapi_document(limits, dev=dev, console=console))
    yield Served("/openapi.json", "/openapi.json", _always(document, {hdrs.CONTENT_TYPE: JSON}))
    for page in _PAGES:
        if page == "console" and not console:
            continue
        for path, name in page_files(page).items():
            content_type = _CONTENT_TYPES[PurePosixPath(name).suffix]
            handler = _always(static_file(name), {**_HEADERS, hdrs.CONTENT_TYPE: content_type})
            yield Served(path, f"/{page}", handler)


def page_files(page: str) -> dict[str, str]:
    """Return the file behind each path of a page, ``docs`` or ``console``."""
    below = {f"/{page}/{name}": name for name in (*_SHARED, *_PAGES[page])}
    return {f"/{page}": f"{page}.html", **below}


def static_file(name: str) -> bytes:
    """Read a file of static/."""
    return files("codesvc.web").joinpath("static", name).read_bytes()


def _always(body: bytes, headers: Mapping[str, str]) -> Handler:
    """Return a handler that shows ``body``, or says that the browser has it already (RFC 9110, section 13.1.2)."""
    tag = sha256(body).hexdigest()[:32]
    sent = {**headers, hdrs.ETAG: f'"{tag}"'}

    async def show(request: web.Request) -> web.StreamResponse:
        if any(each.value in {tag, "*"} for each in request.if_none_match or ()):
            return web.Response(status=304, headers=sent)
        return web.Response(body=body, headers=sent)

    return show

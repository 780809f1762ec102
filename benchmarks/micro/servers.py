"""Two servers with the same replies: codesvc's own edge over rooms that do nothing, and bare aiohttp handlers.

Both run as `codesvc serve` does: one process, uvloop, aiohttp's runner, INFO lines to standard output. codesvc traces
if OTEL_* variables ask for it; a third server takes the spans, and does nothing with them.

    python -m benchmarks.micro.servers codesvc|bare|collector PORT CORE
"""

import asyncio
import os
import sys
from typing import Any, Final

import uvloop
from aiohttp import web

from codesvc.models import CodeType, Counts
from codesvc.observability.logs import configure_logging
from codesvc.observability.telemetry import Telemetry
from codesvc.observability.tracing import configure_tracing
from codesvc.web.auth import Authenticator, TokenRules
from codesvc.web.routes import create_web_app
from codesvc.web.server import WebRunner

SECRET: Final = "benchmarks-only-benchmarks-only-benchmarks"
PATHS: Final = {
    "heartbeat": ("/heartbeat", b'{"status":"ok"}'),
    "count": ("/v1/12345/codes/count?type=tm", b'{"available":50000,"reserved":1000,"assigned":49000}'),
}
"""Path and reply of each case."""


def main() -> None:
    """Serve until SIGTERM."""
    kind, port, core = sys.argv[1:]
    os.sched_setaffinity(0, {int(core)})
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(_KINDS[kind](), int(port)))


async def _serve(runner: web.AppRunner, port: int) -> None:
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    await asyncio.Event().wait()


def _bare() -> web.AppRunner:
    app = web.Application()
    for path, body in PATHS.values():
        app.router.add_get(path.partition("?")[0].replace("12345", "{campaignId}"), _fixed(body))
    return web.AppRunner(app, access_log=None)


def _fixed(body: bytes) -> Any:
    async def handler(_: web.Request) -> web.Response:
        return web.Response(body=body, content_type="application/json")

    return handler


def _collector() -> web.AppRunner:
    async def take(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(content_type="application/x-protobuf")

    app = web.Application()
    app.router.add_post("/v1/traces", take)
    return web.AppRunner(app, access_log=None)


def _codesvc() -> web.AppRunner:
    configure_logging("INFO")
    configure_tracing()
    rooms: Any = _Rooms()
    app = create_web_app(
        inventory=rooms,
        uploads=rooms,
        idempotency=rooms,
        removals=rooms,
        authenticator=Authenticator(TokenRules(secret=SECRET)),
        telemetry=Telemetry(),
        ready=rooms.ready,
        draining=lambda: False,
    )
    return WebRunner(app)


class _Rooms:
    """What stands behind the edge, without anything behind it: no more than is asked here."""

    async def ready(self) -> bool:
        return True

    async def count(self, campaign_id: str, code_type: CodeType) -> Counts:  # noqa: ARG002
        return Counts(available=50_000, reserved=1_000, assigned=49_000)


_KINDS: Final = {"codesvc": _codesvc, "bare": _bare, "collector": _collector}


if __name__ == "__main__":
    main()

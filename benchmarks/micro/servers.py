"""Two servers with the same replies: codesvc's own edge over rooms that do nothing, and bare aiohttp handlers.

Both run as `codesvc serve` does: one process, uvloop, aiohttp's runner, INFO lines to standard output.

    python -m benchmarks.micro.servers codesvc|bare PORT CORE
"""

import asyncio
import os
import sys
from typing import Any, Final

import uvloop
from aiohttp import web

from codesvc.models import ChangeCounts, CodeType, Counts, Reservation, Status, UploadReport
from codesvc.observability.logs import configure_logging
from codesvc.observability.telemetry import Telemetry
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
        runner.run(_serve(_bare() if kind == "bare" else _codesvc(), int(port)))


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


def _codesvc() -> web.AppRunner:
    configure_logging("INFO")
    rooms = _Rooms()
    app = create_web_app(
        inventory=rooms,
        uploads=rooms,
        authenticator=Authenticator(TokenRules(secret=SECRET)),
        telemetry=Telemetry(),
        ready=rooms.ready,
        draining=lambda: False,
    )
    return WebRunner(app)


class _Rooms:
    """What stands behind the edge, without anything behind it."""

    async def ready(self) -> bool:
        return True

    async def count(self, campaign_id: str, code_type: CodeType) -> Counts:  # noqa: ARG002
        return Counts(available=50_000, reserved=1_000, assigned=49_000)

    async def count_status(self, campaign_id: str, code_type: CodeType, status: Status) -> int:
        raise NotImplementedError

    async def reserve(self, campaign_id: str, code_type: CodeType, count: int) -> Reservation:
        raise NotImplementedError

    async def assign(self, campaign_id: str, codes: Any) -> ChangeCounts:
        raise NotImplementedError

    async def release(self, campaign_id: str, codes: Any) -> ChangeCounts:
        raise NotImplementedError

    async def run(self, **_: Any) -> UploadReport:
        raise NotImplementedError


if __name__ == "__main__":
    main()

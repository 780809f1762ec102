"""The contender of the suite `inventory`: the same routes, written as one would write them first.

A reserve finds the first available codes, updates those of them that still are, and reads back what it got. A count is
one `count_documents` for each status. Assign and release are one `update_many` with one `$in`. Conditions say
`$exists`, as the states of a code are told in words. Codes, indexes, driver and write concern are those of codesvc;
there are no tokens, no checks, no metrics, no time limits.

    python -m benchmarks.textbook MONGO_URI DATABASE PORT
"""

import asyncio
import sys
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import uuid4

import orjson
import uvloop
from aiohttp import web
from motor.motor_asyncio import AsyncIOMotorClient

_HOLD: Final = timedelta(hours=24)
_LARGEST_BODY: Final = 32 << 20
_UNASSIGNED: Final = {"date.assigned": {"$exists": False}}


def main() -> None:
    """Serve until SIGTERM."""
    uri, database, port = sys.argv[1:]
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(uri, database, int(port)))


async def _serve(uri: str, database: str, port: int) -> None:
    client: Any = AsyncIOMotorClient(uri, appname="textbook", tz_aware=True, w="majority", journal=True)
    textbook = Textbook(client[database].codes)
    app = web.Application(client_max_size=_LARGEST_BODY)
    app.router.add_post("/v1/{campaignId}/reserve", textbook.reserve)
    app.router.add_get("/v1/{campaignId}/codes/count", textbook.count)
    app.router.add_post("/v1/{campaignId}/assign", textbook.assign)
    app.router.add_post("/v1/{campaignId}/release", textbook.release)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    await asyncio.Event().wait()


class Textbook:
    """The handlers, on a collection of codes."""

    def __init__(self, codes: Any) -> None:
        self._codes = codes

    async def reserve(self, request: web.Request) -> web.Response:
        """Find, update, read back."""
        stock = _stock(request)
        now = datetime.now(UTC)
        still_available = _available(now - _HOLD)
        reserve_id = str(uuid4())
        count = int(request.query["count"])
        found = await self._codes.find(stock | still_available, {"_id": 1}).limit(count).to_list(count)
        ids = {"_id": {"$in": [document["_id"] for document in found]}}
        held = {"reserveId": reserve_id, "date.reserved": now}
        await self._codes.update_many(ids | still_available, {"$set": held})
        lent = [
            {
                "code": document["_id"]["code"],
                "type": document["type"],
                "reserveId": reserve_id,
                "date": document["date"],
            }
            for document in await self._codes.find(ids | {"reserveId": reserve_id}).to_list(count)
        ]
        return _reply({"reserveId": reserve_id, "codes": lent, "count": len(lent)})

    async def count(self, request: web.Request) -> web.Response:
        """Ask for one status after the other."""
        cut_off = datetime.now(UTC) - _HOLD
        queries = {
            "available": _available(cut_off),
            "reserved": _reserved(cut_off),
            "assigned": {"date.assigned": {"$exists": True}},
        }
        stock = _stock(request)
        return _reply(
            {name: await self._codes.count_documents(stock | query) for name, query in queries.items()}
        )

    async def assign(self, request: web.Request) -> web.Response:
        """Set the date of those that have none."""
        return await self._change(request, _UNASSIGNED, {"$set": {"date.assigned": datetime.now(UTC)}})

    async def release(self, request: web.Request) -> web.Response:
        """Take the hold off those that have a live one."""
        still_reserved = _reserved(datetime.now(UTC) - _HOLD)
        return await self._change(request, still_reserved, {"$unset": {"date.reserved": "", "reserveId": ""}})

    async def _change(
        self, request: web.Request, condition: dict[str, Any], change: dict[str, Any]
    ) -> web.Response:
        campaign_id = request.match_info["campaignId"]
        codes = orjson.loads(await request.read())["codes"]
        ids = {"_id": {"$in": [{"campaign_id": campaign_id, "code": code} for code in codes]}}
        result = await self._codes.update_many(ids | condition, change)
        return _reply({"count": {"in": len(codes), "updated": result.modified_count}})


def _stock(request: web.Request) -> dict[str, Any]:
    return {"_id.campaign_id": request.match_info["campaignId"], "type": request.query["type"]}


def _available(cut_off: datetime) -> dict[str, Any]:
    ended = [{"date.reserved": {"$exists": False}}, {"date.reserved": {"$lte": cut_off}}]
    return _UNASSIGNED | {"$or": ended}


def _reserved(cut_off: datetime) -> dict[str, Any]:
    return _UNASSIGNED | {"date.reserved": {"$gt": cut_off}}


def _reply(data: Any) -> web.Response:
    return web.Response(body=orjson.dumps(data, option=orjson.OPT_UTC_Z), content_type="application/json")


if __name__ == "__main__":
    main()

"""A process that traces what the drivers do: commands to the MongoDB of its argument, and one HTTP request."""

import asyncio
import sys
from contextlib import suppress

import aiohttp
from aiohttp import web
from aiohttp.test_utils import TestServer

from codesvc.observability.logs import correlation_id
from codesvc.observability.telemetry import Telemetry
from codesvc.observability.tracing import configure_tracing


async def talk(uri: str, database: str) -> None:
    from motor.motor_asyncio import AsyncIOMotorClient
    from pymongo.errors import PyMongoError

    correlation_id.set("c-2")
    telemetry = Telemetry()
    client: AsyncIOMotorClient[dict[str, object]] = AsyncIOMotorClient(uri)
    codes = client[database]["codes"]
    with telemetry.datastore_operation("seed"):
        await codes.insert_many([{"_id": "SECRET-1", "k": "SECRET-A"}, {"_id": "SECRET-2", "k": "SECRET-B"}])
    await codes.create_index("k", unique=True)
    with suppress(PyMongoError), telemetry.datastore_operation("break"):
        # The server refuses the whole command, and quotes the key in its words.
        await codes.find_one_and_update({"_id": "SECRET-2"}, {"$set": {"k": "SECRET-A"}})
    await codes.find_one({"_id": "SECRET-1"})
    client.close()

    async def echo(request: web.Request) -> web.Response:
        return web.Response(text=request.headers.get("traceparent", ""))

    app = web.Application()
    app.router.add_get("/object", echo)
    async with TestServer(app) as server, aiohttp.ClientSession() as session:
        with telemetry.storage_operation("get", method="GetObject", bucket="b", key="k"):
            async with session.get(server.make_url("/object?X-Signature=SECRET-S")) as response:
                sys.stdout.write(await response.text())


if __name__ == "__main__":
    shutdown = configure_tracing()
    asyncio.run(talk(*sys.argv[1:]))
    shutdown()

"""A process that serves traced requests over the rooms of the edge's tests; it prints its log, then ends."""

import asyncio
import sys
from contextlib import suppress
from http.client import HTTPConnection
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "web"))

from aiohttp.test_utils import TestServer
from webroom import MemoryUploads, Service, bearer

from codesvc.models import UploadCounts, UploadOrder, UploadReport
from codesvc.observability.logs import configure_logging
from codesvc.observability.telemetry import Telemetry
from codesvc.observability.tracing import configure_tracing

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class TracedUploads(MemoryUploads):
    """An upload that reports as a pipeline does: batches in tasks of their own, operations within them."""

    telemetry: Telemetry

    async def run(self, order: UploadOrder, *, upload_id: str | None = None) -> UploadReport:  # noqa: ARG002
        queue: asyncio.Queue[int] = asyncio.Queue()
        with self.telemetry.upload(campaign_id=order.campaign_id, code_type=order.code_type.value) as upload:

            async def write() -> None:
                codes = await queue.get()
                with upload.batch(codes), self.telemetry.datastore_operation("insert", codes=codes):
                    await asyncio.sleep(0)
                upload.stored(inserted=codes, updated=0)

            tasks = [asyncio.create_task(write()) for _ in range(2)]
            with self.telemetry.storage_operation("get", method="GetObject", bucket="b", key="k", offset=0):
                upload.read(100)
            for codes in (5, 7):
                queue.put_nowait(codes)
            await asyncio.gather(*tasks)
            with suppress(ValueError), self.telemetry.datastore_operation("broken"):
                raise ValueError("SECRET-CODE")
        return UploadReport(UploadCounts(12, 0))


async def serve() -> None:
    uploads = TracedUploads()
    service = Service(uploads=uploads)
    uploads.telemetry = service.telemetry
    async with TestServer(service.application()) as server:

        async def send(method: str, path: str, body: str | None = None, **headers: str) -> None:
            # NOTE: aiohttp's client would make spans of its own, which this is not about.
            def talk() -> None:
                connection = HTTPConnection(str(server.host), server.port)
                told = bearer() | {"X-Correlation-ID": "c-1", "Content-Type": "application/json"} | headers
                connection.request(method, path, body, told)
                connection.getresponse().read()
                connection.close()

            await asyncio.to_thread(talk)

        await send("POST", "/v1/77/codes", '{"fileKey": "codes/77/tm/x"}', traceparent=TRACEPARENT)
        await send("GET", "/v1/77/reserve?type=tm&count=1")
        await send("GET", "/nothing/SECRET-PATH")
        service.inventory.failure = RuntimeError("SECRET-CODE")
        await send("GET", "/v1/77/codes/count?type=tm")
        await send("GET", "/livez")


if __name__ == "__main__":
    configure_logging("INFO")
    shutdown = configure_tracing(service_name="codesvc-test")
    asyncio.run(serve())
    shutdown()

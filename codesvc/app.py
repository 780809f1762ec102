"""The composition root: settings → clients → store and source → rules."""

import ctypes
import logging
import os
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Final

from codesvc.datastore.client import Mongo
from codesvc.datastore.codes import CodeStore
from codesvc.datastore.counting import Verdict
from codesvc.datastore.indexes import migrate
from codesvc.datastore.keys import IdempotencyKeys
from codesvc.datastore.stock import Sampling, Stock
from codesvc.datastore.uploads import UploadRecords
from codesvc.datastore.watch import Watch, view
from codesvc.idempotency import Idempotency
from codesvc.ingest.dry_runs import DryRuns
from codesvc.ingest.jobs import Jobs
from codesvc.ingest.pipeline import Options, Uploads
from codesvc.ingest.takeback import Removals
from codesvc.ingest.turns import Bounds
from codesvc.inventory import Inventory, utc_now
from codesvc.observability.telemetry import Telemetry
from codesvc.settings import Settings
from codesvc.sources.inflate import InflatingSource
from codesvc.sources.s3 import S3Source
from codesvc.version import __version__
from codesvc.web.problems import failure

logger = logging.getLogger(__name__)

_READY_SECONDS: Final = 1.5
# Of glibc's malloc.h.
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8
_LARGE_BLOCK: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Service:
    """Everything behind the edge, wired together."""

    settings: Settings
    telemetry: Telemetry
    mongo: Mongo
    store: CodeStore
    stock: Stock
    inventory: Inventory
    uploads: Uploads
    dry_runs: DryRuns
    jobs: Jobs
    idempotency: Idempotency
    removals: Removals

    async def ready(self) -> bool:
        """Tell whether MongoDB answers."""
        return await self.mongo.ping(_READY_SECONDS)


@asynccontextmanager
async def open_service(settings: Settings) -> AsyncIterator[Service]:
    """Connect and wire everything behind the edge; neither MongoDB nor S3 needs to answer yet."""
    _keep_memory_steady()
    telemetry = Telemetry(version=__version__)
    async with AsyncExitStack() as stack:
        mongo = Mongo(settings, event_listeners=[Watch(telemetry.database)])
        telemetry.watch_database(partial(view, mongo))
        stack.push_async_callback(mongo.close)
        store = CodeStore(mongo, telemetry, settings.write_strategy)
        stack.push_async_callback(store.close)
        ttl = timedelta(seconds=settings.reservation_ttl)
        sampling = Sampling(settings.stock_interval, settings.stock_campaigns, ttl)
        stock = store.stock(telemetry.stock, sampling, utc_now)
        stack.push_async_callback(stock.close)
        if not store.raw_encoding:
            logger.warning("the driver does not take encoded batches as they are: uploads will be slow")
        source = None
        if settings.s3_bucket:
            source = InflatingSource(await stack.enter_async_context(S3Source(settings, telemetry)))
        options = Options(
            batch_size=settings.batch_size,
            sort_codes=settings.sort_codes,
            write_concurrency=settings.write_concurrency,
            max_row_bytes=settings.max_row_bytes,
            max_writes=settings.max_writes,
        )
        uploads = Uploads(source=source, store=store, telemetry=telemetry, options=options, clock=utc_now)
        dry_runs = DryRuns(source=source, stock=store, telemetry=telemetry, options=options, clock=utc_now)
        lease = timedelta(seconds=settings.upload_lease)
        jobs = Jobs(
            pipeline=uploads,
            dry_runs=dry_runs,
            source=source,
            records=UploadRecords(
                mongo,
                uuid.uuid4().hex,
                kept=timedelta(seconds=settings.upload_ttl),
                lease=lease,
            ),
            telemetry=telemetry,
            lease=lease,
            bounds=Bounds(running=settings.max_uploads, waiting=settings.max_queued_uploads),
            describe=failure,
            clock=utc_now,
        )
        telemetry.watch_queue(lambda: jobs.waiting)
        stack.push_async_callback(jobs.close)
        keys = IdempotencyKeys(mongo, telemetry, kept=timedelta(seconds=settings.idempotency_ttl))
        idempotency = Idempotency(keys, telemetry)
        stack.push_async_callback(idempotency.close)
        removals = Removals(jobs, store.codes_of_upload, hold=ttl, clock=utc_now)
        stack.push_async_callback(removals.close)
        yield Service(
            settings=settings,
            telemetry=telemetry,
            mongo=mongo,
            store=store,
            stock=stock,
            inventory=Inventory(store, reservation_ttl=ttl),
            uploads=uploads,
            dry_runs=dry_runs,
            jobs=jobs,
            idempotency=idempotency,
            removals=removals,
        )


def _keep_memory_steady() -> None:
    """Let large blocks go back to the system when they are freed.

    glibc would learn to keep blocks of the size of an encoded batch, some for each thread that ever had one: the longer
    the upload, the more. What MALLOC_* variables say goes before this.
    """
    if not any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ):
        with suppress(OSError, AttributeError):  # another C library, such as musl, has no such thing
            libc = ctypes.CDLL(None)
            libc.mallopt(_M_MMAP_THRESHOLD, _LARGE_BLOCK)
            libc.mallopt(_M_ARENA_MAX, 2)


async def create_indexes(settings: Settings, *, drop_obsolete: bool = False) -> list[str]:
    """Create or verify the indexes; return their names."""
    mongo = Mongo(settings)
    try:
        return await migrate(mongo, drop_obsolete=drop_obsolete)
    finally:
        await mongo.close()


async def verify_counts(settings: Settings) -> AsyncIterator[Verdict]:
    """Compare all counts that are kept with the documents."""
    async with open_service(settings) as service:
        async for verdict in service.store.verify_counts():
            yield verdict

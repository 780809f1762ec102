"""The composition root: settings → clients → store and source → rules → routes."""

import asyncio
import logging
import re
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final


from codesvc.datastore.client import Mongo
from codesvc.datastore.codes import CodeStore
from codesvc.datastore.indexes import ensure_indexes
from codesvc.errors import CodesvcError, DatabaseUnavailableError, SettingsError, SourceNotFoundError
from codesvc.ingest.pipeline import Options, Source, Uploads
from codesvc.inventory import Inventory, utc_now
from codesvc.models import CodeType, Progress, UploadReport
from codesvc.observability.logs import configure_logging
from codesvc.observability.telemetry import Telemetry
from codesvc.observability.tracing import configure_tracing
from codesvc.settings import Settings
from codesvc.sources.file import FileSource
from codesvc.sources.s3 import S3Source

logger = logging.getLogger(__name__)

_FILE_KEY: Final = re.compile(r"codes/([A-Za-z0-9._~-]{1,128})/(tm|external)/.+", re.DOTALL)
_CAMPAIGN_ID: Final = re.compile(r"[A-Za-z0-9._~-]{1,128}")
_INDEX_RETRY_SECONDS: Final = 5.0
_READY_SECONDS: Final = 2.0


@dataclass(frozen=True, slots=True)
class Service:
    """Everything behind the edge, wired together."""

    settings: Settings
    telemetry: Telemetry
    mongo: Mongo
    inventory: Inventory
    uploads: Uploads

    async def ready(self) -> bool:
        """Tell whether MongoDB answers."""
        return await self.mongo.ping(_READY_SECONDS)

    async def ingest(
        self,
        source: str,
        *,
        campaign_id: str | None = None,
        code_type: CodeType | None = None,
        header: bool = False,
        strict: bool = False,
        progress: Callable[[Progress], None] | None = None,
    ) -> UploadReport:
        """Run one upload without HTTP.

        ``source`` is a local path, ``s3://bucket/key``, or a file key of the configured bucket (where no local file
        has that name). Campaign and type are taken from a name of the form ``codes/{campaign}/{type}/{name}`` unless
        they are given.

        Raises:
            SettingsError: the campaign or the type is neither given nor in the name; or no bucket is configured.
            CodesvcError: see ``Uploads.run``.

        """
        bucket, name = _parse_source(source)
        match = _FILE_KEY.fullmatch(name)
        if match is not None:
            campaign_id = campaign_id or match[1]
            code_type = code_type or CodeType(match[2])
        if campaign_id is None or code_type is None:
            raise SettingsError("--campaign and --type are needed: the source's name does not tell them")
        if not _CAMPAIGN_ID.fullmatch(campaign_id):
            raise SettingsError("--campaign: is not 1 to 128 characters of A-Z a-z 0-9 . _ ~ -")
        async with self._source(bucket) as opened:
            return await self.uploads.run(
                campaign_id=campaign_id,
                code_type=code_type,
                file_key=name,
                header=header,
                strict=strict,
                source=opened,
                progress=progress,
            )

    @asynccontextmanager
    async def _source(self, bucket: str | None) -> AsyncIterator[Source]:
        if bucket is None:
            yield FileSource()
            return
        if not bucket:
            self.settings.require_bucket()
        async with S3Source(self.settings, self.telemetry, bucket=bucket or None) as source:
            yield source


@asynccontextmanager
async def open_service(settings: Settings) -> AsyncIterator[Service]:
    """Connect and wire everything behind the edge; neither MongoDB nor S3 needs to answer yet."""
    telemetry = Telemetry()
    async with AsyncExitStack() as stack:
        mongo = Mongo(settings)
        stack.push_async_callback(mongo.close)
        store = CodeStore(mongo, telemetry, settings.write_strategy)
        if not store.raw_encoding:
            logger.warning("the driver does not take encoded batches as they are: uploads will be slow")
        source = (
            await stack.enter_async_context(S3Source(settings, telemetry)) if settings.s3_bucket else None
        )
        yield Service(
            settings=settings,
            telemetry=telemetry,
            mongo=mongo,
            inventory=Inventory(store, reservation_ttl=timedelta(seconds=settings.reservation_ttl)),
            uploads=Uploads(
                source=source,
                store=store,
                telemetry=telemetry,
                options=Options(
                    batch_size=settings.batch_size,
                    write_concurrency=settings.write_concurrency,
                    max_row_bytes=settings.max_row_bytes,
                ),
                clock=utc_now,
            ),
        )


async def create_indexes(settings: Settings) -> list[str]:
    """Create or verify the indexes; return their names."""
    mongo = Mongo(settings)
    try:
        return await ensure_indexes(mongo)
    finally:
        await mongo.close()


def _parse_source(source: str) -> tuple[str | None, str]:
    """Split a source into bucket and name: None for a local path, an empty one for the configured bucket."""
    if source.startswith("s3://"):
        bucket, _, key = source.removeprefix("s3://").partition("/")
        if not bucket or not key:
            raise SettingsError("SOURCE: is not of the form s3://bucket/key")
        return bucket, key
    if _FILE_KEY.fullmatch(source) and not Path(source).exists():
        return "", source
    return None, source

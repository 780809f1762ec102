"""The composition root: settings → clients → store and source → rules → routes."""

import asyncio
import ctypes
import gc
import logging
import os
import re
import signal
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Final, TypedDict

import uvloop
from aiohttp import web

from codesvc.datastore.client import Mongo
from codesvc.datastore.codes import CodeStore
from codesvc.datastore.counting import Verdict
from codesvc.datastore.indexes import migrate
from codesvc.datastore.stock import Sampling, Stock
from codesvc.datastore.uploads import UploadRecords
from codesvc.datastore.watch import Watch, view
from codesvc.errors import CodesvcError, DatabaseUnavailableError, SettingsError, UploadInterruptedError
from codesvc.ingest.jobs import Jobs
from codesvc.ingest.pipeline import Options, Uploads
from codesvc.ingest.shares import LoadReport, Selection, Share, Told, load_share
from codesvc.ingest.turns import Bounds
from codesvc.inventory import Inventory, utc_now
from codesvc.models import CodeType, Progress, UploadReport
from codesvc.observability.logs import configure_logging, log_the_rest
from codesvc.observability.telemetry import Telemetry
from codesvc.observability.tracing import configure_tracing
from codesvc.settings import HMAC_ALGORITHMS, Settings
from codesvc.sources.file import FileSource
from codesvc.sources.s3 import S3Source
from codesvc.version import __version__
from codesvc.web.auth import Authenticator, TokenRules, mint_token
from codesvc.web.problems import failure
from codesvc.web.routes import EDGE, create_web_app
from codesvc.web.schemas import Limits
from codesvc.web.server import WebRunner
from codesvc.workers.member import Member
from codesvc.workers.sockets import listening_sockets

logger = logging.getLogger(__name__)

_FILE_KEY: Final = re.compile(r"codes/([A-Za-z0-9._~-]{1,128})/(tm|external)/.+", re.DOTALL)
_CAMPAIGN_ID: Final = re.compile(r"[A-Za-z0-9._~-]{1,128}")
_INDEX_RETRY_SECONDS: Final = 5.0
_READY_SECONDS: Final = 1.5
_DEV_TOKEN_SECONDS: Final = 3600
_POLL_SECONDS: Final = 0.05
_INTERRUPTED: Final = "The process that ran the upload has gone. To send the upload again is safe."
# Of glibc's malloc.h.
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8
_LARGE_BLOCK: Final = 1 << 20

# For what is still being written to a socket when the drain is over.
_CLOSE_SECONDS: Final = 2.0

# Between a worker's ceasing to accept and its refusing of requests.
_LEAVE_SECONDS: Final = 0.5


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
    jobs: Jobs

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
        destination = _destination(name, campaign_id, code_type)
        async with self._source(bucket) as opened:
            return await self.uploads.run(
                **destination, file_key=name, header=header, strict=strict, source=opened, progress=progress
            )

    async def ingest_share(
        self,
        source: str,
        *,
        share: Share,
        told: Told,
        campaign_id: str | None = None,
        code_type: CodeType | None = None,
        header: bool = False,
        strict: bool = False,
    ) -> LoadReport:
        """Run the uploads of one process's share of many files, see ``load_share``.

        ``source`` is as for ``ingest``, but ends in ``/`` or has a ``*`` in it.

        Raises:
            SettingsError: the campaign is malformed, or no bucket is configured.

        """
        if campaign_id is not None:
            _check_campaign(campaign_id)
        bucket, name = _parse_source(source)
        async with self._source(bucket) as opened:

            async def load(file_key: str, progress: Callable[[Progress], None]) -> UploadReport:
                return await self.uploads.run(
                    **_destination(file_key, campaign_id, code_type),
                    file_key=file_key,
                    header=header,
                    strict=strict,
                    source=opened,
                    progress=progress,
                )

            return await load_share(opened, Selection.of(name), share, load, told)

    @asynccontextmanager
    async def _source(self, bucket: str | None) -> AsyncIterator[FileSource | S3Source]:
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
        source = (
            await stack.enter_async_context(S3Source(settings, telemetry)) if settings.s3_bucket else None
        )
        uploads = Uploads(
            source=source,
            store=store,
            telemetry=telemetry,
            options=Options(
                batch_size=settings.batch_size,
                sort_codes=settings.sort_codes,
                write_concurrency=settings.write_concurrency,
                max_row_bytes=settings.max_row_bytes,
            ),
            clock=utc_now,
        )
        jobs = Jobs(
            pipeline=uploads,
            source=source,
            records=UploadRecords(
                mongo,
                uuid.uuid4().hex,
                kept=timedelta(seconds=settings.upload_ttl),
                interrupted=failure(UploadInterruptedError(_INTERRUPTED)),
            ),
            bounds=Bounds(running=settings.max_uploads, waiting=settings.max_queued_uploads),
            describe=failure,
            clock=utc_now,
        )
        telemetry.watch_queue(lambda: jobs.waiting)
        telemetry.watch_queue(lambda: jobs.waiting)
        stack.push_async_callback(jobs.close)
        yield Service(
            settings=settings,
            telemetry=telemetry,
            mongo=mongo,
            store=store,
            stock=stock,
            inventory=Inventory(store, reservation_ttl=ttl),
            uploads=uploads,
            jobs=jobs,
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


def serve(settings: Settings, member: Member | None = None) -> int:
    """Serve the API until SIGTERM or SIGINT; return the process's exit code.

    The first signal drains: ``/readyz`` and new requests get 503, those under way end within
    ``CODESVC_DRAIN_SECONDS``. The second one ends the process at once. A ``member`` of several workers has its sockets
    from the supervisor, and is ended by it.

    Raises:
        SettingsError: the address cannot be listened on, or a key cannot be used.

    """
    configure_logging(
        settings.log_level.value,
        form=settings.log_format,
        probes=settings.log_probes,
        fields=None if member is None else {"worker": member.number},
        lock=None if member is None else member.log_lock,
    )
    log_the_rest()
    try:
        flush_traces = configure_tracing(service_version=__version__)
    except ValueError as error:
        raise SettingsError(str(error)) from None
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(settings, member))
    finally:
        flush_traces()
    return 0


async def _serve(settings: Settings, member: Member | None) -> None:
    # Before anything slow: a process that is told to go while it starts ends as well as one that serves.
    drain = Drain()
    if member is None:
        drain.listen()
    else:
        # A supervisor and whoever else signals a whole group of processes may both mean the same end.
        # Where only this worker goes, requests of the connections that it has just taken are served.
        drain.listen(first=member.leave, second=_ignore, delay=_LEAVE_SECONDS)
    authenticator = Authenticator(_token_rules(settings))
    async with AsyncExitStack() as stack:
        if member is not None:
            await stack.enter_async_context(member.connected(drain.begin))
        stack.push_async_callback(authenticator.close)
        service = await stack.enter_async_context(open_service(settings))
        app = create_web_app(
            inventory=service.inventory,
            uploads=service.jobs,
            authenticator=authenticator,
            telemetry=service.telemetry,
            ready=service.ready,
            draining=drain.begun,
            limits=Limits(
                max_reserve=settings.max_reserve, max_codes_per_request=settings.max_codes_per_request
            ),
            dev_token=_dev_token(settings),
            console=settings.console,
            other_figures=None if member is None else member.other_figures,
        )
        runner = WebRunner(app, handle_signals=False, shutdown_timeout=_CLOSE_SECONDS)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        # What was made so far stays: the collector need not look at it each time that a large reply makes it run.
        gc.collect()
        gc.freeze()
        if member is None:
            port = await _listen(runner, settings)
        else:
            await stack.enter_async_context(member.serving(runner.server, service.telemetry.figures))
            port = member.port
        fields = {"host": settings.host, "port": port, "version": __version__, "pid": os.getpid()}
        logger.info("listening", extra=fields)
        # One of several workers is enough.
        indexes = (
            asyncio.create_task(_ensure_indexes(service.mongo)) if member is None or member.first else None
        )
        service.stock.start()
        await drain.signalled()
        jobs = service.jobs
        logger.info("draining", extra={"requests": app[EDGE].active, "uploads": jobs.active})
        await drain.finish(lambda: app[EDGE].active + jobs.active, settings.drain_seconds, jobs.drain)
        if indexes is not None:
            indexes.cancel()
            await asyncio.gather(indexes, return_exceptions=True)
    logger.info("stopped")


class Drain:
    """The end of a process: told by a signal, over when nothing is under way or the time is up."""

    def __init__(self) -> None:
        self._signal = asyncio.Event()
        self._taken = False
        self._delay = 0.0
        self._first: Callable[[], None] = _nothing
        self._second: Callable[[int], None] = _end_at_once

    def begin(self) -> None:
        """Begin it without a signal; once begun, nothing more happens."""
        self._signal.set()

    def begun(self) -> bool:
        """Tell whether the process is going away."""
        return self._signal.is_set()

    def listen(
        self,
        *,
        first: Callable[[], None] | None = None,
        second: Callable[[int], None] | None = None,
        delay: float = 0.0,
    ) -> None:
        """Take SIGTERM and SIGINT: ``first`` is called, and for a further one ``second`` with its number.

        ``delay`` is in seconds between ``first`` and the drain. By default a second signal ends the process at once.
        """
        self._first, self._second, self._delay = first or _nothing, second or _end_at_once, delay
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._take, number)

    async def signalled(self) -> None:
        """Wait for the signal."""
        await self._signal.wait()

    async def finish(self, active: Callable[[], int], seconds: float, hurry: Callable[[], None]) -> None:
        """Wait until nothing is ``active``, for ``seconds`` at most; after three quarters of them, call ``hurry``.

        Uploads have no bound of their own, so they are hurried: they end at the next batch, with counts that hold.
        """
        started = time.monotonic()
        hurried = False
        while active() and (waited := time.monotonic() - started) < seconds:
            if not hurried and waited >= 0.75 * seconds:
                hurried = True
                hurry()
            await asyncio.sleep(_POLL_SECONDS)

    def _take(self, number: int) -> None:
        if self._taken:
            self._second(number)
            return
        self._taken = True
        self._first()
        if self._delay:
            asyncio.get_running_loop().call_later(self._delay, self._signal.set)
        else:
            self._signal.set()


def _end_at_once(number: int) -> None:
    # What a shell reports for a process that a signal ended.
    os._exit(128 + number)


def _ignore(_number: int) -> None:
    return None


def _nothing() -> None:
    return None


async def _listen(runner: WebRunner, settings: Settings) -> int:
    for each in listening_sockets(settings):
        await web.SockSite(runner, each).start()
    return int(runner.addresses[0][1])


async def _ensure_indexes(mongo: Mongo) -> None:
    """Create the indexes as soon as MongoDB answers: requests are served meanwhile, only slower."""
    while True:
        try:
            names = await migrate(mongo)
        except DatabaseUnavailableError:
            await asyncio.sleep(_INDEX_RETRY_SECONDS)
        except CodesvcError as error:
            logger.error("the indexes cannot be created", extra={"reason": str(error)})  # noqa: TRY400
            return
        else:
            logger.info("indexes verified", extra={"indexes": names})
            return


def _token_rules(settings: Settings) -> TokenRules:
    return TokenRules(
        secret=None if settings.jwt_secret is None else settings.jwt_secret.get_secret_value(),
        public_key=settings.jwt_public_key,
        jwks_url=settings.jwt_jwks_url,
        algorithms=settings.jwt_algorithms,
        issuer=settings.jwt_issuer,
        audience=settings.jwt_audience,
        leeway=settings.jwt_leeway,
    )


def _dev_token(settings: Settings) -> Callable[[], str] | None:
    if not settings.dev or settings.jwt_secret is None:
        return None
    return partial(mint_configured_token, settings, ttl=_DEV_TOKEN_SECONDS)


def mint_configured_token(settings: Settings, *, ttl: float, supreme: bool = True) -> str:
    """Mint a token that this configuration accepts for ``ttl`` seconds.

    Raises:
        SettingsError: there is no secret to sign it with.

    """
    if settings.jwt_secret is None:
        raise SettingsError("CODESVC_JWT_SECRET: is not set")
    hmac = [name for name in settings.jwt_algorithms if name in HMAC_ALGORITHMS]
    return mint_token(
        secret=settings.jwt_secret.get_secret_value(),
        ttl=ttl,
        supreme=supreme,
        issuer=settings.jwt_issuer,
        audience=settings.jwt_audience,
        algorithm=hmac[0] if hmac else "HS256",
    )


class _Destination(TypedDict):
    campaign_id: str
    code_type: CodeType


def _destination(name: str, campaign_id: str | None, code_type: CodeType | None) -> _Destination:
    """Take what is not given from a name of the form ``codes/{campaign}/{type}/{name}``."""
    match = _FILE_KEY.fullmatch(name)
    if match is not None:
        campaign_id = campaign_id or match[1]
        code_type = code_type or CodeType(match[2])
    if campaign_id is None or code_type is None:
        raise SettingsError("--campaign and --type are needed: the source's name does not tell them")
    _check_campaign(campaign_id)
    return {"campaign_id": campaign_id, "code_type": code_type}


def _check_campaign(campaign_id: str) -> None:
    if not _CAMPAIGN_ID.fullmatch(campaign_id):
        raise SettingsError("--campaign: is not 1 to 128 characters of A-Z a-z 0-9 . _ ~ -")


def _parse_source(source: str) -> tuple[str | None, str]:
    """Split a source into bucket and name: None for a local path, an empty one for the configured bucket."""
    if source.startswith("s3://"):
        bucket, slash, key = source.removeprefix("s3://").partition("/")
        if not bucket or not slash or not (key or source.endswith("/")):
            raise SettingsError("SOURCE: is not of the form s3://bucket/key")
        return bucket, key
    folder, star, _ = source.partition("*")
    if star or source.endswith("/"):
        of_bucket = source.startswith("codes/") and not Path(folder.rpartition("/")[0]).exists()
    else:
        of_bucket = _FILE_KEY.fullmatch(source) is not None and not Path(source).exists()
    return "" if of_bucket else None, source

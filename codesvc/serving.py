"""Serving the HTTP API: a process from its start to the end of its drain."""

import asyncio
import gc
import logging
import os
import resource
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from functools import partial
from typing import Final

import uvloop
from aiohttp import web

from codesvc.app import open_service
from codesvc.datastore.client import Mongo
from codesvc.datastore.indexes import migrate
from codesvc.drain import Drain
from codesvc.errors import CodesvcError, DatabaseUnavailableError, SettingsError
from codesvc.observability.logs import configure_logging, log_the_rest
from codesvc.observability.tracing import configure_tracing
from codesvc.settings import HMAC_ALGORITHMS, Settings
from codesvc.version import __version__
from codesvc.web.auth import Authenticator, TokenRules, mint_token
from codesvc.web.connections import Patience
from codesvc.web.routes import EDGE, create_web_app
from codesvc.web.schemas import Limits
from codesvc.web.server import WebRunner
from codesvc.workers.member import Member
from codesvc.workers.sockets import listening_sockets

logger = logging.getLogger(__name__)

_INDEX_RETRY_SECONDS: Final = 5.0
_DEV_TOKEN_SECONDS: Final = 3600

# For what is still being written to a socket when the drain is over.
_CLOSE_SECONDS: Final = 2.0

# What MongoDB, S3 and the process itself need, and the most that is asked for.
_OWN_DESCRIPTORS: Final = 256
_MOST_DESCRIPTORS: Final = 1 << 17

# For the first request of those who connect at the end of the drain.
_NEWCOMERS_SECONDS: Final = 1.0

# Between a worker's ceasing to accept and its refusing of requests.
_LEAVE_SECONDS: Final = 0.5


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
            idempotency=service.idempotency,
            removals=service.removals,
            authenticator=authenticator,
            telemetry=service.telemetry,
            ready=service.ready,
            draining=drain.begun,
            limits=Limits(
                max_reserve=settings.max_reserve,
                max_codes_per_request=settings.max_codes_per_request,
                reservation_ttl=settings.reservation_ttl,
                max_requests=settings.max_requests,
                max_streams=settings.max_streams,
                # Those that may run or wait, and as many more as are on their way to be told.
                max_lengthy=settings.max_uploads + settings.max_queued_uploads + settings.max_requests,
                max_bodies=settings.max_bodies,
            ),
            dev_token=_dev_token(settings),
            console=settings.console,
            other_figures=None if member is None else member.other_figures,
        )
        patience = Patience(connections=min(settings.max_connections, _descriptors() - _OWN_DESCRIPTORS))
        runner = WebRunner(app, handle_signals=False, shutdown_timeout=_CLOSE_SECONDS, patience=patience)
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
        service.jobs.look_after_others()
        await drain.signalled()
        jobs = service.jobs
        logger.info("draining", extra={"requests": app[EDGE].active, "uploads": jobs.active})
        jobs.hand_over()
        # It goes on where somebody asks for it once more.
        service.removals.drain()
        await drain.finish(lambda: app[EDGE].active + jobs.active, settings.drain_seconds, jobs.drain)
        # Other workers go on accepting, if any has something to do yet.
        if member is not None:
            await member.cease()
        await runner.cease(_NEWCOMERS_SECONDS)
        if indexes is not None:
            indexes.cancel()
            await asyncio.gather(indexes, return_exceptions=True)
    logger.info("stopped")


def _descriptors() -> int:
    """Return how many files this process may have open, after asking for as many as it may ask for."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _MOST_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
    return _MOST_DESCRIPTORS if soft == resource.RLIM_INFINITY else max(soft, 2 * _OWN_DESCRIPTORS)


def _ignore(_number: int) -> None:
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

"""The connection to MongoDB, and the one place that knows which driver makes it.

Motor is the default. PyMongo's own asyncio client has the same surface but for a few calls that one awaits and the
other does not; those few are hidden here, so that the rest of the room is written once.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from inspect import isawaitable, iscoroutinefunction
from typing import Any, Final

import pymongo
from bson.codec_options import CodecOptions
from motor.motor_asyncio import AsyncIOMotorClient
from pymongo import AsyncMongoClient, ReadPreference
from pymongo.errors import ConfigurationError, PyMongoError
from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern

from codesvc.datastore.failures import translated
from codesvc.errors import SettingsError
from codesvc.settings import Driver, Settings

COLLECTION: Final = "codes"
CAMPAIGNS: Final = "campaigns"
UPLOADS: Final = "uploads"
INVALID_ROWS: Final = "invalid_rows"
IDEMPOTENCY_KEYS: Final = "idempotency_keys"

_READ_CONCERN: Final = ReadConcern("local")
_GOODBYE_SECONDS: Final = 1.0
_UNKNOWN_COMMIT: Final = "UnknownTransactionCommitResult"

# The two drivers share no base class; what codesvc calls on them is the same by name.
AsyncClient = Any
AsyncDatabase = Any
AsyncCollection = Any
AsyncSession = Any


@dataclass(frozen=True, slots=True)
class Deployment:
    """What answers, and what it accepts in one bulk write, from its ``hello``."""

    transactions: bool
    """Members of a replica set and mongos know transactions and retryable writes; a standalone server does not."""
    max_write_batch_size: int
    max_document_bytes: int
    """Of a document, of a reply, and of a command that PyMongo sends as such (only its own bulk writes go up to
    ``maxMessageSizeBytes``)."""


class Mongo:
    """A client, the database and the collection of codes.

    ``timeout`` is the time limit of one operation in seconds, retries and server selection included (the drivers'
    client-side operation timeout).

    Raises:
        SettingsError: the driver does not understand CODESVC_MONGO_URI.

    """

    def __init__(self, settings: Settings, **options: Any) -> None:
        make = AsyncMongoClient if settings.mongo_driver is Driver.PYMONGO else AsyncIOMotorClient
        self.timeout = settings.mongo_timeout
        self.write_concern = WriteConcern(w=settings.write_concern, j=settings.write_journal)
        # What a reply promises depends on the write concern, and on reading where one writes; so these are codesvc's
        # own, whatever the URI says. Keyword options win over it.
        try:
            self.client: AsyncClient = make(
                settings.mongo_uri,
                appname="codesvc",
                tz_aware=True,
                timeoutMS=round(self.timeout * 1000),
                # For the one operation without a time limit, see indexes.py.
                serverSelectionTimeoutMS=round(self.timeout * 1000),
                w=settings.write_concern,
                journal=settings.write_journal,
                **options,
            )
        except (ConfigurationError, ValueError) as error:
            # Only the kind: the driver's message may repeat a part of the URI, which holds a password.
            raise SettingsError(
                f"CODESVC_MONGO_URI: is not a connection string that can be used ({type(error).__name__})"
            ) from None
        self.database: AsyncDatabase = self.client.get_database(
            settings.mongo_database,
            codec_options=CodecOptions(tz_aware=True),
            write_concern=self.write_concern,
            read_preference=ReadPreference.PRIMARY,
            read_concern=_READ_CONCERN,
        )
        self.codes: AsyncCollection = self.database[COLLECTION]
        # What processes tell each other must not be rolled back, whatever was chosen for the codes.
        told = WriteConcern(w="majority", j=True)
        self.campaigns: AsyncCollection = self.database.get_collection(CAMPAIGNS, write_concern=told)
        self.uploads: AsyncCollection = self.database.get_collection(UPLOADS, write_concern=told)
        self.invalid_rows: AsyncCollection = self.database.get_collection(INVALID_ROWS, write_concern=told)
        self.idempotency_keys: AsyncCollection = self.database.get_collection(
            IDEMPOTENCY_KEYS, write_concern=told
        )
        self._deployment: Deployment | None = None

    async def deployment(self) -> Deployment:
        """Ask the server what it is, once.

        Raises:
            DatabaseUnavailableError: it did not answer.

        """
        if self._deployment is None:
            with translated():
                hello = await self.database.command("hello")
            self._deployment = Deployment(
                transactions="setName" in hello or hello.get("msg") == "isdbgrid",
                max_write_batch_size=int(hello["maxWriteBatchSize"]),
                max_document_bytes=int(hello["maxBsonObjectSize"]),
            )
        return self._deployment

    async def ping(self, timeout: float) -> bool:  # noqa: ASYNC109 - the driver's own limit, not a cancellation
        """Tell whether a primary answers within ``timeout`` seconds."""
        try:
            with pymongo.timeout(timeout), translated():
                hello = await self.database.command("hello")
        except Exception:  # noqa: BLE001 - whatever it is, the answer is no
            return False
        return bool(hello.get("isWritablePrimary"))

    async def session(self) -> AsyncSession:
        """Start a session; the caller ends it."""
        started = self.client.start_session(causal_consistency=False)
        return await started if isawaitable(started) else started

    async def close(self) -> None:
        """Close every connection."""
        # The driver first tells the server which sessions end, and would wait for one that is away.
        with pymongo.timeout(_GOODBYE_SECONDS):
            if iscoroutinefunction(self.client.close):
                await self.client.close()
            else:
                # Motor's blocks.
                await asyncio.to_thread(self.client.close)


@asynccontextmanager
async def transaction(mongo: Mongo) -> AsyncIterator[AsyncSession]:
    """Run a block in a transaction; unless the block commits it, it is aborted."""
    session = await mongo.session()
    try:
        # A coroutine in PyMongo's asyncio client, a plain call in Motor.
        started = session.start_transaction(
            read_concern=_READ_CONCERN,
            write_concern=mongo.write_concern,
            read_preference=ReadPreference.PRIMARY,
        )
        if isawaitable(started):
            await started
        yield session
    finally:
        if session.in_transaction:
            await session.abort_transaction()
        await session.end_session()


async def commit(
    session: AsyncSession, *, deadline: float, pause: float, retried: Callable[[], None]
) -> None:
    """Commit, and ask again while it is unknown whether the commit took effect (a commit may be repeated).

    ``deadline`` is of the monotonic clock; ``pause`` is in seconds between two tries; ``retried`` is told of each.
    """
    while True:
        try:
            await session.commit_transaction()
        except PyMongoError as error:
            if not error.has_error_label(_UNKNOWN_COMMIT) or time.monotonic() > deadline:
                raise
            retried()
            await asyncio.sleep(pause)
        else:
            return

r"""Bulk `insert` and `update` commands whose payload was encoded beforehand.

An OP_MSG carries such a command as two sections (MongoDB wire protocol, OP_MSG):

    kind 0   the command's own document    {insert: "codes", ordered: false, lsid, txnNumber, writeConcern, ...}
    kind 1   int32 size | "documents\0"    BSON document | BSON document | ...           (the run of bytes)

PyMongo builds the second section from a list of mappings, and copies the ``raw`` attribute of a ``RawBSONDocument``
into it unchanged. One stand-in whose ``raw`` holds many documents in a row therefore makes a valid section, and no
Python object per code is ever made. That leans on the driver's inside, so :func:`raw_encoding_works` tries it before
the first use; where it fails, plain documents are sent instead, which is slow but right.

Commands are retryable writes: each carries a session and a transaction number of our own, so that the server executes
every statement once however often the command is sent, and tells the second time what it did the first (MongoDB
manual, "Retryable Writes"). That is what keeps counts exact when a reply is lost or a primary steps down.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import bson
import pymongo
from bson.codec_options import CodecOptions
from bson.int64 import Int64
from bson.raw_bson import RawBSONDocument
from bson.timestamp import Timestamp
from pymongo.errors import PyMongoError

from codesvc._fastcsv import WriteReply, read_write_reply
from codesvc.datastore.client import COLLECTION, AsyncSession, Mongo
from codesvc.datastore.failures import RETRYABLE_CODES, database_error, may_be_sent_again, translated
from codesvc.datastore.telemetry import Telemetry
from codesvc.errors import DatabaseUnavailableError

COMMAND_OVERHEAD: Final = 16 * 1024
"""Bytes kept free in a message for the command's own document."""

# What a reply says of a document that was there already: its _id twice (in the message and as keyValue), words, and
# the names of the database and the collection. Twice the document's own size covers the first and some of the words.
_DUPLICATE_ERROR_BYTES: Final = 96
_LONG_REPLY_BYTES: Final = 16 * 1024

MAX_FOUND: Final = 30_000
"""Documents that one find may ask for. The longest _id that codesvc makes takes some 450 bytes in a reply, and a reply
holds 16 MiB: a fuller one would leave a cursor open. It also bounds the memory and the time that one reply takes."""

_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 1.0


_Reply = TypeVar("_Reply")


class _RawRun:
    """Documents in a row, which the driver's encoder takes for one."""

    __slots__ = ("raw",)
    _type_marker = RawBSONDocument._type_marker  # noqa: SLF001 - what the encoder goes by

    def __init__(self, raw: bytes) -> None:
        self.raw = raw


class _RawReply(RawBSONDocument):
    """A long reply whose arrays stay undecoded: a reply to 50,000 upserts names every one of them.

    A short one is a plain dict: errors are short, and of a raw document the driver would read neither the labels nor
    the topology's version, by which it tells the news of a failover from an echo.
    """

    def __new__(cls, bson_bytes: bytes, _codec_options: Any = None) -> Any:
        if len(bson_bytes) < _LONG_REPLY_BYTES:
            return bson.decode(bson_bytes)
        return super().__new__(cls)

    @staticmethod
    def _inflate_bson(bson_bytes: Any, codec_options: Any) -> Any:
        return bson.raw_bson._inflate_bson(bson_bytes, codec_options, raw_array=True)  # noqa: SLF001


_RAW_REPLY: Final = CodecOptions(document_class=_RawReply)


def raw_encoding_works() -> bool:
    """Try the two liberties that this module takes with the driver, on a scratch encoding."""
    first, second = bson.encode({"a": 1}), bson.encode({"b": "x"})
    short = {"n": 0, "errorLabels": ["x"], "ok": 0.0}
    long = bson.encode({"n": 2, "upserted": [{"_id": "x" * _LONG_REPLY_BYTES}], "ok": 1.0})
    try:
        return (
            bson.encode(_RawRun(first + second)) == first + second  # type: ignore[arg-type]
            and bson.decode(bson.encode(short), _RAW_REPLY) == short
            and bytes((decoded := bson.decode(long, _RAW_REPLY)).raw) == long
            and decoded["ok"] == 1.0
        )
    except Exception:  # noqa: BLE001 - whatever another version of the driver does with them, they do not work
        return False


@dataclass(slots=True)
class _Session:
    """A session that only this module uses, with the transaction number that was used last."""

    session: AsyncSession
    number: int


@dataclass(frozen=True, slots=True)
class Found:
    """The raw reply to a find, and an instant that is not before what it shows; None if the cluster has no clock."""

    reply: bytes
    instant: Timestamp | None


class Wire:
    """Sends runs of encoded documents; any number of calls may be under way at once.

    Arguments:
        mongo: the connection, with the write concern that is asked for.
        telemetry: told of each command.
        raw: whether the driver takes runs of bytes, see :func:`raw_encoding_works`.

    """

    def __init__(self, mongo: Mongo, telemetry: Telemetry, *, raw: bool) -> None:
        self._mongo = mongo
        self._telemetry = telemetry
        self._raw = raw
        self._idle: list[_Session] = []
        # Only acknowledged: {"w": "majority", "j": true}
        self._write_concern = dict(mongo.write_concern.document)

    async def insert(self, documents: bytes) -> WriteReply:
        """Insert documents, unordered; the reply tells which were there already (E11000).

        Raises:
            DatabaseUnavailableError: no answer in time, after as many tries as the time allowed.
            DatabaseRefusedError: the server refused the command.

        """
        with self._telemetry.datastore_operation("insert", bytes=len(documents)):
            return await self._run("insert", "documents", documents)

    async def runs(self, documents: bytes, count: int) -> list[tuple[bytes, int]]:
        """Cut ``count`` documents into runs, each with its number of documents, that can all be duplicates.

        A server whose reply would be larger than a document may be (every E11000 names the code twice) sends none at
        all and closes the connection, each time it is asked. The replies to updates are smaller than their statements.
        """
        deployment = await self._mongo.deployment()
        error_bytes = _DUPLICATE_ERROR_BYTES + len(f"{self._mongo.database.name}.{COLLECTION}".encode())
        return _cut(documents, count, error_bytes, deployment.max_document_bytes)

    async def update(self, statements: bytes) -> WriteReply:
        """Run update statements, unordered; raises as :meth:`insert` does."""
        with self._telemetry.datastore_operation("update", bytes=len(statements)):
            return await self._run("update", "updates", statements)

    async def reads_majority(self) -> bool:
        """Tell whether :meth:`find` shows what a majority holds: a standalone server has none."""
        return (await self._mongo.deployment()).transactions

    async def find(self, query: bytes, *, limit: int, typed: bool) -> "Found":
        """Find documents that a majority (or the only server) holds, in the order of their ``_id``, and read only that.

        ``limit`` is 1 to ``MAX_FOUND``; ``typed`` has their ``type`` as well, for which each must be fetched.
        """
        command = {
            "find": COLLECTION,
            "filter": RawBSONDocument(query),
            "projection": {"_id": 1, "type": 1} if typed else {"_id": 1},
            "sort": {"_id": 1},
            "limit": limit,
            "batchSize": limit,
        }
        with self._telemetry.datastore_operation("find", limit=limit):
            if await self.reads_majority():
                command["readConcern"] = {"level": "majority"}
            reply = await self._read(command)
        return Found(_bytes_of(reply), reply.get("operationTime"))

    async def holds_other_types(self, campaign_id: str, code_type: str, instant: Timestamp) -> bool:
        """Tell whether, at ``instant`` or later, a majority holds codes of the campaign that have another type."""
        command = {
            "find": COLLECTION,
            "filter": {"_id.campaign_id": campaign_id, "type": {"$ne": code_type}},
            # From the index codes_by_status alone.
            "projection": {"_id": 0, "type": 1},
            "limit": 1,
            "singleBatch": True,
            "readConcern": {"level": "majority", "afterClusterTime": instant},
        }
        with self._telemetry.datastore_operation("find", limit=1):
            reply = await self._read(command)
        return bool(reply["cursor"]["firstBatch"])

    async def kill_cursor(self, cursor: int) -> None:
        """Let the server forget a cursor."""
        await self._read({"killCursors": COLLECTION, "cursors": [Int64(cursor)]})

    async def _read(self, command: dict[str, Any]) -> Any:
        async def ask() -> Any:
            return await self._mongo.database.command(dict(command), codec_options=_RAW_REPLY)

        return await self._until_answered(ask)

    async def _run(self, name: str, field: str, payload: bytes) -> WriteReply:
        command = {name: COLLECTION, "ordered": False, "writeConcern": self._write_concern}
        if not (await self._mongo.deployment()).transactions:
            # A standalone server knows no retryable writes: after a lost reply it is the caller who tries again.
            with translated():
                reply = await self._send(command, field, payload, None)
            return _accepted(reply)
        session = self._idle.pop() if self._idle else _Session(await self._mongo.session(), time.time_ns())
        # Above every number that the driver may have used on a pooled session, and never used twice.
        session.number += 1
        command["txnNumber"] = Int64(session.number)
        reply = await self._until_told(command, field, payload, session)
        # Not on an exception: a command that was given up may still be under way on this session.
        self._idle.append(session)
        return _accepted(reply)

    async def _until_told(
        self, command: dict[str, Any], field: str, payload: bytes, session: _Session
    ) -> WriteReply:
        async def ask() -> WriteReply:
            return await self._send(dict(command), field, payload, session.session)

        return await self._until_answered(ask, lambda reply: reply.write_concern_error not in RETRYABLE_CODES)

    async def _until_answered(
        self, ask: Callable[[], Awaitable[_Reply]], settled: Callable[[_Reply], bool] = lambda _reply: True
    ) -> _Reply:
        """Ask again and again, as long as the time limit allows, after what another try may cure."""
        deadline = time.monotonic() + self._mongo.timeout
        pause = _FIRST_PAUSE
        with translated(), pymongo.timeout(self._mongo.timeout):
            while True:
                try:
                    reply = await ask()
                except PyMongoError as error:
                    if not may_be_sent_again(error) or time.monotonic() + pause > deadline:
                        raise
                else:
                    if settled(reply) or time.monotonic() + pause > deadline:
                        return reply
                self._telemetry.command_retried()
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)

    async def _send(
        self, command: dict[str, Any], field: str, payload: bytes, session: AsyncSession | None
    ) -> WriteReply:
        command[field] = [_RawRun(payload)] if self._raw else bson.decode_all(payload)
        options = {"codec_options": _RAW_REPLY} if self._raw else {}
        reply = await self._mongo.database.command(command, session=session, **options)
        return read_write_reply(_bytes_of(reply))


def _bytes_of(reply: Any) -> bytes:
    return bytes(reply.raw) if isinstance(reply, _RawReply) else bson.encode(reply)


def _cut(documents: bytes, count: int, error_bytes: int, reply_bytes: int) -> list[tuple[bytes, int]]:
    if 2 * len(documents) + count * error_bytes <= reply_bytes:
        return [(documents, count)]
    runs = []
    start = position = size = room = 0
    while position < len(documents):
        length = int.from_bytes(documents[position : position + 4], "little")
        room += 2 * length + error_bytes
        if room > reply_bytes:
            runs.append((documents[start:position], size))
            start, size, room = position, 0, 2 * length + error_bytes
        position += length
        size += 1
    runs.append((documents[start:], size))
    return runs


def _accepted(reply: WriteReply) -> WriteReply:
    """Raise unless every statement was executed or met a duplicate, under the write concern that was asked for."""
    if reply.first_other_error is not None:
        raise database_error(reply.first_other_error[1])
    if reply.write_concern_error is not None:
        raise database_error(reply.write_concern_error)
    if not reply.ok:
        raise DatabaseUnavailableError("The database did not carry out a bulk write.")
    return reply

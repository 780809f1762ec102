"""Uploads from S3 and its likes: one object, read in ranges, several at once, handed on in order.

    part 0  GET bytes 0-8388607          its reply names the object's ETag and size
    part 1  GET bytes 8388608-16777215   If-Match: that ETag       ┐ a window of N parts, each of which
    part 2  ...                                                    ┘ keeps what has come until its turn

A part that breaks off is asked for again from the byte where it broke. Since every request but the first is bound to
the ETag, all the bytes are of one version of the object. Who goes on with what was read before, by whatever process,
says where and of which version: then the first request is bound to it as well.

Opening an object, and each part, is an operation that is told to the telemetry here, with the attributes that
OpenTelemetry gives to calls of AWS. Its instrumentation of botocore wraps ``BaseClient._make_api_call``, which
aiobotocore overrides by a coroutine that it never sees; and the span of a call would end with the reply's head, before
the bytes of a part have come. The requests below are seen by the instrumentation of aiohttp's client, with which
aiobotocore sends them.
"""

import asyncio
import re
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager
from contextvars import ContextVar
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final, Protocol, Self

import aiohttp
from aiobotocore.config import AioConfig
from aiobotocore.session import get_session
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError, IncompleteReadError
from botocore.exceptions import ConnectionError as BotoConnectionError

from codesvc.errors import CodesvcError, SourceChangedError, SourceNotFoundError, StorageUnavailableError
from codesvc.models import SourceFile
from codesvc.settings import Settings
from codesvc.sources.pace import Pace

if TYPE_CHECKING:
    from types_aiobotocore_s3.client import S3Client
    from types_aiobotocore_s3.type_defs import (
        GetObjectOutputTypeDef,
        GetObjectRequestTypeDef,
        HeadObjectRequestTypeDef,
    )

# Read from the socket's buffer at most; what it holds is taken as it is.
_CHUNK_BYTES: Final = 256 * 1024
_CONNECT_SECONDS: Final = 5
_READ_SECONDS: Final = 15
# Times in a row that a part may break off without a byte having come.
_FRUITLESS_TRIES: Final = 4
_FIRST_PAUSE: Final = 0.1
# For the reply to one request, from looking up the store's address to the head, the client's own retries included.
_REPLY_SECONDS: Final = 30

_BROKEN: Final = (
    aiohttp.ClientError,
    BotoConnectionError,
    HTTPClientError,
    IncompleteReadError,
    TimeoutError,
    OSError,
)

_CONTENT_RANGE: Final = re.compile(r"bytes (\d+)-(\d+)/(\d+)", re.ASCII)
_NOT_REACHED: Final = "The object store cannot be reached."
_NOT_THE_RANGE: Final = "The object store does not honour ranges."


class Told(Protocol):
    """Takes what became of an operation."""

    def tell(self, **attributes: str | int) -> None:
        """Tell it."""


class Telemetry(Protocol):
    """What the source tells of each operation."""

    def storage_operation(
        self, name: str, /, *, method: str, bucket: str, key: str, **attributes: str | int
    ) -> AbstractContextManager[Told]:
        """Cover the operation ``name``, which sends requests that S3 calls ``method``."""

    def storage_request(self, operation: str, seconds: float, *, ok: bool) -> None:
        """Tell of one request, from sending it to the head of its reply."""

    def storage_retried(self) -> None:
        """Tell that a request is sent again."""


class S3Source:
    """Objects of one bucket, by key. Use as an async context manager."""

    def __init__(self, settings: Settings, telemetry: Telemetry, *, bucket: str | None = None) -> None:
        self._settings = settings
        self._telemetry = telemetry
        self._bucket = bucket or settings.s3_bucket
        self._client: S3Client | None = None
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        settings = self._settings
        config = AioConfig(
            connect_timeout=_CONNECT_SECONDS,
            read_timeout=_READ_SECONDS,
            max_pool_connections=max(10, 8 * settings.read_concurrency),
            retries={"mode": "standard", "max_attempts": 3},
            # A range has no checksum of its own, and TLS or the ETag guard the rest.
            response_checksum_validation="when_required",
            s3={"addressing_style": "path"} if settings.s3_endpoint_url else {},
        )
        try:
            self._client = await self._stack.enter_async_context(
                get_session().create_client(
                    "s3",
                    endpoint_url=settings.s3_endpoint_url,
                    region_name=settings.aws_region,
                    config=config,
                )
            )
        except BotoCoreError as error:
            raise StorageUnavailableError("The object store's client cannot be set up.") from error
        requests = _Requests(self._telemetry)
        self._client.meta.events.register("before-send.s3", requests.sent)
        self._client.meta.events.register("response-received.s3", requests.answered)
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._stack.aclose()

    @asynccontextmanager
    async def open(self, name: str, *, start: int = 0, etag: str | None = None) -> AsyncIterator["S3Stream"]:
        """Open the object whose key is ``name``, to read it from the byte ``start`` on.

        Raises:
            SourceNotFoundError: the bucket has no such object.
            SourceChangedError: the object is no longer the one that had this ``etag``, or is not so long.
            StorageUnavailableError: the store refuses, or cannot be reached.

        """
        if self._client is None:
            raise RuntimeError("the source is not open")
        stream = S3Stream(
            self._client, self._bucket, name, self._settings, self._telemetry, start=start, etag=etag
        )
        try:
            await stream.start()
            yield stream
        finally:
            await stream.close()

    async def files(self, prefix: str, *, page_size: int = 1000) -> AsyncIterator[SourceFile]:
        """Yield every object whose key begins with ``prefix``, in the order of their bytes, a page in memory at a time.

        Each page is asked for by the last key of the one before, not by a token that may expire: hours may lie between
        two of them.

        Raises:
            StorageUnavailableError: the store refuses, or cannot be reached.

        """
        if self._client is None:
            raise RuntimeError("the source is not open")
        after = ""
        while True:
            try:
                with self._telemetry.storage_operation(
                    "list", method="ListObjectsV2", bucket=self._bucket, key=prefix
                ):
                    async with asyncio.timeout(_REPLY_SECONDS):
                        page = await self._client.list_objects_v2(
                            Bucket=self._bucket, Prefix=prefix, StartAfter=after, MaxKeys=page_size
                        )
            except ClientError as error:
                raise _refused(error) from error
            except (BotoCoreError, *_BROKEN) as error:
                raise StorageUnavailableError(_NOT_REACHED) from error
            objects = page.get("Contents", [])
            for entry in objects:
                after = entry["Key"]
                yield SourceFile(after, entry["Size"])
            if not page.get("IsTruncated") or not objects:
                return


class S3Stream:
    """An object being read."""

    def __init__(
        self,
        client: "S3Client",
        bucket: str,
        key: str,
        settings: Settings,
        telemetry: Telemetry,
        *,
        start: int,
        etag: str | None,
    ) -> None:
        self._client = client
        self._bucket = bucket
        self._key = key
        self._part_size = settings.read_part_size
        self._concurrency = settings.read_concurrency
        self._telemetry = telemetry
        self._etag = etag
        self._size = 0
        self._content_encoding = ""
        self._opened = False
        self._unread: GetObjectOutputTypeDef | None = None
        self._window: deque[_Part] = deque()
        self._next_start = start

    @property
    def size(self) -> int:
        """The object's length in bytes, wherever the reading starts."""
        return self._size

    @property
    def etag(self) -> str | None:
        """What tells this version of the object from others; None for an empty one."""
        return self._etag

    @property
    def content_encoding(self) -> str:
        """How the object's bytes are encoded, as its metadata says (RFC 9110, section 8.4); empty: not at all.

        They are read as they are stored: the client's HTTP library is told not to decode them.
        """
        return self._content_encoding

    async def start(self) -> None:
        """Ask for the first part, whose reply tells the size and the ETag of the object."""
        start = self._next_start
        with self._operation("open") as told:
            self._unread = response = await self._get(start, start + self._part_size)
            if response is not None:
                if not response.get("ETag"):
                    raise StorageUnavailableError(
                        "The object store does not tell one version of an object from another."
                    )
                self._etag = response["ETag"]
                self._size = _extent(response)[1]
                self._content_encoding = response.get("ContentEncoding", "")
            elif start > 0 or self._etag is not None:
                self._size = await self._length()
                if start > self._size:
                    raise SourceChangedError("The object is shorter than what was read of it before.")
            self._opened = True
            told.tell(size=self._size)
        if response is not None:
            self._fetch()

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the object's bytes, in pieces as they came off the socket.

        Raises:
            SourceChangedError: the object was replaced or removed meanwhile.
            StorageUnavailableError: a part could not be had, however often it was asked for.

        """
        while self._window or self._next_start < self._size:
            while len(self._window) < self._concurrency and self._next_start < self._size:
                self._fetch()
            part = self._window[0]
            while (chunk := await part.queue.get()) is not None:
                yield chunk
            await part.task
            self._window.popleft()

    async def close(self) -> None:
        """Give up the parts under way."""
        for part in self._window:
            part.task.cancel()
        await asyncio.gather(*(part.task for part in self._window), return_exceptions=True)
        self._window.clear()
        if self._unread is not None:
            self._unread["Body"].close()

    def _fetch(self) -> None:
        start = self._next_start
        stop = min(start + self._part_size, self._size)
        self._next_start = stop
        # Not bounded by items: the part's size bounds its bytes.
        queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._window.append(_Part(queue, asyncio.create_task(self._read(start, stop, queue))))

    async def _read(self, start: int, stop: int, queue: asyncio.Queue[bytes | None]) -> None:
        position = start
        tries = 0
        requests = 0
        pace = Pace(start)
        try:
            with self._operation("get", offset=start, length=stop - start) as told:
                while position < stop:
                    before = position
                    try:
                        async with pace:
                            # The first part's reply is there already.
                            requests += self._unread is None
                            response, self._unread = self._unread or await self._get(position, stop), None
                            if response is None:
                                raise SourceChangedError("The object became shorter while it was being read.")
                            async with response["Body"] as body:
                                while chunk := await body.read(min(_CHUNK_BYTES, stop - position + 1)):
                                    if position + len(chunk) > stop:
                                        raise StorageUnavailableError(_NOT_THE_RANGE)
                                    position += len(chunk)
                                    queue.put_nowait(chunk)
                                    pace.reached(position)
                    except _BROKEN as error:
                        failure: Exception | None = error
                    else:
                        failure = None
                    told.tell(bytes=position - start, requests=requests)
                    tries = 0 if position > before else tries + 1
                    if max(tries, pace.missed) >= _FRUITLESS_TRIES:
                        raise StorageUnavailableError("The object store does not deliver.") from failure
                    if position < stop:
                        if failure is not None or tries:
                            self._telemetry.storage_retried()
                        await asyncio.sleep(_FIRST_PAUSE * 2**tries)
        finally:
            queue.put_nowait(None)

    def _operation(self, name: str, **attributes: int) -> AbstractContextManager[Told]:
        return self._telemetry.storage_operation(
            name, method="GetObject", bucket=self._bucket, key=self._key, **attributes
        )

    async def _get(self, start: int, stop: int) -> "GetObjectOutputTypeDef | None":
        """Ask for the bytes from ``start`` to before ``stop``; None if the object has none there."""
        request: GetObjectRequestTypeDef = {
            "Bucket": self._bucket,
            "Key": self._key,
            "Range": f"bytes={start}-{stop - 1}",
        }
        if self._etag is not None:
            request["IfMatch"] = self._etag
        try:
            async with asyncio.timeout(_REPLY_SECONDS):
                response = await self._client.get_object(**request)
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] == 416:
                return None
            raise self._refused(error) from error
        except (BotoCoreError, *_BROKEN) as error:
            if isinstance(error, _BROKEN) and self._opened:
                raise  # a part is tried again
            raise StorageUnavailableError(_NOT_REACHED) from error
        try:
            self._check(response, start, stop)
        except CodesvcError:
            response["Body"].close()
            raise
        return response

    async def _length(self) -> int:
        """Ask for the length of an object of which no byte is left to be read."""
        request: HeadObjectRequestTypeDef = {"Bucket": self._bucket, "Key": self._key}
        if self._etag is not None:
            request["IfMatch"] = self._etag
        try:
            async with asyncio.timeout(_REPLY_SECONDS):
                head = await self._client.head_object(**request)
        except ClientError as error:
            raise self._refused(error) from error
        except (BotoCoreError, *_BROKEN) as error:
            raise StorageUnavailableError(_NOT_REACHED) from error
        return head["ContentLength"]

    def _check(self, response: "GetObjectOutputTypeDef", start: int, stop: int) -> None:
        if self._etag is not None and response.get("ETag") != self._etag:
            raise SourceChangedError("The object was replaced while it was being read.")
        part, size = _extent(response)
        # A store may send less than it was asked for (RFC 9110, section 15.3.7), but nothing else.
        if part.start != start or part.stop > stop or (self._opened and size != self._size):
            raise StorageUnavailableError(_NOT_THE_RANGE)

    def _refused(self, error: ClientError) -> CodesvcError:
        code = error.response.get("Error", {}).get("Code", "")
        status = error.response["ResponseMetadata"]["HTTPStatusCode"]
        missing = code == "NoSuchKey" or (status == 404 and code != "NoSuchBucket")
        if status == 412 or (missing and self._etag is not None):
            return SourceChangedError("The object was replaced while it was being read.")
        if missing:
            return SourceNotFoundError("The bucket has no such object.")
        return _refused(error)


class _Requests:
    """Times each request of a client, those included that the client sends again by itself."""

    def __init__(self, telemetry: Telemetry) -> None:
        self._telemetry = telemetry
        # A request is sent and answered in one task, and no other between.
        self._sent: ContextVar[float] = ContextVar("sent")

    def sent(self, **_: object) -> None:
        """Note when a request is sent (event ``before-send``)."""
        self._sent.set(perf_counter())

    def answered(
        self,
        *,
        event_name: str,
        context: Mapping[str, Any],
        response_dict: Mapping[str, Any] | None,
        parsed_response: Mapping[str, Any] | None,
        **_: object,
    ) -> None:
        """Tell of a request that was answered or broke off (event ``response-received``)."""
        if context["retries"]["attempt"] > 1:
            self._telemetry.storage_retried()
        status = 0 if response_dict is None else response_dict["status_code"]
        # Answers to what was asked, though not what was hoped for: no such object, another one, or none so long.
        ok = (
            200 <= status < 400 or status in {412, 416} or (status == 404 and not _no_bucket(parsed_response))
        )
        seconds = perf_counter() - self._sent.get(perf_counter())
        self._telemetry.storage_request(event_name.rpartition(".")[2], seconds, ok=ok)


def _no_bucket(response: Mapping[str, Any] | None) -> bool:
    return response is not None and response.get("Error", {}).get("Code") == "NoSuchBucket"


class _Part:
    __slots__ = ("queue", "task")

    def __init__(self, queue: asyncio.Queue[bytes | None], task: asyncio.Task[None]) -> None:
        self.queue = queue
        self.task = task


def _refused(error: ClientError) -> StorageUnavailableError:
    code = error.response.get("Error", {}).get("Code", "")
    status = error.response["ResponseMetadata"]["HTTPStatusCode"]
    return StorageUnavailableError(f"The object store refused the request ({code or status}).")


def _extent(response: "GetObjectOutputTypeDef") -> tuple[range, int]:
    """Tell which bytes of the object a reply holds, and how many the object has.

    The first is told by ``Content-Range: bytes 0-99/1234`` (RFC 9110, section 14.4); without it, the reply holds all.
    """
    told = response.get("ContentRange")
    if told is None:
        size = int(response.get("ContentLength", -1))
        if size < 0:
            raise StorageUnavailableError(_NOT_THE_RANGE)
        return range(size), size
    match = _CONTENT_RANGE.fullmatch(told)
    if match is None:
        raise StorageUnavailableError(_NOT_THE_RANGE)
    first, last, size = map(int, match.groups())
    return range(first, last + 1), size

"""Uploads from S3 and its likes: one object, read in ranges, several at once, handed on in order.

    part 0  GET bytes 0-8388607          its reply names the object's ETag and size
    part 1  GET bytes 8388608-16777215   If-Match: that ETag       ┐ a window of N parts, each of which
    part 2  ...                                                    ┘ keeps what has come until its turn

A part that breaks off is asked for again from the byte where it broke. Since every request but the first is bound to
the ETag, all the bytes are of one version of the object.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Final, Protocol, Self

import aiohttp
from aiobotocore.config import AioConfig
from aiobotocore.session import get_session
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError, IncompleteReadError

from codesvc.errors import CodesvcError, SourceChangedError, SourceNotFoundError, StorageUnavailableError
from codesvc.settings import Settings

if TYPE_CHECKING:
    from types_aiobotocore_s3.client import S3Client
    from types_aiobotocore_s3.type_defs import GetObjectOutputTypeDef, GetObjectRequestTypeDef

# Read from the socket's buffer at most; what it holds is taken as it is.
_CHUNK_BYTES: Final = 256 * 1024
_CONNECT_SECONDS: Final = 5
_READ_SECONDS: Final = 15
# Times in a row that a part may break off without a byte having come.
_FRUITLESS_TRIES: Final = 4
_FIRST_PAUSE: Final = 0.1

_BROKEN: Final = (aiohttp.ClientError, HTTPClientError, IncompleteReadError, TimeoutError, OSError)


class Telemetry(Protocol):
    """What the source tells of each request."""

    def storage_operation(self, name: str, /, **attributes: str | int) -> AbstractContextManager[None]:
        """Time a block as the operation ``name``."""


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
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._stack.aclose()

    @asynccontextmanager
    async def open(self, name: str) -> AsyncIterator["S3Stream"]:
        """Open the object whose key is ``name``.

        Raises:
            SourceNotFoundError: the bucket has no such object.
            StorageUnavailableError: the store refuses, or cannot be reached.

        """
        if self._client is None:
            raise RuntimeError("the source is not open")
        stream = S3Stream(self._client, self._bucket, name, self._settings, self._telemetry)
        try:
            await stream.start()
            yield stream
        finally:
            await stream.close()


class S3Stream:
    """An object being read."""

    def __init__(
        self, client: "S3Client", bucket: str, key: str, settings: Settings, telemetry: Telemetry
    ) -> None:
        self._client = client
        self._bucket = bucket
        self._key = key
        self._part_size = settings.read_part_size
        self._concurrency = settings.read_concurrency
        self._telemetry = telemetry
        self._etag: str | None = None
        self._size = 0
        self._window: deque[_Part] = deque()
        self._next_start = 0

    @property
    def size(self) -> int:
        """The object's length in bytes."""
        return self._size

    async def start(self) -> None:
        """Ask for the first part, whose reply tells the size and the ETag of the object."""
        response = await self._get(0, self._part_size)
        if response is None:
            return
        self._etag = response["ETag"]
        self._size = _total(response)
        if "ContentRange" not in response and self._size > self._part_size:
            response["Body"].close()
            raise StorageUnavailableError("The object store does not honour ranges.")
        self._fetch(first=response)

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

    def _fetch(self, first: "GetObjectOutputTypeDef | None" = None) -> None:
        start = self._next_start
        stop = min(start + self._part_size, self._size)
        self._next_start = stop
        # Not bounded by items: the part's size bounds its bytes.
        queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._window.append(_Part(queue, asyncio.create_task(self._read(start, stop, queue, first))))

    async def _read(
        self,
        start: int,
        stop: int,
        queue: asyncio.Queue[bytes | None],
        response: "GetObjectOutputTypeDef | None",
    ) -> None:
        position = start
        tries = 0
        try:
            with self._telemetry.storage_operation("get", offset=start, bytes=stop - start):
                while position < stop:
                    before = position
                    try:
                        response = response or await self._get(position, stop)
                        if response is None:
                            raise SourceChangedError("The object became shorter while it was being read.")
                        async with response["Body"] as body:
                            response = None
                            while chunk := await body.read(_CHUNK_BYTES):
                                position += len(chunk)
                                queue.put_nowait(chunk)
                    except _BROKEN as error:
                        failure: Exception | None = error
                    else:
                        failure = None
                    response = None
                    tries = 0 if position > before else tries + 1
                    if tries >= _FRUITLESS_TRIES:
                        raise StorageUnavailableError("The object store does not deliver.") from failure
                    if position < stop:
                        await asyncio.sleep(_FIRST_PAUSE * 2**tries)
        finally:
            queue.put_nowait(None)

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
            response = await self._client.get_object(**request)
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] == 416:
                return None
            raise self._refused(error) from error
        except BotoCoreError as error:
            if isinstance(error, HTTPClientError) and self._etag is not None:
                raise  # a part is tried again
            raise StorageUnavailableError("The object store cannot be reached.") from error
        except _BROKEN as error:
            if self._etag is not None:
                raise
            raise StorageUnavailableError("The object store cannot be reached.") from error
        if self._etag is not None and response["ETag"] != self._etag:
            response["Body"].close()
            raise SourceChangedError("The object was replaced while it was being read.")
        return response

    def _refused(self, error: ClientError) -> CodesvcError:
        code = error.response.get("Error", {}).get("Code", "")
        status = error.response["ResponseMetadata"]["HTTPStatusCode"]
        missing = code == "NoSuchKey" or (status == 404 and code != "NoSuchBucket")
        if status == 412 or (missing and self._etag is not None):
            return SourceChangedError("The object was replaced while it was being read.")
        if missing:
            return SourceNotFoundError("The bucket has no such object.")
        return StorageUnavailableError(f"The object store refused the request ({code or status}).")


class _Part:
    __slots__ = ("queue", "task")

    def __init__(self, queue: asyncio.Queue[bytes | None], task: asyncio.Task[None]) -> None:
        self.queue = queue
        self.task = task


def _total(response: "GetObjectOutputTypeDef") -> int:
    """Take the object's length from ``Content-Range: bytes 0-99/1234`` (RFC 9110, section 14.4)."""
    whole = str(response.get("ContentRange", "")).rpartition("/")[2]
    return int(whole) if whole.isdecimal() else int(response["ContentLength"])

"""The client: a method for each request of the API."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from ssl import SSLContext
from types import TracebackType
from typing import Final, Self

import aiohttp
import orjson
from yarl import URL

from codesvc.client.calls import make_call as _call
from codesvc.client.calls import path_of as _path
from codesvc.client.errors import (
    CodesvcClientError,
    UploadCancelledError,
    UploadFailedError,
)
from codesvc.client.listing import ListingCalls
from codesvc.client.replies import (
    Change,
    Upload,
    read_change,
    read_code,
    read_counts,
    read_reservation,
    read_upload,
    read_uploads,
)
from codesvc.client.retries import Kind, RetryPolicy
from codesvc.client.transport import TokenProvider, Transport, only_once, understood, watched_socket
from codesvc.client.uploads import follow
from codesvc.models import Code, CodeType, Counts, Reservation, Status, UploadState

_CODES_PER_REQUEST: Final = 100_000
_LARGEST_BODY: Final = 24 << 20
"""Bytes; the service takes 32 MiB."""
_LARGEST_PAGE: Final = 100
_KEEP_ALIVE_SECONDS: Final = 15.0
"""Less than any server or load balancer keeps an idle connection: a request must not meet its end."""


class Client(ListingCalls):
    """A connection to one codesvc; use it as an asynchronous context manager, and for as many calls as there are.

    Args:
        base_url: ``http://127.0.0.1:8080``, or an https address; a path is put before ``/v1``.
        token: a JWT, or a function that returns one, asynchronous or not. It is asked before every try, so it should
            keep what it has; after a 401 it is asked once more, and the call tried again at once if the token is new.
        timeout: seconds for one try. The service answers within 30.
        retries: see the table of ``codesvc.client``.
        session: one of your own, which stays open; its connections, headers and proxies are used.
        ssl: a context with your authorities; False verifies nothing.
        codes_per_request: the service's limit for assign and release (``CODESVC_MAX_CODES_PER_REQUEST``).
        idempotency: whether the service remembers Idempotency-Key. None finds out: it does if a reply carries the key.

    Raises:
        ValueError: the address is none, or has a user, a query or a fragment.

    """

    def __init__(
        self,
        base_url: str,
        *,
        token: str | TokenProvider | None = None,
        timeout: float = 35.0,
        retries: RetryPolicy | None = None,
        session: aiohttp.ClientSession | None = None,
        ssl: SSLContext | bool = True,
        codes_per_request: int = _CODES_PER_REQUEST,
        idempotency: bool | None = None,
    ) -> None:
        if codes_per_request < 1 or timeout <= 0:
            raise ValueError("codes_per_request and timeout are above 0")
        self._codes_per_request = codes_per_request
        self._given = session
        self._own: aiohttp.ClientSession | None = None
        self._transport: Transport | None = None
        self._connect = partial(
            Transport,
            _checked_address(base_url),
            token=token,
            timeout=timeout,
            policy=retries or RetryPolicy(),
            ssl=ssl,
            idempotency=idempotency,
        )

    async def __aenter__(self) -> Self:
        if self._given is None:
            self._own = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    keepalive_timeout=_KEEP_ALIVE_SECONDS, socket_factory=watched_socket
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                middlewares=(only_once,),
            )
        session = self._given or self._own
        assert session is not None  # noqa: S101 - one of the two
        self._transport = self._connect(session)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections, unless the session is the caller's."""
        self._transport = None
        if self._own is not None:
            own, self._own = self._own, None
            await own.close()

    async def upload(
        self,
        file_key: str,
        *,
        header: bool = False,
        strict: bool = False,
        dry_run: bool = False,
        progress: Callable[[Upload], None] | None = None,
        wait: bool = True,
        correlation_id: str | None = None,
    ) -> Upload:
        """Load the file ``codes/{campaign}/{type}/{name}`` of the service's bucket, and follow that to its end.

        ``progress`` is called with the upload as it began, and about once a second from then on. What is cancelled
        here goes on in the service: ``cancel_upload`` ends it there. Without ``wait``, the upload is returned as soon
        as it has begun; ``follow`` then waits for it. A service that has no uploads to follow answers when it is done.
        With ``dry_run``, nothing is stored, and ``counts`` say what would be.

        Raises:
            UploadFailedError: it failed; ``upload.problem`` says why.
            UploadCancelledError: somebody cancelled it.
            CodesvcClientError: it could not be begun or followed. The upload may be under way.

        """
        campaign_id = _campaign_of(file_key)
        body = {"fileKey": file_key, "header": header, "strict": strict}
        if dry_run:
            body["dryRun"] = True
        # NOTE: patient, since a service that knows no respond-async replies at the end.
        call = _call(
            "POST",
            campaign_id,
            "codes",
            kind=Kind.REPEATABLE,
            body=body,
            headers={"Prefer": "respond-async"},
            patient=True,
            correlation_id=correlation_id,
        )
        reply = await self._connected.send(call)
        upload = understood(partial(read_upload, exact=reply.exact), reply.body)
        if progress is not None:
            progress(upload)
        if upload.upload_id is None or not wait:
            return upload
        return await self.follow(campaign_id, upload.upload_id, progress=progress, exact=reply.exact)

    async def follow(
        self,
        campaign_id: str,
        upload_id: str,
        *,
        progress: Callable[[Upload], None] | None = None,
        exact: bool = True,
    ) -> Upload:
        """Wait for the end of an upload; the errors are those of ``upload``."""
        last: Upload | None = None
        async for last in follow(self._connected, _path(campaign_id, "uploads", upload_id), exact=exact):
            if progress is not None:
                progress(last)
        assert last is not None  # noqa: S101 - it yields until the upload has ended
        if last.state is UploadState.FAILED:
            raise UploadFailedError(last)
        if last.state is UploadState.CANCELLED:
            raise UploadCancelledError(last)
        return last

    async def uploads(
        self, campaign_id: str, *, limit: int = 20, correlation_id: str | None = None
    ) -> tuple[Upload, ...]:
        """Return the uploads of a campaign, the latest first, ``limit`` of them at the most."""
        found: list[Upload] = []
        after: str | None = None
        while len(found) < limit:
            query = {"limit": str(min(limit - len(found), _LARGEST_PAGE))}
            if after is not None:
                query["after"] = after
            call = _call(
                "GET", campaign_id, "uploads", kind=Kind.READ, query=query, correlation_id=correlation_id
            )
            page, after = understood(read_uploads, (await self._connected.send(call)).body)
            found += page
            if after is None or not page:
                break
        return tuple(found)

    async def get_upload(
        self, campaign_id: str, upload_id: str, *, correlation_id: str | None = None
    ) -> Upload:
        """Return an upload as it stands; NotFoundError if there is none."""
        call = _call("GET", campaign_id, "uploads", upload_id, kind=Kind.READ, correlation_id=correlation_id)
        return understood(read_upload, (await self._connected.send(call)).body)

    async def cancel_upload(
        self, campaign_id: str, upload_id: str, *, correlation_id: str | None = None
    ) -> Upload:
        """Have the service end an upload that is queued or under way; what it has stored stays.

        It is returned as it stands: perhaps still under way, as it ends after the batches in flight. One that has ended
        is left alone. To the API, a DELETE of that may be asking for its codes to be taken back; so it is looked at
        first, and the DELETE is not sent again where it may have been carried out.
        """
        upload = await self.get_upload(campaign_id, upload_id, correlation_id=correlation_id)
        if upload.state.ended:
            return upload
        call = _call(
            "DELETE",
            campaign_id,
            "uploads",
            upload_id,
            kind=Kind.ONCE,
            # It may end meanwhile.
            query={"takeBack": "false"},
            correlation_id=correlation_id,
        )
        return understood(read_upload, (await self._connected.send(call)).body)

    async def count(
        self, campaign_id: str, code_type: CodeType | str, *, correlation_id: str | None = None
    ) -> Counts:
        """Count the codes of a type by status."""
        call = _call(
            "GET",
            campaign_id,
            "codes",
            "count",
            kind=Kind.READ,
            query={"type": str(code_type)},
            correlation_id=correlation_id,
        )
        return understood(read_counts, (await self._connected.send(call)).body)

    async def count_status(
        self,
        campaign_id: str,
        code_type: CodeType | str,
        status: Status | str,
        *,
        correlation_id: str | None = None,
    ) -> int:
        """Count the codes of a type in one status, which may be quicker than all three."""
        call = _call(
            "GET",
            campaign_id,
            "codes",
            "count",
            kind=Kind.READ,
            query={"type": str(code_type), "status": str(status)},
            correlation_id=correlation_id,
        )
        return understood(lambda body: int(body[str(status)]), (await self._connected.send(call)).body)

    async def get_code(self, campaign_id: str, code: str, *, correlation_id: str | None = None) -> Code:
        """Look one code up; NotFoundError if the campaign has none such.

        The code is in the address of this request, so that a proxy in between may log it.
        """
        call = _call("GET", campaign_id, "codes", code, kind=Kind.READ, correlation_id=correlation_id)
        return understood(read_code, (await self._connected.send(call)).body)

    async def reserve(
        self,
        campaign_id: str,
        code_type: CodeType | str,
        count: int,
        *,
        ttl: int | None = None,
        minimum: int | None = None,
        repeat: bool = False,
        correlation_id: str | None = None,
    ) -> Reservation:
        """Hold ``count`` codes, or all that are left; possibly none.

        The hold lasts ``ttl`` seconds, or as long as the service is set to (24 h), which is the longest. With fewer
        codes than ``minimum``, none is held, and it is a NotEnoughCodesError. A service of an earlier version passes
        over both, and then ``expires`` of the reservation is None.

        More than the service's limit (10,000) is a BadRequestError: one reservation has one id, so it is not made of
        several requests. Where a try may have held codes without anybody having been told, no other is made and
        ``may_have_taken_effect`` is set: those codes are available again when their hold ends. With ``repeat`` it is
        tried again all the same, for those who would rather have their codes now and leave some idle for a day.
        """
        call = _call(
            "POST",
            campaign_id,
            "reserve",
            kind=Kind.REPEATABLE if repeat else Kind.ONCE,
            # NOTE: in the body, not in the query, so that POST it is: aiohttp repeats a GET by itself.
            body={
                "type": str(code_type),
                "count": count,
                **({} if ttl is None else {"ttl": ttl}),
                **({} if minimum is None else {"min": minimum}),
            },
            correlation_id=correlation_id,
        )
        return understood(read_reservation, (await self._connected.send(call)).body)

    async def get_reservation(
        self, campaign_id: str, reserve_id: str, *, correlation_id: str | None = None
    ) -> Reservation:
        """Return what a reservation still holds, by code; NotFoundError if that is nothing."""
        call = _call(
            "GET",
            campaign_id,
            "reservations",
            reserve_id,
            kind=Kind.READ,
            correlation_id=correlation_id,
        )
        return understood(read_reservation, (await self._connected.send(call)).body)

    async def assign(
        self,
        campaign_id: str,
        codes: Iterable[str],
        *,
        progress: Callable[[Change], None] | None = None,
        correlation_id: str | None = None,
    ) -> Change:
        """Give codes away for good: available ones and reserved ones.

        Any number of them: beyond the service's limit they go in several requests, one after the other, which comes to
        the same, since each code is changed for itself and is counted once. ``progress`` is told the sum after each.
        If one fails, those before it stay done, as ``done`` of the error says; to send all of them again is safe.
        """
        return await self._change("assign", campaign_id, codes, progress, correlation_id)

    async def release(
        self,
        campaign_id: str,
        codes: Iterable[str],
        *,
        progress: Callable[[Change], None] | None = None,
        correlation_id: str | None = None,
    ) -> Change:
        """Make reserved codes available again; passes over all others. Of many codes, see ``assign``."""
        return await self._change("release", campaign_id, codes, progress, correlation_id)

    async def assign_reservation(
        self, campaign_id: str, reserve_id: str, *, correlation_id: str | None = None
    ) -> Change:
        """Give all codes away that a reservation still holds, and none that has gone to another since.

        ``total`` of the result is how many those were: 0 where it has ended, or nothing is left to do.
        """
        return await self._change_held("assign", campaign_id, reserve_id, correlation_id)

    async def release_reservation(
        self, campaign_id: str, reserve_id: str, *, correlation_id: str | None = None
    ) -> Change:
        """Make all codes available again that a reservation still holds. Of the result, see ``assign_reservation``."""
        return await self._change_held("release", campaign_id, reserve_id, correlation_id)

    async def _change_held(
        self, action: str, campaign_id: str, reserve_id: str, correlation_id: str | None
    ) -> Change:
        call = _call(
            "POST",
            campaign_id,
            action,
            kind=Kind.REPEATABLE,
            body={"reserveId": reserve_id},
            correlation_id=correlation_id,
        )
        reply = await self._connected.send(call)
        return understood(partial(read_change, exact=reply.exact), reply.body)

    async def _change(
        self,
        action: str,
        campaign_id: str,
        codes: Iterable[str],
        progress: Callable[[Change], None] | None,
        correlation_id: str | None,
    ) -> Change:
        if isinstance(codes, str):
            raise TypeError("codes is one str, not several")
        done = Change(0, 0)
        for body in _bodies(codes, self._codes_per_request):
            call = _call(
                "POST", campaign_id, action, kind=Kind.REPEATABLE, body=body, correlation_id=correlation_id
            )
            try:
                reply = await self._connected.send(call)
            except CodesvcClientError as error:
                error.done = done
                raise
            done += understood(partial(read_change, exact=reply.exact), reply.body)
            if progress is not None:
                progress(done)
        return done

    @property
    def _connected(self) -> Transport:
        if self._transport is None:
            raise RuntimeError("the client is not open: async with Client(…) as client")
        return self._transport


def _campaign_of(file_key: str) -> str:
    # A key that is none is the service's to refuse; it must get there.
    parts = file_key.split("/")
    return parts[1] if len(parts) > 2 and parts[1] else "-"


def _bodies(codes: Iterable[str], most: int) -> Iterator[orjson.Fragment]:
    """Make the bodies of the requests: at least one, so that an empty list is the service's to refuse."""
    rest = iter(codes)
    part = list(itertools.islice(rest, most))
    while True:
        yield from _small_enough(part)
        part = list(itertools.islice(rest, most))
        if not part:
            return


def _small_enough(codes: list[str]) -> Iterator[orjson.Fragment]:
    body = orjson.dumps({"codes": codes})
    if len(body) <= _LARGEST_BODY or len(codes) == 1:
        yield orjson.Fragment(body)
        return
    half = len(codes) // 2
    yield from _small_enough(codes[:half])
    yield from _small_enough(codes[half:])


def _checked_address(base_url: str) -> URL:
    wrong = ValueError("is not http://HOST[:PORT] or https://HOST[:PORT]")
    try:
        url = URL(base_url)
    except ValueError:
        raise wrong from None
    if url.scheme not in {"http", "https"} or not url.raw_host or url.user is not None:
        raise wrong
    if url.password is not None or url.query_string or url.fragment:
        raise wrong
    return url

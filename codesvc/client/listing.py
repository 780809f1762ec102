"""The calls that tell of a campaign's codes, and that take those of an upload back."""

import asyncio
import uuid
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable
from typing import Final

import orjson

from codesvc.client.calls import make_call, path_of
from codesvc.client.errors import UploadUnderWayError
from codesvc.client.exports import ExportForm, export
from codesvc.client.replies import Upload, read_code, read_codes, read_upload
from codesvc.client.retries import Kind
from codesvc.client.transport import Transport, understood
from codesvc.models import Code, CodePage, CodeType, Status

_TAKE_BACK_SECONDS: Final = 0.5


class ListingCalls(ABC):
    """A part of Client."""

    @property
    @abstractmethod
    def _connected(self) -> Transport: ...

    async def codes(
        self,
        campaign_id: str,
        *,
        code_type: CodeType | str | None = None,
        status: Status | str | None = None,
        after: str | None = None,
        limit: int = 100,
        correlation_id: str | None = None,
    ) -> CodePage:
        """Return a page of a campaign's codes, by code; ``next`` of it is the ``after`` of the next one.

        A page may be short, or empty, while there are more: ``next`` is None after the last. ``after`` is in the
        address of this request, so that a proxy in between may log it.
        """
        query = _filter(code_type, status, after) | {"limit": str(limit)}
        call = make_call(
            "GET", campaign_id, "codes", kind=Kind.READ, query=query, correlation_id=correlation_id
        )
        return understood(read_codes, (await self._connected.send(call)).body)

    async def export(
        self,
        campaign_id: str,
        *,
        code_type: CodeType | str | None = None,
        status: Status | str | None = None,
        after: str | None = None,
        correlation_id: str | None = None,
    ) -> AsyncIterator[Code]:
        """Yield all codes of a campaign, by code, as they come; a connection that breaks is made again.

        A code that is there all the while, and keeps its type and status, comes once.
        """
        lines = self.export_lines(
            campaign_id,
            "ndjson",
            code_type=code_type,
            status=status,
            after=after,
            correlation_id=correlation_id,
        )
        async for some in lines:
            for line in some.splitlines():
                yield understood(read_code, orjson.loads(line))

    def export_lines(
        self,
        campaign_id: str,
        form: ExportForm = "csv",
        *,
        code_type: CodeType | str | None = None,
        status: Status | str | None = None,
        after: str | None = None,
        correlation_id: str | None = None,
    ) -> AsyncIterator[bytes]:
        """Yield all codes of a campaign as whole lines, many at a time, of CSV with a head or of JSON: for a file."""
        return export(
            self._connected,
            path_of(campaign_id, "codes"),
            _filter(code_type, status, after),
            form,
            correlation_id or str(uuid.uuid4()),
        )

    async def take_back(
        self,
        campaign_id: str,
        upload_id: str,
        *,
        progress: Callable[[Upload], None] | None = None,
        correlation_id: str | None = None,
    ) -> Upload:
        """Take back those codes of an upload that are still available; ``taken_back`` tells how many those were in all.

        Codes that were there before the upload, are held or are assigned stay. It returns when all is done, which takes
        minutes where millions are to go; ``progress`` is called meanwhile. To call it again is safe.

        Raises:
            UploadUnderWayError: it has not ended; ``cancel_upload`` ends it.

        """
        look = make_call(
            "GET", campaign_id, "uploads", upload_id, kind=Kind.READ, correlation_id=correlation_id
        )
        upload = understood(read_upload, (await self._connected.send(look)).body)
        if not upload.state.ended:
            raise UploadUnderWayError(upload)
        call = make_call(
            "DELETE",
            campaign_id,
            "uploads",
            upload_id,
            kind=Kind.REPEATABLE,
            query={"takeBack": "true"},
            correlation_id=correlation_id,
        )
        while True:
            # The service waits for a while itself; whoever asks again keeps it at it.
            upload = understood(read_upload, (await self._connected.send(call)).body)
            if progress is not None:
                progress(upload)
            if upload.taken_back is None or upload.taken_back.done:
                return upload
            await asyncio.sleep(_TAKE_BACK_SECONDS)


def _filter(
    code_type: CodeType | str | None, status: Status | str | None, after: str | None
) -> dict[str, str]:
    every = {"type": code_type, "status": status, "after": after}
    return {name: str(value) for name, value in every.items() if value is not None}

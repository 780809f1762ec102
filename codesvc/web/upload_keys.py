"""An upload with an Idempotency-Key: the key names the upload, and what has become of that is told again."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from aiohttp import web

from codesvc.errors import (
    CodesvcError,
    KeyInUseError,
    NotFoundError,
    UploadCancelledError,
    UploadRejectedError,
)
from codesvc.models import Upload, UploadReport, UploadState
from codesvc.observability.logs import correlation_id
from codesvc.web.problems import RequestError, problem_response, rejection_response

Find = Callable[[str], Awaitable[Upload]]


@dataclass(frozen=True, slots=True)
class UploadWork:
    """What an upload's operation is made of.

    Arguments:
        load: does it, under an id.
        find: reads what is known of an upload by its id; raises NotFoundError.
        told: makes the reply of an upload that was accepted and that nobody waits for.
        done: makes the reply of one that was waited for.
        waits: whether the caller waits for the end of it.

    """

    load: Callable[[str | None], Awaitable[web.Response]]
    find: Find
    told: Callable[[Upload], web.Response]
    done: Callable[[UploadReport], web.Response]
    waits: bool

    async def perform(self, upload_id: str | None) -> web.Response:
        """Load the file. That it ended at a row is a reply like another: the file will be the same next time."""
        try:
            return await self.load(upload_id)
        except UploadRejectedError as error:
            return problem_response(error, correlation_id=correlation_id.get() or "")

    async def recover(self, upload_ids: Sequence[str]) -> web.Response | CodesvcError | None:
        """Tell what has become of an upload that was begun and not told of.

        Raises:
            KeyInUseError: it is under way, perhaps in another process by now.

        """
        for upload_id in reversed(upload_ids):
            try:
                upload = await self.find(upload_id)
            except NotFoundError:
                continue  # that try did not come as far as that
            return self._come_to(upload)
        return None

    async def give_up(self, upload_id: str) -> bool:
        """Tell whether an upload goes on without this caller: codes that were stored stay in any case."""
        try:
            return not (await self.find(upload_id)).state.ended
        except NotFoundError:
            return False

    def _come_to(self, upload: Upload) -> web.Response | CodesvcError:
        if not self.waits:
            return self.told(upload)
        if not upload.state.ended:
            raise KeyInUseError("The upload that was begun with this key is still under way.")
        if upload.state is UploadState.CANCELLED:
            return UploadCancelledError("The upload was cancelled.")
        rejected = rejection_response(upload, correlation_id=correlation_id.get() or "")
        if rejected is not None:
            return rejected
        if upload.failure is not None:
            return RequestError(upload.failure.code, upload.failure.detail)
        progress = upload.progress
        return self.done(
            UploadReport(
                progress.counts, progress.invalid_count, progress.invalid_samples, upload_id=upload.id
            )
        )

"""What becomes of an upload that is deleted: it is cancelled while it is under way, and taken back when it has ended.

To take back a large upload takes minutes. It is work of this process's own, for which a caller waits for a while; if
the process goes away in the middle, whoever deletes the upload once more goes on with it, in any process.
"""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Final, Protocol

from codesvc.errors import CodesvcError, DatabaseUnavailableError
from codesvc.ingest.job import Clock
from codesvc.models import Upload, UploadState

logger = logging.getLogger(__name__)

_WAIT_SECONDS: Final = 20.0
# Who cancels an upload may send that twice; the second time must not take its codes back.
_DOUBT: Final = timedelta(seconds=60)
# The last word on an upload is written a moment after it has ended.
_LOOKS: Final = 20
_LOOK_SECONDS: Final = 0.25


class Uploads(Protocol):
    """What is needed of codesvc.ingest.jobs."""

    async def get(self, campaign_id: str, upload_id: str) -> Upload:
        """Tell how far an upload has come."""

    async def cancel(self, campaign_id: str, upload_id: str) -> Upload:
        """Let an upload end."""


class Codes(Protocol):
    """The codes that an upload inserted: see codesvc.datastore.takeback."""

    async def begin(self) -> bool:
        """Go to where it was left off, or to the first; False if the upload is under way."""

    async def step(self, cut_off: datetime) -> bool:
        """Take some back; return whether those were the last."""


class Removals:
    """Cancels uploads and takes them back.

    Args:
        codes: makes what takes back the codes of the upload of a campaign.
        hold: how long a hold lasts.

    """

    def __init__(
        self, uploads: Uploads, codes: Callable[[str, str], Codes], *, hold: timedelta, clock: Clock
    ) -> None:
        self._uploads = uploads
        self._codes = codes
        self._hold = hold
        self._clock = clock
        self._tasks: dict[str, asyncio.Task[bool]] = {}
        self._draining = False

    def drain(self) -> None:
        """Go on with none after the piece that it is at."""
        self._draining = True

    async def close(self) -> None:
        """End what is under way, in the middle of a piece if need be: that one is then not taken back."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def delete(
        self, campaign_id: str, upload_id: str, *, take_back: bool | None = None
    ) -> tuple[Upload, bool]:
        """End an upload that is under way; of one that has ended, take back the codes that are still available.

        Args:
            campaign_id: the campaign of the upload.
            upload_id: the upload.
            take_back: True takes it back in any case, when it has ended; False in none; None takes it back if it had
                ended by itself, or was cancelled more than a minute ago.

        Returns:
            The upload as it is now, and whether all is done; else it goes on, or has to be asked for once more.

        Raises:
            NotFoundError: the campaign has no such upload, or no longer.
            DatabaseUnavailableError: no answer in time; to ask again is safe.

        """
        upload = await self._uploads.get(campaign_id, upload_id)
        if not upload.state.ended:
            upload = await self._uploads.cancel(campaign_id, upload_id)
            if not (take_back and upload.state.ended):
                return upload, upload.state.ended
        elif not self._is_to_be_taken_back(upload, take_back):
            return upload, True
        task = self._tasks.get(upload_id)
        if task is None:
            task = self._tasks[upload_id] = asyncio.create_task(self._take_back(campaign_id, upload_id))
            task.add_done_callback(lambda ended: self._forget(upload_id, ended))
        await asyncio.wait({task}, timeout=_WAIT_SECONDS)
        done = task.done() and task.result()
        return await self._uploads.get(campaign_id, upload_id), done

    def _is_to_be_taken_back(self, upload: Upload, take_back: bool | None) -> bool:
        if upload.order.dry_run:
            return False  # it has inserted nothing
        if take_back is not None or upload.state is not UploadState.CANCELLED:
            return take_back is not False
        return upload.finished is None or self._clock() - upload.finished > _DOUBT

    def _forget(self, upload_id: str, task: asyncio.Task[bool]) -> None:
        del self._tasks[upload_id]
        if not task.cancelled() and (error := task.exception()) is not None:
            reason = str(error) if isinstance(error, CodesvcError) else type(error).__name__
            logger.warning("an upload was not taken back", extra={"uploadId": upload_id, "reason": reason})

    async def _take_back(self, campaign_id: str, upload_id: str) -> bool:
        codes = self._codes(campaign_id, upload_id)
        for _ in range(_LOOKS):
            if await codes.begin():
                break
            await asyncio.sleep(_LOOK_SECONDS)
        else:
            raise DatabaseUnavailableError("The end of the upload is not written down yet.")
        while not self._draining:
            if await codes.step(self._clock() - self._hold):
                with suppress(CodesvcError):
                    upload = await self._uploads.get(campaign_id, upload_id)
                    taken = upload.taken_back
                    fields = {"campaignId": campaign_id, "uploadId": upload_id}
                    logger.info("upload taken back", extra=fields | {"codes": taken.count if taken else 0})
                return True
        return False

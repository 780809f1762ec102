"""One upload that this process runs: what is known of it from moment to moment."""

import asyncio
import os
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Final, Self

from codesvc.errors import (
    DatabaseUnavailableError,
    UploadCancelledError,
    UploadHandedOverError,
    UploadRejectedError,
)
from codesvc.ingest.pipeline import Halt
from codesvc.models import (
    Checkpoint,
    Claim,
    Progress,
    Stamp,
    Upload,
    UploadCounts,
    UploadFailure,
    UploadOrder,
    UploadReport,
    UploadState,
)

Clock = Callable[[], datetime]

CANCELLED: Final = "The upload was cancelled."

_TAKEN_OVER: Final = "Another process has taken the upload over."
_TICKS: Final = 10
"""So many ticks tell how fast an upload is, and how long it has to go."""


class Job:
    """An upload that this process runs.

    Attributes:
        waited: whether a caller waits for its end.
        start: from where in the file this process has it.
        saved, etag, cancelled: what was known of it when it was taken over, see Claim.
        unsure: whether codes may have been inserted that are in no count.
        lost: whether another process has taken it over.
        renewed: when the lease was last renewed, by the monotonic clock: the time before the word was sent.
        words: held while a word is written, so that one comes after the other.
        told: whether anything was written down of it, or may have been.
        kept: whether there is a record.
        accepted: set when there is a record, or when there will be none.
        ended: set when ``report`` or ``error`` is there.

    """

    def __init__(self, upload: Upload, clock: Clock, *, waited: bool, claim: Claim | None = None) -> None:
        self.upload = upload
        self.waited = waited
        self.start = Checkpoint()
        self.saved: datetime | None = None
        self.etag: str | None = None
        self.cancelled = False
        self.unsure = False
        self.lost = False
        self.renewed = time.monotonic()
        self.words = asyncio.Lock()
        self.halt = Halt()
        self.told = False
        self.kept = False
        self.accepted = asyncio.Event()
        self.ended = asyncio.Event()
        self.report: UploadReport | None = None
        self.error: Exception | None = None
        self.task: asyncio.Task[None] | None = None
        self._clock = clock
        self._generation = 0
        self._attempts = 0
        self._revision = 0
        # Before it ended.
        self._last: Upload | None = None
        self._progress = self.upload.progress
        self._ticks: deque[tuple[float, int, int]] = deque(maxlen=_TICKS + 1)
        if claim is not None:
            self._take(claim)

    @classmethod
    def new(cls, upload_id: str, order: UploadOrder, clock: Clock, *, waited: bool) -> Self:
        """Make one that begins."""
        progress = Progress(0, 0, UploadCounts())
        return cls(Upload(upload_id, order, UploadState.QUEUED, clock(), progress), clock, waited=waited)

    @classmethod
    def taken(cls, claim: Claim, clock: Clock) -> Self:
        """Make one that was taken over."""
        return cls(claim.upload, clock, waited=False, claim=claim)

    @property
    def generation(self) -> int:
        """How often the upload has been taken over."""
        return self._generation

    @property
    def attempts(self) -> int:
        """How often it has been taken over since the checkpoint last moved."""
        return self._attempts if self._progress.checkpoint.offset == self.start.offset else 0

    def now(self) -> Upload:
        """Return the upload as it is at this moment."""
        if self.upload.state.ended:
            return self.upload
        return replace(self.upload, progress=self._progress, updated=self._clock())

    def shown(self) -> Upload:
        """Return the upload as callers see it: as ended only when that is written down, or is no longer waited for.

        Whoever asks another process must not hear that it runs again.
        """
        return self.now() if self._last is None or self.ended.is_set() else self._last

    def stamp(self, *, attempts: int | None = None) -> Stamp:
        """Return what the next word carries that is written down; from here on there may be a record."""
        self.told = True
        self._revision += 1
        return Stamp(
            self._generation, self._revision, self.attempts if attempts is None else attempts, self.unsure
        )

    def stop(self, message: str) -> None:
        """Let it end here, because another process is to go on with it, or has begun to."""
        self.halt.call(UploadHandedOverError(message, self.upload.order.campaign_id, self.upload.id))

    def lose(self) -> None:
        """Note that another process has taken it over: whatever came of it here, is not what comes of it."""
        self.lost = True
        self.report = None
        self.error = UploadHandedOverError(_TAKEN_OVER, self.upload.order.campaign_id, self.upload.id)

    def leave(self) -> None:
        """Note that it ends here, and not for good."""
        self.unsure = self.unsure or self._progress.beyond or isinstance(self.error, DatabaseUnavailableError)
        self.upload = replace(
            self.upload,
            progress=replace(self._progress, counts=self._progress.checkpoint.counts),
            codes_per_second=0,
            seconds_left=None,
            updated=self._clock(),
        )
        self._progress = self.upload.progress

    def settle(self, inserted: int) -> None:
        """Note how many codes the upload has inserted in all, now that they have been counted."""
        counts = UploadCounts(inserted, max(0, self._progress.counts.total - inserted))
        self._progress = replace(self._progress, counts=counts)
        if self.report is not None:
            self.report = replace(self.report, counts=counts)
        if isinstance(self.error, UploadRejectedError):
            self.error.counts = counts
        self.unsure = False

    def size(self, size: int) -> None:
        """Note how long the file is."""
        self._progress = replace(self._progress, bytes_total=size)
        self.upload = replace(self.upload, progress=self._progress)

    def begin(self, size: int) -> None:
        """Note that the upload runs from now on."""
        self.size(size)
        now = self._clock()
        started = self.upload.started or now
        self.upload = replace(self.upload, state=UploadState.RUNNING, started=started, updated=now)
        progress = self._progress
        self._ticks.append((time.monotonic(), progress.counts.total, progress.bytes_done))

    def accept(self) -> None:
        """Note that there is a record."""
        self.kept = True
        self.accepted.set()

    def note(self, progress: Progress) -> None:
        """Note how far it has come."""
        self._progress = progress

    def measure(self) -> None:
        """Measure how fast it is, once in a tick."""
        if self.upload.state is not UploadState.RUNNING:
            return
        progress = self._progress
        self._ticks.append((time.monotonic(), progress.counts.total, progress.bytes_done))
        (first, codes, done), (last, codes_now, done_now) = self._ticks[0], self._ticks[-1]
        seconds = max(last - first, 0.001)
        left: int | None = None
        if done_now > done:
            left = round((progress.bytes_total - done_now) * seconds / (done_now - done))
        self.upload = replace(
            self.upload, codes_per_second=round((codes_now - codes) / seconds), seconds_left=left
        )

    def finish(self, describe: Callable[[Exception], UploadFailure]) -> None:
        """Note that it has ended."""
        self._last = self.now()
        now = self._clock()
        state, failure = UploadState.SUCCEEDED, None
        progress = self._progress
        if isinstance(self.error, UploadCancelledError):
            state = UploadState.CANCELLED
        elif self.error is not None:
            state, failure = UploadState.FAILED, describe(self.error)
        if self.report is not None:
            progress = replace(
                progress,
                counts=self.report.counts,
                invalid_count=self.report.invalid_count,
                invalid_samples=self.report.invalid_samples,
            )
        seconds = 0.0
        if self.upload.started is not None:
            seconds = (now - self.upload.started).total_seconds()
        self.upload = replace(
            self.upload,
            state=state,
            failure=failure,
            progress=progress,
            codes_per_second=round(progress.counts.total / max(seconds, 0.001)),
            seconds_left=None,
            updated=now,
            finished=now,
        )

    def _take(self, claim: Claim) -> None:
        self.start = claim.upload.progress.checkpoint
        self.saved = claim.saved
        self.etag = claim.etag
        self.cancelled = claim.cancelled
        self.unsure = claim.unsure
        self._generation = claim.generation
        self._attempts = claim.attempts
        # What was stored behind the checkpoint will be found, and counted, once more.
        invalid = self.start.invalid_count, self.start.invalid_samples, self.start.pieces
        self._progress = Progress(
            claim.upload.progress.bytes_done,
            claim.upload.progress.bytes_total,
            self.start.counts,
            *invalid,
            checkpoint=self.start,
        )
        self.upload = replace(claim.upload, progress=self._progress)
        self.told = True
        self.accept()

    def tell_end(self) -> None:
        """Let everybody go who waits for it."""
        self.ended.set()
        self.accepted.set()


def new_upload_id() -> str:
    """Make a UUID of version 7 (RFC 9562, section 5.7): the time in milliseconds, then random bits."""
    bits = time.time_ns() // 1_000_000 << 80 | int.from_bytes(os.urandom(10))
    digits = f"{bits & ~(0xF << 76) & ~(0x3 << 62) | 7 << 76 | 2 << 62:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"

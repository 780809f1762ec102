"""One upload that this process runs: what is known of it from moment to moment."""

import asyncio
import os
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Final

from codesvc.errors import UploadCancelledError
from codesvc.ingest.pipeline import Halt
from codesvc.models import (
    Progress,
    Upload,
    UploadCounts,
    UploadFailure,
    UploadOrder,
    UploadReport,
    UploadState,
)

Clock = Callable[[], datetime]

_TICKS: Final = 10
"""So many ticks tell how fast an upload is, and how long it has to go."""


class Job:
    """An upload that this process runs.

    Attributes:
        told: whether anything was written down of it, or may have been.
        kept: whether there is a record.
        accepted: set when there is a record, or when there will be none.
        ended: set when ``report`` or ``error`` is there.

    """

    def __init__(self, upload_id: str, order: UploadOrder, clock: Clock) -> None:
        now = clock()
        self.upload = Upload(upload_id, order, UploadState.QUEUED, now, Progress(0, 0, UploadCounts()))
        self.halt = Halt()
        self.told = False
        self.kept = False
        self.accepted = asyncio.Event()
        self.ended = asyncio.Event()
        self.report: UploadReport | None = None
        self.error: Exception | None = None
        self.task: asyncio.Task[None] | None = None
        self._clock = clock
        self._revision = 0
        self._progress = self.upload.progress
        self._ticks: deque[tuple[float, int, int]] = deque(maxlen=_TICKS + 1)

    def now(self) -> Upload:
        """Return the upload as it is at this moment."""
        if self.upload.state.ended:
            return self.upload
        return replace(self.upload, progress=self._progress, updated=self._clock())

    def revise(self) -> int:
        """Return the number of the next word that is written down; from here on there may be a record."""
        self.told = True
        self._revision += 1
        return self._revision

    def size(self, size: int) -> None:
        """Note how long the file is."""
        self._progress = replace(self._progress, bytes_total=size)
        self.upload = replace(self.upload, progress=self._progress)

    def begin(self, size: int) -> None:
        """Note that the upload runs from now on."""
        self.size(size)
        now = self._clock()
        self.upload = replace(self.upload, state=UploadState.RUNNING, started=now, updated=now)
        self._ticks.append((time.monotonic(), 0, 0))

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

    def tell_end(self) -> None:
        """Let everybody go who waits for it."""
        self.ended.set()
        self.accepted.set()


def new_upload_id() -> str:
    """Make a UUID of version 7 (RFC 9562, section 5.7): the time in milliseconds, then random bits."""
    bits = time.time_ns() // 1_000_000 << 80 | int.from_bytes(os.urandom(10))
    digits = f"{bits & ~(0xF << 76) & ~(0x3 << 62) | 7 << 76 | 2 << 62:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"

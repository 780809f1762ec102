"""What runs one upload to its end, and writes down meanwhile how far it has come.

    its turn ──▶ its file, through the pipeline ──▶ what it has inserted, counted if that is not known ──▶ the last word
    └─ a word a second: how far it has come, the lease renewed; the reply tells whether it goes on here ─┘

An upload ends here for good, or is left to another process: by a drain, when MongoDB or S3 is away, or since another
one has taken it over.
"""

import asyncio
import contextvars
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, nullcontext
from datetime import datetime, timedelta
from typing import Final, Protocol

from codesvc.errors import (
    CodesvcError,
    DatabaseUnavailableError,
    DrainingError,
    StorageUnavailableError,
    UploadCancelledError,
    UploadInterruptedError,
)
from codesvc.ingest.flight import KeepInvalid, Permit
from codesvc.ingest.job import CANCELLED, Clock, Job
from codesvc.ingest.pipeline import Begin, Halt, Source
from codesvc.ingest.turns import Turn, Turns
from codesvc.models import Checkpoint, CodeType, Progress, Stamp, Upload, UploadFailure, UploadReport

logger = logging.getLogger(__name__)

TICK_SECONDS: Final = 1.0
"""Between two words on how far an upload has come."""

# How long a caller waits for the last word to be written, which is written in any case.
_LAST_WORD_SECONDS: Final = 2.0
_LAST_WORD_TRIES: Final = 5
# An upload that so many processes have taken over in vain will be the end of the next one as well.
_MOST_ATTEMPTS: Final = 5
# Where MongoDB or S3 is away, the first time; then twice as long, and so on.
_PAUSE_SECONDS: Final = 30

_PERMIT_SECONDS: Final = 0.05

_INTERRUPTED: Final = (
    "One process after the other that ran the upload has gone. To send the upload again is safe."
)
_NOT_RENEWED: Final = "The database did not answer for as long as the lease of the upload lasts."


class Pipeline(Protocol):
    """What runs an upload: see codesvc.ingest.pipeline.Uploads."""

    def drain(self) -> None:
        """Let every upload end after the batches in flight, with DrainingError; start no other."""

    async def run(
        self,
        *,
        campaign_id: str,
        code_type: CodeType,
        file_key: str,
        header: bool,
        strict: bool,
        progress: Callable[[Progress], None],
        begin: Begin,
        halt: Halt,
        keep_invalid: KeepInvalid,
        checkpoint: Checkpoint,
        etag: str | None,
        permit: Permit,
    ) -> UploadReport:
        """Load a file."""


class Words(Protocol):
    """Where an owner writes down what becomes of its uploads; each word is heeded only as long as it is the owner.

    Every method raises DatabaseUnavailableError or DatabaseRefusedError.
    """

    async def queue(self, upload: Upload, stamp: Stamp, /) -> None:
        """Keep an upload that waits for its turn; raises UploadHandedOverError."""

    async def begin(self, upload: Upload, stamp: Stamp, /, *, saved: datetime, etag: str | None) -> datetime:
        """Keep an upload that begins; return the instant at which its codes are saved, not before ``saved``.

        Raises UploadHandedOverError.
        """

    async def save(self, upload: Upload, stamp: Stamp, /) -> bool | None:
        """Write down how far it has come; tell whether it is to be cancelled; None where it is another process's."""

    async def leave(self, upload: Upload, stamp: Stamp, /, *, pause: timedelta) -> None:
        """Write down how far it has come, and leave it to others, who may have it after a pause."""

    async def stored(self, campaign_id: str, saved: datetime) -> int:
        """Count the codes that were inserted by the upload whose codes are saved at that instant."""

    async def keep_invalid(self, upload_id: str, generation: int, number: int, rows: bytes) -> None:
        """Keep some of the invalid rows, as lines of CSV."""


class HandOvers(Protocol):
    """What is told of uploads that end here and go on elsewhere."""

    def upload_handed_over(self, *, reason: str) -> None:
        """Count one that ended here and goes on elsewhere: ``drain``, ``unavailable`` or ``lost``."""


class Runner:
    """Runs uploads, any number at once, each when its turn has come.

    Arguments:
        dry_runs: what runs those that only tell what they would store.
        source: where existence is looked up before an upload has to wait; None where there is none.
        lease: for how many seconds nobody else touches an upload after a word of its owner.
        describe: tells an error in a caller's terms.

    """

    def __init__(
        self,
        *,
        pipeline: Pipeline,
        dry_runs: Pipeline,
        source: Source | None,
        words: Words,
        telemetry: HandOvers,
        turns: Turns,
        lease: float,
        describe: Callable[[Exception], UploadFailure],
        clock: Clock,
    ) -> None:
        self._pipeline = pipeline
        self._dry_runs = dry_runs
        self._source = source
        self._words = words
        self._telemetry = telemetry
        self._turns = turns
        self._lease = lease
        self._describe = describe
        self._clock = clock

    def drain(self) -> None:
        """Let every upload end after the batches in flight; run no other."""
        self._pipeline.drain()
        self._dry_runs.drain()

    async def run(self, job: Job) -> None:
        """Run an upload until it has ended here; what came of it is in ``job`` then, and nothing is raised."""
        tending: asyncio.Task[None] | None = None
        try:
            # In a context of its own: what it does each second is no part of the upload's trace.
            tending = asyncio.create_task(self._tend(job), context=contextvars.Context())
            try:
                job.report = await self._perform(job)
            except Exception as error:  # noqa: BLE001 - whatever it was, whoever waits for the upload hears of it
                job.error = error
            await self._settle(job)
            # What it is in the middle of writing is older than the last word, and cannot come after it.
            tending.cancel()
            await self._conclude(job)
        finally:
            if tending is not None:
                tending.cancel()
            if job.report is None and job.error is None:
                job.error = DrainingError("The process is going away before the upload is done.")
            job.tell_end()

    async def _perform(self, job: Job) -> UploadReport:
        order = job.upload.order
        if job.cancelled:
            raise UploadCancelledError(CANCELLED)
        if job.attempts > _MOST_ATTEMPTS:
            raise UploadInterruptedError(_INTERRUPTED)

        async def begin(size: int, etag: str | None) -> datetime:
            self._turns.measured(turn, size)
            job.begin(size)
            async with job.words:
                asked = time.monotonic()
                saved = job.saved or self._clock()
                job.saved = await self._words.begin(job.upload, job.stamp(), saved=saved, etag=etag)
                job.renewed = asked
            job.accept()
            return job.saved

        async def keep_invalid(number: int, rows: bytes) -> None:
            await self._words.keep_invalid(job.upload.id, job.generation, number, rows)

        async def permit() -> None:
            # Whoever has stood still for the time of a lease hears first whether the upload is still its own.
            while time.monotonic() - job.renewed >= self._lease:
                job.halt.check()
                await asyncio.sleep(_PERMIT_SECONDS)
            if job.lost:
                job.halt.check()

        async with self._turn(job) as turn:
            pipeline = self._dry_runs if order.dry_run else self._pipeline
            return await pipeline.run(
                campaign_id=order.campaign_id,
                code_type=order.code_type,
                file_key=order.file_key,
                header=order.header,
                strict=order.strict,
                progress=job.note,
                begin=begin,
                halt=job.halt,
                keep_invalid=keep_invalid,
                # What a dry run knows of the codes that it has met is gone with its process: it begins anew.
                checkpoint=Checkpoint() if order.dry_run else job.start,
                etag=job.etag,
                permit=permit,
            )

    @asynccontextmanager
    async def _turn(self, job: Job) -> AsyncIterator[Turn]:
        """Wait for the job's turn, as a queued upload if it does not come at once."""
        turn = self._turns.ask(job.upload.order.campaign_id, accepted=job.kept)
        try:
            if not turn.granted.done():
                async with job.halt.block():
                    await self._queue(job)
                    if self._source is not None:
                        self._turns.measured(turn, job.upload.progress.bytes_total)
                    await turn.granted
            yield turn
        finally:
            self._turns.give_back(turn)

    async def _queue(self, job: Job) -> None:
        if self._source is not None and not job.kept:
            # A file that is not there is told at once, not after hours in the queue.
            async with self._source.open(job.upload.order.file_key) as stream:
                job.size(stream.size)
        async with job.words:
            asked = time.monotonic()
            await self._words.queue(job.upload, job.stamp())
            job.renewed = asked
        job.accept()

    async def _tend(self, job: Job) -> None:
        """Keep the record up to date, and with it the lease, and hear whether the upload is to be cancelled."""
        await job.accepted.wait()
        while not job.lost:
            await asyncio.sleep(TICK_SECONDS)
            job.measure()
            try:
                async with job.words:
                    asked = time.monotonic()
                    # One that has stood still for long may find that nobody has missed it.
                    async with asyncio.timeout(max(job.renewed + self._lease - asked, TICK_SECONDS)):
                        cancelled = await self._words.save(job.now(), job.stamp())
            except (CodesvcError, TimeoutError) as error:
                # The next try is a second away, and the lease lasts for many.
                logger.info("progress was not written down", extra={"reason": str(error)})
                if time.monotonic() - job.renewed >= self._lease:
                    job.halt.call(DatabaseUnavailableError(_NOT_RENEWED))
                continue
            job.renewed = asked
            if cancelled is None:
                job.lose()
                job.stop(str(job.error))
            elif cancelled:
                job.halt.call(UploadCancelledError(CANCELLED))

    async def _settle(self, job: Job) -> None:
        """Count what an upload has inserted, where that is not known, and it has ended for good."""
        order = job.upload.order
        if not job.unsure or job.saved is None or order.dry_run or _leaving(job) is not None:
            return
        try:
            # A drain may come meanwhile; one that was halted before, has heard of that.
            async with job.halt.block() if job.error is None else nullcontext():
                inserted = await self._words.stored(order.campaign_id, job.saved)
        except CodesvcError as error:
            job.report, job.error = None, error
        else:
            job.settle(inserted)

    async def _conclude(self, job: Job) -> None:
        """Write down how an upload has ended, or that others are to go on with it, and tell who waits for it."""
        pause = _leaving(job)
        if job.lost:
            job.lose()
        elif pause is None:
            job.finish(self._describe)
            if job.told:
                last = asyncio.create_task(self._last_word(job))
                # Who was not heard of for the time of a lease may have lost the upload, and not know.
                late = time.monotonic() - job.renewed >= self._lease
                await asyncio.wait({last}, timeout=None if late else _LAST_WORD_SECONDS)
                job.tell_end()
                await last
        else:
            job.leave()
            if job.told:
                await self._leave(job, pause)
        if job.lost or pause is not None:
            if job.told:
                reason = "lost" if job.lost else "unavailable" if pause else "drain"
                self._telemetry.upload_handed_over(reason=reason)
                _log_handed_over(job, reason)
        elif job.told:
            _log_end(job)

    async def _leave(self, job: Job, pause: timedelta) -> None:
        """Leave an upload to others; where that cannot be written down, they find it when the lease is over."""
        attempts = job.attempts + 1 if pause else job.attempts
        try:
            async with asyncio.timeout(self._lease):
                await self._words.leave(job.upload, job.stamp(attempts=attempts), pause=pause)
        except (CodesvcError, TimeoutError) as error:
            logger.info(
                "that an upload was left to others was not written down", extra={"reason": str(error)}
            )

    async def _last_word(self, job: Job) -> None:
        """Write down how an upload has ended; what it has stored is stored, whether or not that can be done."""
        for _ in range(_LAST_WORD_TRIES):
            try:
                heard = await self._words.save(job.now(), job.stamp())
            except DatabaseUnavailableError:
                await asyncio.sleep(TICK_SECONDS)
            except CodesvcError as error:
                logger.warning("an upload's end was not written down", extra={"reason": str(error)})
                return
            else:
                # Of one whose first word was refused there may be no record: then nobody has taken it over.
                if heard is None and job.kept:
                    job.lose()
                return
        logger.warning(
            "an upload's end was not written down", extra={"reason": "the database did not answer"}
        )


def _leaving(job: Job) -> timedelta | None:
    """Tell after what pause others may go on with an upload that has ended here; None if it has ended for good."""
    if job.lost or isinstance(job.error, DrainingError):
        return timedelta(0)
    outage = isinstance(job.error, DatabaseUnavailableError | StorageUnavailableError)
    # Who waits for it hears of it, and may try again.
    if outage and job.kept and not job.waited and job.attempts < _MOST_ATTEMPTS:
        return timedelta(seconds=_PAUSE_SECONDS * 2**job.attempts)
    return None


def _log_handed_over(job: Job, reason: str) -> None:
    told = {
        "campaignId": job.upload.order.campaign_id,
        "uploadId": job.upload.id,
        "reason": reason,
        "offset": job.now().progress.checkpoint.offset,
    }
    logger.info("upload handed over", extra=told)


def _log_end(job: Job) -> None:
    upload = job.upload
    counts = upload.progress.counts
    told = {
        "campaignId": upload.order.campaign_id,
        "uploadId": upload.id,
        "state": upload.state.value,
        "inserted": counts.inserted,
        "updated": counts.updated,
        "invalid": upload.progress.invalid_count,
    }
    if job.error is not None and not isinstance(job.error, CodesvcError):
        logger.error("upload ended", extra=told, exc_info=job.error)
    else:
        logger.info("upload ended", extra=told)

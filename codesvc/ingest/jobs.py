"""Uploads as resources: each is accepted, may have to wait for its turn, runs, and can be looked at by anybody.

The process that accepts an upload owns it: it keeps a record of it in the store, from before the first code is written
until after the last, and writes to that about once a second how far it has come. What other processes ask for is in
the record; what this process asks for, it knows itself.

An upload outlives its process. One that goes away leaves its uploads to others; of one that has died, the leases run
out. Every process that serves looks for such uploads, takes them over, and goes on at their checkpoints.
"""

import asyncio
import contextvars
import logging
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager, nullcontext
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final, Protocol

from codesvc.errors import (
    CodesvcError,
    DatabaseUnavailableError,
    DrainingError,
    NotFoundError,
    StorageUnavailableError,
    UploadCancelledError,
    UploadInterruptedError,
)
from codesvc.ingest.flight import KeepInvalid
from codesvc.ingest.job import Clock, Job, new_upload_id
from codesvc.ingest.pipeline import Begin, Halt, Source
from codesvc.ingest.turns import Bounds, Turn, Turns
from codesvc.models import (
    Checkpoint,
    Claim,
    CodeType,
    Progress,
    Stamp,
    Upload,
    UploadFailure,
    UploadOrder,
    UploadReport,
    UploadState,
)

logger = logging.getLogger(__name__)

_TICK_SECONDS: Final = 1.0
# How long a caller waits for the last word to be written, which is written in any case.
_LAST_WORD_SECONDS: Final = 2.0
_LAST_WORD_TRIES: Final = 5
# How long a caller who cancels an upload of another process waits for its end, and how often it looks.
_CANCEL_SECONDS: Final = 15.0
_CANCEL_LOOK_SECONDS: Final = 0.2
# How long what was read of a record is good enough for others who ask.
_FRESH_SECONDS: Final = 0.5
# An upload that so many processes have taken over in vain will be the end of the next one as well.
_MOST_ATTEMPTS: Final = 5
# Where MongoDB or S3 is away, the first time; then twice as long, and so on.
_PAUSE_SECONDS: Final = 30
# How many times a process looks for uploads to take over in the time of a lease.
_LOOKS: Final = 10

_CANCELLED: Final = "The upload was cancelled."
_GOING_AWAY: Final = "The process is going away before the upload is done; another one goes on with it."
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
    ) -> UploadReport:
        """Load a file."""


class Records(Protocol):
    """Where the records are kept. Every method raises DatabaseUnavailableError or DatabaseRefusedError."""

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

    async def take(self, *, patience: timedelta) -> Claim | None:
        """Take over an upload whose lease has been over for so long."""

    async def stored(self, campaign_id: str, saved: datetime) -> int:
        """Count the codes that were inserted by the upload whose codes are saved at that instant."""

    async def find(self, campaign_id: str, upload_id: str) -> Upload | None:
        """Read one upload."""

    async def page(self, campaign_id: str, *, limit: int, after: str | None) -> list[Upload]:
        """Read at most ``limit`` uploads of a campaign, the latest first, from before ``after`` on."""

    async def keep_invalid(self, upload_id: str, generation: int, number: int, rows: bytes) -> None:
        """Keep some of the invalid rows, as lines of CSV."""

    def invalid(self, upload_id: str) -> AsyncGenerator[bytes, None]:
        """Yield the invalid rows, as they were kept."""

    async def ask_to_cancel(self, campaign_id: str, upload_id: str) -> None:
        """Ask the owner of an upload to end it."""


class Telemetry(Protocol):
    """What is told of uploads that go from one process to another."""

    def upload_taken_over(self, *, handed_over: bool) -> None:
        """Count one that this process has taken over, from one that left it or from one that had gone."""

    def upload_handed_over(self, *, reason: str) -> None:
        """Count one that ended here and goes on elsewhere: ``drain``, ``unavailable`` or ``lost``."""


class Jobs:
    """Runs uploads and tells of them.

    Arguments:
        dry_runs: what runs those that only tell what they would store.
        lease: how long nobody else touches an upload after a word of its owner.
        source: where existence is looked up before an upload has to wait; None where there is none.
        describe: tells an error in a caller's terms.

    """

    def __init__(
        self,
        *,
        pipeline: Pipeline,
        dry_runs: Pipeline,
        source: Source | None,
        records: Records,
        telemetry: Telemetry,
        bounds: Bounds,
        lease: timedelta,
        describe: Callable[[Exception], UploadFailure],
        clock: Clock,
    ) -> None:
        self._pipeline = pipeline
        self._dry_runs = dry_runs
        self._source = source
        self._records = records
        self._telemetry = telemetry
        self._lease = lease.total_seconds()
        self._describe = describe
        self._clock = clock
        self._turns = Turns(bounds)
        self._jobs: dict[str, Job] = {}
        self._reads: dict[str, asyncio.Task[Upload | None]] = {}
        self._draining = False
        self._looking: asyncio.Task[None] | None = None

    @property
    def active(self) -> int:
        """Uploads under way: what a process that is to end waits for."""
        return len(self._jobs)

    @property
    def waiting(self) -> int:
        """Uploads that wait for their turn."""
        return self._turns.waiting

    def look_after_others(self) -> None:
        """Take over uploads that were left behind, from now on until the drain."""
        self._looking = asyncio.create_task(self._look(), context=contextvars.Context())

    def hand_over(self) -> None:
        """Leave the uploads to other processes that nobody waits for here, or that wait themselves; start no other."""
        self._draining = True
        for job in self._jobs.values():
            if not job.waited or (job.kept and job.upload.state is UploadState.QUEUED):
                job.stop(_GOING_AWAY)

    def drain(self) -> None:
        """Leave every upload to other processes after the batches in flight; start no other."""
        self._draining = True
        for job in self._jobs.values():
            job.stop(_GOING_AWAY)
        self._pipeline.drain()
        self._dry_runs.drain()

    async def close(self) -> None:
        """End what is left, without another word: the lease of each will run out."""
        tasks: list[asyncio.Task[Any]] = [job.task for job in self._jobs.values() if job.task is not None]
        tasks += self._reads.values()
        if self._looking is not None:
            tasks.append(self._looking)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def run(self, order: UploadOrder, *, upload_id: str | None = None) -> UploadReport:
        """Load a file's codes; return when all of them are stored.

        ``upload_id`` names the upload, where the caller has a name for it that is new.

        Raises:
            TooManyUploadsError: as many uploads wait as may.
            UploadCancelledError: somebody cancelled it.
            UploadHandedOverError: it goes on in another process.
            CodesvcError: see ``codesvc.ingest.pipeline.Uploads.run``.

        """
        job = self._start(order, upload_id, waited=True)
        await job.ended.wait()
        if job.error is not None:
            raise job.error
        assert job.report is not None  # noqa: S101 - one of the two is there
        return replace(job.report, upload_id=job.upload.id)

    async def start(self, order: UploadOrder, *, upload_id: str | None = None) -> Upload:
        """Begin to load a file's codes, or queue that; return as soon as the record of it is kept.

        Raises what ``run`` raises, as far as it can be told by then: whether the file is there, for one.
        """
        job = self._start(order, upload_id, waited=False)
        await job.accepted.wait()
        if job.error is not None and not job.kept:
            raise job.error
        return job.now()

    async def get(self, campaign_id: str, upload_id: str) -> Upload:
        """Tell how far an upload has come.

        Raises:
            NotFoundError: the campaign has no such upload, or no longer.

        """
        job = self._jobs.get(upload_id)
        if job is not None and job.kept and job.upload.order.campaign_id == campaign_id:
            return job.now()
        found = await self._records.find(campaign_id, upload_id)
        if found is None:
            raise NotFoundError("The campaign has no such upload.")
        return found

    async def page(self, campaign_id: str, *, limit: int, after: str | None) -> list[Upload]:
        """Tell of a campaign's uploads, the latest first, at most ``limit`` of those from before ``after`` on."""
        found = await self._records.page(campaign_id, limit=limit, after=after)
        return [self._jobs[one.id].now() if one.id in self._jobs else one for one in found]

    async def watch(self, campaign_id: str, upload_id: str) -> AsyncGenerator[Upload | None, None]:
        """Tell how far an upload has come, once a second, until it has ended; None where that is not known just now.

        Raises:
            NotFoundError: there is no such upload, or no longer.

        """
        while True:
            job = self._jobs.get(upload_id)
            upload = await self._glance(campaign_id, upload_id)
            yield upload
            if upload is not None and upload.state.ended:
                return
            if job is None:
                await asyncio.sleep(_TICK_SECONDS)
            else:
                await _at_most(_TICK_SECONDS, job.ended)

    def invalid(self, upload_id: str) -> AsyncGenerator[bytes, None]:
        """Yield the invalid rows of an upload so far, as lines of CSV: the number of the line, and why."""
        return self._records.invalid(upload_id)

    async def cancel(self, campaign_id: str, upload_id: str) -> Upload:
        """Let an upload end after the batches in flight; return how far it had come.

        It may have ended otherwise before it heard of that; or it has not heard of it yet, and is still under way.

        Raises:
            NotFoundError: the campaign has no such upload, or no longer.

        """
        deadline = time.monotonic() + _CANCEL_SECONDS
        upload = await self.get(campaign_id, upload_id)
        job = self._jobs.get(upload_id)
        if job is not None:
            job.halt.call(UploadCancelledError(_CANCELLED))
            await _at_most(_CANCEL_SECONDS, job.ended)
            return job.now()
        if not upload.state.ended:
            # If nobody has it just now, whoever takes it next ends it.
            await self._records.ask_to_cancel(campaign_id, upload_id)
        while not upload.state.ended and time.monotonic() < deadline:
            await asyncio.sleep(_CANCEL_LOOK_SECONDS)
            upload = await self.get(campaign_id, upload_id)
        return upload

    async def _glance(self, campaign_id: str, upload_id: str) -> Upload | None:
        """Look at an upload together with all who look at the same moment; wait for a second at most."""
        job = self._jobs.get(upload_id)
        if job is not None:
            return await self.get(campaign_id, upload_id)
        key = f"{campaign_id}/{upload_id}"
        task = self._reads.get(key)
        if task is None:
            # In a context of its own: it is nobody's request in particular.
            reading = self._records.find(campaign_id, upload_id)
            task = self._reads[key] = asyncio.create_task(reading, context=contextvars.Context())
            task.add_done_callback(partial(self._forget, key))
        await asyncio.wait({task}, timeout=_TICK_SECONDS)
        if not task.done():
            return None
        try:
            found = task.result()
        except DatabaseUnavailableError:
            return None
        if found is None:
            raise NotFoundError("The campaign has no such upload.")
        return found

    def _forget(self, key: str, task: asyncio.Task[Upload | None]) -> None:
        """Let what was read be good enough for those who ask within a moment."""
        if not task.cancelled():
            task.exception()  # whoever waited has heard of it, if anybody still did
        task.get_loop().call_later(_FRESH_SECONDS, self._reads.pop, key, None)

    def _start(self, order: UploadOrder, upload_id: str | None, *, waited: bool) -> Job:
        if self._draining:
            raise DrainingError("The process is going away.")
        self._turns.check(order.campaign_id)
        job = Job.new(upload_id or new_upload_id(), order, self._clock, waited=waited)
        self._jobs[job.upload.id] = job
        # NOTE: a task of its own, since a caller may go away, or may not even wait. It has the caller's context: its
        # lines in the log carry the correlation id of the request, and its spans belong to that trace.
        job.task = asyncio.create_task(self._run(job))
        return job

    async def _look(self) -> None:
        seconds = self._lease / _LOOKS
        while not self._draining:
            # Not all processes at once.
            await asyncio.sleep(seconds * random.uniform(0.8, 1.2))  # noqa: S311
            try:
                while await self._take_over():
                    pass
            except CodesvcError as error:
                logger.info("uploads left behind were not looked for", extra={"reason": str(error)})

    async def _take_over(self) -> bool:
        """Take over one upload that was left behind, if there is one; tell whether there was."""
        # What was taken over just before has asked for its turn by then.
        await asyncio.sleep(0)
        idle = self._turns.idle
        if self._draining or (not idle and self._turns.full):
            return False
        asked = time.monotonic()
        # Where it would have to wait, others come first.
        claim = await self._records.take(patience=timedelta(seconds=0 if idle else self._lease / 5))
        if claim is None:
            return False
        job = Job.taken(claim, self._clock)
        job.renewed = asked
        self._telemetry.upload_taken_over(handed_over=claim.handed_over)
        logger.info(
            "upload taken over",
            extra={
                "campaignId": claim.upload.order.campaign_id,
                "uploadId": claim.upload.id,
                "handedOver": claim.handed_over,
                "generation": claim.generation,
                "offset": job.start.offset,
            },
        )
        self._jobs[claim.upload.id] = job
        job.task = asyncio.create_task(self._run(job), context=contextvars.Context())
        if self._draining:
            job.stop(_GOING_AWAY)
        return True

    async def _run(self, job: Job) -> None:
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
            # Unless this process has taken it over from itself.
            if self._jobs.get(job.upload.id) is job:
                del self._jobs[job.upload.id]

    async def _perform(self, job: Job) -> UploadReport:
        order = job.upload.order
        if job.cancelled:
            raise UploadCancelledError(_CANCELLED)
        if job.attempts > _MOST_ATTEMPTS:
            raise UploadInterruptedError(_INTERRUPTED)

        async def begin(size: int, etag: str | None) -> datetime:
            self._turns.measured(turn, size)
            job.begin(size)
            async with job.words:
                asked = time.monotonic()
                saved = job.saved or self._clock()
                job.saved = await self._records.begin(job.upload, job.stamp(), saved=saved, etag=etag)
                job.renewed = asked
            job.accept()
            return job.saved

        async def keep_invalid(number: int, rows: bytes) -> None:
            await self._records.keep_invalid(job.upload.id, job.generation, number, rows)

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
            await self._records.queue(job.upload, job.stamp())
            job.renewed = asked
        job.accept()

    async def _tend(self, job: Job) -> None:
        """Keep the record up to date, and with it the lease, and hear whether the upload is to be cancelled."""
        await job.accepted.wait()
        while not job.lost:
            await asyncio.sleep(_TICK_SECONDS)
            job.measure()
            try:
                async with job.words:
                    asked = time.monotonic()
                    # One that has stood still for long may find that nobody has missed it.
                    async with asyncio.timeout(max(job.renewed + self._lease - asked, _TICK_SECONDS)):
                        cancelled = await self._records.save(job.now(), job.stamp())
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
                job.halt.call(UploadCancelledError(_CANCELLED))

    async def _settle(self, job: Job) -> None:
        """Count what an upload has inserted, where that is not known, and it has ended for good."""
        order = job.upload.order
        if not job.unsure or job.saved is None or order.dry_run or _leaving(job) is not None:
            return
        try:
            # A drain may come meanwhile; one that was halted before, has heard of that.
            async with job.halt.block() if job.error is None else nullcontext():
                inserted = await self._records.stored(order.campaign_id, job.saved)
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
                await self._records.leave(job.upload, job.stamp(attempts=attempts), pause=pause)
        except (CodesvcError, TimeoutError) as error:
            logger.info(
                "that an upload was left to others was not written down", extra={"reason": str(error)}
            )

    async def _last_word(self, job: Job) -> None:
        """Write down how an upload has ended; what it has stored is stored, whether or not that can be done."""
        for _ in range(_LAST_WORD_TRIES):
            try:
                heard = await self._records.save(job.now(), job.stamp())
            except DatabaseUnavailableError:
                await asyncio.sleep(_TICK_SECONDS)
            except CodesvcError as error:
                logger.warning("an upload's end was not written down", extra={"reason": str(error)})
                return
            else:
                if heard is None:
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


async def _at_most(seconds: float, event: asyncio.Event) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return


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

"""Uploads as resources: each is accepted, may have to wait for its turn, runs, and can be looked at by anybody.

The process that accepts an upload owns it: it keeps a record of it in the store, from before the first code is written
until after the last, and writes to that about once a second how far it has come. What other processes ask for is in
the record; what this process asks for, it knows itself.

An upload outlives its process. One that goes away leaves its uploads to others; of one that has died, the leases run
out. Every process that serves looks for such uploads, takes them over, and goes on at their checkpoints.
"""

import asyncio
import contextvars
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any, Final, Protocol

from codesvc.errors import DatabaseUnavailableError, DrainingError, NotFoundError, UploadCancelledError
from codesvc.ingest.job import CANCELLED, Clock, Job, new_upload_id
from codesvc.ingest.pipeline import Source
from codesvc.ingest.rescue import LeftUploads, Rescue, TakeOvers
from codesvc.ingest.runner import TICK_SECONDS, HandOvers, Pipeline, Runner, Words
from codesvc.ingest.turns import Bounds, Turns
from codesvc.models import Upload, UploadFailure, UploadOrder, UploadReport, UploadState

# How long a caller who cancels an upload of another process waits for its end, and how often it looks.
_CANCEL_SECONDS: Final = 15.0
_CANCEL_LOOK_SECONDS: Final = 0.2
# How long what was read of a record is good enough for others who ask.
_FRESH_SECONDS: Final = 0.5

_GOING_AWAY: Final = "The process is going away before the upload is done; another one goes on with it."


class Records(Words, LeftUploads, Protocol):
    """Where the records are kept. Every method raises DatabaseUnavailableError or DatabaseRefusedError."""

    async def find(self, campaign_id: str, upload_id: str) -> Upload | None:
        """Read one upload."""

    async def page(self, campaign_id: str, *, limit: int, after: str | None) -> list[Upload]:
        """Read at most ``limit`` uploads of a campaign, the latest first, from before ``after`` on."""

    def invalid(self, upload_id: str) -> AsyncGenerator[bytes, None]:
        """Yield the invalid rows, as they were kept."""

    async def ask_to_cancel(self, campaign_id: str, upload_id: str) -> None:
        """Ask the owner of an upload to end it."""


class Telemetry(HandOvers, TakeOvers, Protocol):
    """What is told of uploads that go from one process to another."""


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
        self._records = records
        self._clock = clock
        self._turns = Turns(bounds)
        self._runner = Runner(
            pipeline=pipeline,
            dry_runs=dry_runs,
            source=source,
            words=records,
            telemetry=telemetry,
            turns=self._turns,
            lease=lease.total_seconds(),
            describe=describe,
            clock=clock,
        )
        self._rescue = Rescue(
            left=records,
            telemetry=telemetry,
            turns=self._turns,
            lease=lease.total_seconds(),
            clock=clock,
            adopt=self._adopt,
        )
        self._jobs: dict[str, Job] = {}
        self._reads: dict[str, asyncio.Task[Upload | None]] = {}
        self._draining = False

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
        self._rescue.start()

    def hand_over(self) -> None:
        """Leave the uploads to other processes that nobody waits for here, or that wait themselves; start no other."""
        self._draining = True
        self._rescue.stop()
        for job in self._jobs.values():
            if not job.waited or (job.kept and job.upload.state is UploadState.QUEUED):
                job.stop(_GOING_AWAY)

    def drain(self) -> None:
        """Leave every upload to other processes after the batches in flight; start no other."""
        self._draining = True
        self._rescue.stop()
        for job in self._jobs.values():
            job.stop(_GOING_AWAY)
        self._runner.drain()

    async def close(self) -> None:
        """End what is left, without another word: the lease of each will run out."""
        await self._rescue.close()
        tasks: list[asyncio.Task[Any]] = [job.task for job in self._jobs.values() if job.task is not None]
        tasks += self._reads.values()
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
        return job.shown()

    async def get(self, campaign_id: str, upload_id: str) -> Upload:
        """Tell how far an upload has come.

        Raises:
            NotFoundError: the campaign has no such upload, or no longer.

        """
        job = self._jobs.get(upload_id)
        if job is not None and job.kept and job.upload.order.campaign_id == campaign_id:
            return job.shown()
        found = await self._records.find(campaign_id, upload_id)
        if found is None:
            raise NotFoundError("The campaign has no such upload.")
        return found

    async def page(self, campaign_id: str, *, limit: int, after: str | None) -> list[Upload]:
        """Tell of a campaign's uploads, the latest first, at most ``limit`` of those from before ``after`` on."""
        found = await self._records.page(campaign_id, limit=limit, after=after)
        return [self._jobs[one.id].shown() if one.id in self._jobs else one for one in found]

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
                await asyncio.sleep(TICK_SECONDS)
            else:
                await _at_most(TICK_SECONDS, job.ended)

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
            job.halt.call(UploadCancelledError(CANCELLED))
            await _at_most(_CANCEL_SECONDS, job.ended)
            return job.shown()
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
        await asyncio.wait({task}, timeout=TICK_SECONDS)
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
        # NOTE: a task of its own, since a caller may go away, or may not even wait. It has the caller's context: its
        # lines in the log carry the correlation id of the request, and its spans belong to that trace.
        self._begin(job)
        return job

    def _adopt(self, job: Job) -> None:
        self._begin(job, contextvars.Context())
        if self._draining:
            job.stop(_GOING_AWAY)

    def _begin(self, job: Job, context: contextvars.Context | None = None) -> None:
        self._jobs[job.upload.id] = job
        job.task = asyncio.create_task(self._run(job), context=context)

    async def _run(self, job: Job) -> None:
        try:
            await self._runner.run(job)
        finally:
            # Unless this process has taken it over from itself.
            if self._jobs.get(job.upload.id) is job:
                del self._jobs[job.upload.id]


async def _at_most(seconds: float, event: asyncio.Event) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return

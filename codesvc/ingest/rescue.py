"""What looks for uploads that other processes have left behind, and takes them over.

The processes that serve do not know each other. Each looks a few times in a lease, at a moment of its own; the store
gives an upload to one of them.
"""

import asyncio
import contextvars
import logging
import random
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Final, Protocol

from codesvc.errors import CodesvcError
from codesvc.ingest.job import Clock, Job
from codesvc.ingest.turns import Turns
from codesvc.models import Claim

logger = logging.getLogger(__name__)

# How many times a process looks for uploads to take over in the time of a lease.
_LOOKS: Final = 10


class LeftUploads(Protocol):
    """Where uploads are that were left behind."""

    async def take(self, *, patience: timedelta) -> Claim | None:
        """Take over an upload whose lease has been over for so long.

        Raises DatabaseUnavailableError or DatabaseRefusedError.
        """


class TakeOvers(Protocol):
    """What is told of uploads that come from elsewhere."""

    def upload_taken_over(self, *, handed_over: bool) -> None:
        """Count one that this process has taken over, from one that left it or from one that had gone."""


class Rescue:
    """Takes uploads over that were left behind, as long as there is room for them.

    Arguments:
        lease: for how many seconds nobody else touches an upload after a word of its owner.
        adopt: begins to run one that was taken over.

    """

    def __init__(
        self,
        *,
        left: LeftUploads,
        telemetry: TakeOvers,
        turns: Turns,
        lease: float,
        clock: Clock,
        adopt: Callable[[Job], None],
    ) -> None:
        self._left = left
        self._telemetry = telemetry
        self._turns = turns
        self._lease = lease
        self._clock = clock
        self._adopt = adopt
        self._stopped = False
        self._looking: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Look for uploads from now on."""
        self._looking = asyncio.create_task(self._look(), context=contextvars.Context())

    def stop(self) -> None:
        """Take over no more. One that is being taken over just now is handed to ``adopt`` all the same."""
        self._stopped = True

    async def close(self) -> None:
        """End, wherever it is; what it is in the middle of taking over, others find when the lease is over."""
        self.stop()
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)

    async def _look(self) -> None:
        seconds = self._lease / _LOOKS
        while not self._stopped:
            # Not all processes at once.
            await asyncio.sleep(seconds * random.uniform(0.8, 1.2))  # noqa: S311
            try:
                while await self._take_over():
                    pass
            except CodesvcError as error:
                logger.info("uploads left behind were not looked for", extra={"reason": str(error)})
            except Exception:
                # A record that this version cannot read, say: nobody else may be left behind for it.
                logger.exception("an upload left behind was not taken over")

    async def _take_over(self) -> bool:
        """Take over one upload that was left behind, if there is one; tell whether there was."""
        # What was taken over just before has asked for its turn by then.
        await asyncio.sleep(0)
        idle = self._turns.idle
        if self._stopped or (not idle and self._turns.full):
            return False
        asked = time.monotonic()
        # Where it would have to wait, others come first.
        claim = await self._left.take(patience=timedelta(seconds=0 if idle else self._lease / 5))
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
        self._adopt(job)
        return True

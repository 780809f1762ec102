"""One soak, from the first process's start to the verdict."""

import asyncio
import random
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from api.harness import Document, make_codes, token

from .callers import Caller
from .campaigns import PLENTY, SCARCE, Campaign
from .client import SLOW_SECONDS, Client, session
from .disturber import Disturbance, Disturber, longest_still
from .fleet import Fleet, fleet
from .ledger import Held, Ledger
from .longest import LongUploads
from .uploaders import Uploader
from .verdict import Verdict, check, check_counts

_PROGRESS_SECONDS = 10.0
_STOCK_UP_SECONDS = 60.0
_WHOLE_AGAIN = 300.0
_LONG_RUN = 300.0
"""From this length on, in seconds, a run has every kind of disturbance."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How long, and how much."""

    seconds: float
    callers: int = 64
    services: int = 3
    seed: int = 0


def soak(directory: Path, options: Options) -> Verdict:
    """Run it, in the main thread; everything is below ``directory``, and has ended when this returns or raises."""
    # Longer than any request, and short enough that holds expire in a long run.
    ttl_seconds = round(max(2 * SLOW_SECONDS, min(options.seconds / 3, 120)))
    ledger = Ledger(timedelta(seconds=ttl_seconds))
    with fleet(directory, services=options.services, ttl_seconds=ttl_seconds) as running:
        load = Load(running, ledger, options)
        disturber = Disturber(running, random.Random(options.seed), options.seconds)
        try:
            load.start(disturber.done)
            disturber.run(load.until, load.ended)
            load.ended.wait()
        finally:
            # Whatever happened here: nothing is to be asked any more of what is about to end.
            load.stop()
        load.check()
        running.members.wait_until_whole(limit=_WHOLE_AGAIN)
        documents = check(ledger, running.documents.find())
        check_counts(ledger, documents, running.services)
    return Verdict(
        seconds=load.seconds,
        outcomes=load.client.outcomes,
        slowest=load.client.slowest,
        disturbances=disturber.done,
        disturbing=tuple(disturber.kinds) if options.seconds >= _LONG_RUN else (Disturbance.PRIMARY_KILLED,),
        long_uploads=load.long.ended,
        taken_over=load.long.taken_over,
        codes=len(documents),
        short=ledger.short,
        expired=ledger.expired,
        faults=ledger.faults,
        samples=ledger.samples,
    )


class Load:
    """All callers and uploaders, on an event loop in a thread of its own: the main thread has processes to start."""

    client: Client
    long: LongUploads

    def __init__(self, running: Fleet, ledger: Ledger, options: Options) -> None:
        self.until = 0.0
        self.seconds = 0.0
        self.ended = threading.Event()
        self._fleet = running
        self._ledger = ledger
        self._options = options
        self._disturbances: Counter[Disturbance] = Counter()
        self._stocked = threading.Event()
        self._stopping = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="load")

    def start(self, disturbances: Counter[Disturbance]) -> None:
        """Start it; return once the campaigns have their stock."""
        self._disturbances = disturbances
        self._thread.start()
        self._stocked.wait()

    def stop(self) -> None:
        """Let every caller have its last reply, and go."""
        self._stopping.set()
        self._thread.join()

    def check(self) -> None:
        """Raise what went wrong."""
        if self._error is not None:
            raise self._error

    def _going(self) -> bool:
        return time.monotonic() < self.until and not self._stopping.is_set()

    def _run(self) -> None:
        try:
            asyncio.run(self._main())
        except BaseException as error:  # noqa: BLE001 - raised again where it is joined
            self._error = error
        finally:
            self.ended.set()
            self._stocked.set()

    async def _main(self) -> None:
        chance = random.Random(self._options.seed)
        async with session(token(exp=int(time.time()) + 7 * 86_400)) as http:
            self.client = Client(http, self._fleet, self._ledger, chance)
            self.long = LongUploads(self.client, self._ledger, chance, self._fleet)
            uploader = Uploader(self.client, self._ledger, chance, self._fleet.put)
            self.until = time.monotonic() + _STOCK_UP_SECONDS
            await uploader.stock_up(self._going)
            for campaign in (PLENTY, SCARCE):
                await asyncio.to_thread(self._hold_earlier, chance, campaign)
            began = time.monotonic()
            self.until = began + self._options.seconds
            self._stocked.set()
            still = longest_still(self._options.seconds)
            async with asyncio.TaskGroup() as group:
                progress = group.create_task(self._progress(began))
                others = [
                    *(
                        Caller(self.client, self._ledger, chance, still=still).run(self._going)
                        for _ in range(self._options.callers)
                    ),
                    uploader.grow(self._going),
                    uploader.move(self._going),
                    self.long.run(self._going),
                ]
                await asyncio.gather(*(group.create_task(one) for one in others))
                progress.cancel()
            self.seconds = time.monotonic() - began

    def _hold_earlier(self, chance: random.Random, campaign: Campaign) -> None:
        """Leave documents as a service of yesterday would, whose holds end while the callers are at it."""
        codes = make_codes(campaign.earlier)
        made = [self._held_earlier(chance, campaign.name, code) for code in codes]
        self._ledger.upload_sent(campaign.name, "tm", codes)
        self._fleet.documents.insert_many(made)
        self._ledger.uploaded(campaign.name, "tm", codes)
        # Not to be had before their time.
        self._ledger.stock(campaign.name, "tm").out += len(codes)

    def _held_earlier(self, chance: random.Random, campaign: str, code: str) -> Document:
        longest = min(self._options.seconds, self._ledger.ttl.total_seconds())
        left = timedelta(milliseconds=chance.randrange(1, round(longest * 1000)))
        began = datetime.now(UTC) - self._ledger.ttl + left
        reserved = began.replace(microsecond=began.microsecond // 1000 * 1000)
        reserve_id = f"earlier-{code}"
        self._ledger.reservations[reserve_id] = frozenset({(campaign, code)})
        self._ledger.add_hold((campaign, code), Held(reserve_id, reserved, asked=0.0, told=0.0))
        return {
            "_id": {"campaign_id": campaign, "code": code},
            "type": "tm",
            "reserveId": reserve_id,
            "date": {"saved": reserved, "reserved": reserved},
        }

    async def _progress(self, began: float) -> None:
        while True:
            await asyncio.sleep(_PROGRESS_SECONDS)
            outcomes = self.client.outcomes
            unknown = sum(times for (_, outcome), times in outcomes.items() if outcome != "200")
            print(
                f"{time.monotonic() - began:6.0f} s: {outcomes.total():,} operations, {unknown:,} of them not 200; "
                f"{self._disturbances.total()} disturbances; {len(self._ledger.stored):,} codes; "
                f"{self._ledger.faults.total()} faults",
                file=sys.stderr,
                flush=True,
            )

"""The collection of codes: counting, reserving, assigning, releasing, and the writers of uploads.

A document, as CONTRACT.md gives it (the fields of ``date`` but ``saved``, and ``reserveId``, are absent until set):

    {_id: {campaign_id, code}, type, reserveId, date: {saved, reserved, held, assigned}}

A code's status is not stored: it follows from two dates and the clock, so a hold expires without anybody writing.
codesvc/datastore/counting.py says how. A hold that is shorter than others is dated back for that in ``date.reserved``,
and ``date.held`` is its true beginning.
"""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any, Final

import pymongo

from codesvc._fastcsv import Batch
from codesvc.datastore.campaigns import Campaigns
from codesvc.datastore.client import Mongo
from codesvc.datastore.counting import Counting, Keeping, Verdict
from codesvc.datastore.documents import read_code
from codesvc.datastore.failures import translated
from codesvc.datastore.holds import RELEASED, chosen
from codesvc.datastore.indexes import ensure_indexes
from codesvc.datastore.lending import Lending
from codesvc.datastore.listing import CodeListing
from codesvc.datastore.looks import Looks
from codesvc.datastore.motion import Motion
from codesvc.datastore.orders import Request
from codesvc.datastore.reservations import Reservations, assigned, held_since
from codesvc.datastore.stock import Sampling, Stock
from codesvc.datastore.takeback import CodesOfUpload
from codesvc.datastore.telemetry import Samples, Telemetry
from codesvc.datastore.wire import COMMAND_OVERHEAD, Wire, raw_encoding_works
from codesvc.datastore.writers import BatchWriter, InsertFirstWriter, UpsertWriter
from codesvc.errors import NotEnoughCodesError
from codesvc.models import (
    MAX_CODE_BYTES,
    ChangeCounts,
    Code,
    CodeType,
    Counts,
    ReservedCode,
    Status,
    UploadCounts,
)
from codesvc.settings import WriteStrategy

# Statements of one assign or release that are under way at once: two keep MongoDB busy while one is answered.
_CHANGES_IN_FLIGHT: Final = 3

_KEEPING: Final = Keeping()


class CodeStore:
    """Every query on the collection of codes. Instants are UTC with a resolution of a millisecond.

    Every method raises DatabaseUnavailableError when MongoDB gives no answer within the time limit of the settings,
    and DatabaseRefusedError when it will not do what was asked.

    Arguments:
        keeping: which counts are kept.

    """

    def __init__(
        self,
        mongo: Mongo,
        telemetry: Telemetry,
        strategy: WriteStrategy,
        *,
        keeping: Keeping = _KEEPING,
    ) -> None:
        self._mongo = mongo
        self._telemetry = telemetry
        self._strategy = strategy
        self._raw_encoding = raw_encoding_works()
        self._wire = Wire(mongo, telemetry, raw=self._raw_encoding)
        self._campaigns = Campaigns(mongo, uuid.uuid4().hex)
        self._motion = Motion(mongo, self._campaigns)
        self._counting = Counting(mongo, self._campaigns, self._motion, telemetry, keeping)
        self._lending = Lending(mongo, self._campaigns, self._motion, telemetry)
        self._reservations = Reservations(mongo, self._motion)

    async def close(self) -> None:
        """Let other processes know that this one writes nothing more."""
        await self._counting.close()
        await self._motion.close()

    def stock(self, told: Samples, sampling: Sampling, clock: Callable[[], datetime]) -> Stock:
        """Make what samples the whole stock."""
        return Stock(
            self._mongo, self._counting, told, self._campaigns.process, sampling=sampling, clock=clock
        )

    @property
    def raw_encoding(self) -> bool:
        """Whether the driver takes batches as they are; if not, uploads are slow."""
        return self._raw_encoding

    async def batch_limits(self) -> tuple[int, int]:
        """Tell how many codes, and how many bytes of payload, the server takes in one bulk write."""
        deployment = await self._mongo.deployment()
        return deployment.max_write_batch_size, deployment.max_document_bytes - COMMAND_OVERHEAD

    async def writer(self, *, campaign_id: str, code_type: CodeType, saved: datetime) -> BatchWriter:
        """Make the writer for one upload, all of whose new codes are saved at the same instant."""
        # A collection that was dropped behind a running service would otherwise grow without its index.
        await ensure_indexes(self._mongo, timeout=self._mongo.timeout)
        writer: BatchWriter
        if self._strategy is WriteStrategy.UPSERT:
            writer = UpsertWriter(self._mongo, self._telemetry, campaign_id, code_type, saved)
        else:
            writer = InsertFirstWriter(self._wire, campaign_id, code_type)
        return _AnnouncedWriter(writer, self._motion, campaign_id)

    async def known(self, batch: Batch) -> bytearray:
        """Tell which codes of a sorted batch are there already: for each a byte, NOT_SEEN where it is not.

        Writes nothing, nor tells anybody that something is about to be written.
        """
        with translated():
            return await Looks(self._wire).known(batch)

    async def count(self, *, campaign_id: str, code_type: CodeType, cut_off: datetime) -> Counts:
        """Count the codes in each status, all three at one instant where the deployment knows transactions."""
        with self._operation("count"):
            return await self._counting.count(campaign_id, code_type, cut_off)

    async def count_status(
        self, *, campaign_id: str, code_type: CodeType, status: Status, cut_off: datetime
    ) -> int:
        """Count the codes in one status."""
        counts = await self.count(campaign_id=campaign_id, code_type=code_type, cut_off=cut_off)
        return int(getattr(counts, status.value))

    async def find(self, *, campaign_id: str, code: str, cut_off: datetime) -> Code | None:
        """Read one code; None where the campaign has no such code."""
        with self._operation("find"):
            found = await self._mongo.codes.find_one({"_id": {"campaign_id": campaign_id, "code": code}})
        return None if found is None else read_code(found, cut_off)

    def listing(self, *, campaign_id: str, code_type: CodeType | None, status: Status | None) -> CodeListing:
        """Make what tells of a campaign's codes, in pages, by code; of one type or status, or of all."""
        return CodeListing(self._mongo, self._telemetry, campaign_id, code_type, status)

    def codes_of_upload(self, campaign_id: str, upload_id: str) -> CodesOfUpload:
        """Make what takes back the codes of an upload."""
        return CodesOfUpload(self._mongo, self._motion, self._telemetry, campaign_id, upload_id)

    async def verify_counts(self) -> AsyncIterator[Verdict]:
        """Compare all counts that are kept with the documents; those of campaigns that are written to are passed over.

        Reads every document of every campaign of which counts are kept, without a time limit.
        """
        with translated(), pymongo.timeout(None):
            for campaign_id, name in await self._campaigns.with_counts():
                verdict = await self._counting.verify(campaign_id, CodeType(name), documents=True)
                if verdict is not None:
                    yield verdict

    async def reserve(
        self,
        *,
        campaign_id: str,
        code_type: CodeType,
        count: int,
        reserve_id: str,
        now: datetime,
        cut_off: datetime,
        minimum: int = 0,
        shortened: timedelta = timedelta(0),
    ) -> list[ReservedCode]:
        """Hold ``count`` available codes, or all that are left if they are fewer: see codesvc/datastore/lending.py.

        The hold ends so much earlier than others as ``shortened``. It may begin later than ``now``.

        Raises:
            NotEnoughCodesError: fewer than ``minimum`` are left, and none is held.

        """
        request = Request(campaign_id, code_type, count, reserve_id, now, cut_off, minimum, shortened)
        # Not under a time limit of this caller's own: callers are served together.
        with self._telemetry.datastore_operation("reserve"):
            found, began, refused = await self._lending.reserve(request)
        self._telemetry.reserved(
            code_type.value,
            requested=count,
            lent=len(found),
            expired=sum(one.ended is not None for one in found),
        )
        if refused:
            raise NotEnoughCodesError("Fewer codes are available than are asked for at least.")
        return [
            ReservedCode(
                code=one.code, type=code_type, reserve_id=reserve_id, saved=one.saved, reserved=began
            )
            for one in found
        ]

    async def assign(self, *, campaign_id: str, codes: Sequence[str], now: datetime) -> int:
        """Assign the codes that are not assigned yet; return how many those were."""
        with self._operation("assign"):
            return await self._change(campaign_id, codes, {"date.assigned": None}, assigned(now))

    async def release(self, *, campaign_id: str, codes: Sequence[str], cut_off: datetime) -> int:
        """Make reserved codes available again; return how many there were."""
        with self._operation("release"):
            return await self._change(campaign_id, codes, held_since(cut_off), RELEASED)

    async def reservation(
        self, *, campaign_id: str, reserve_id: str, cut_off: datetime
    ) -> tuple[list[ReservedCode], datetime] | None:
        """Read what a live reservation holds, by code, and from when on its end is reckoned; None for nothing."""
        with self._operation("reservation"):
            return await self._reservations.read(campaign_id, reserve_id, cut_off=cut_off)

    async def assign_reservation(
        self, *, campaign_id: str, reserve_id: str, now: datetime, cut_off: datetime
    ) -> ChangeCounts:
        """Assign all codes that a live reservation holds; tell how many it held."""
        with self._operation("assign"):
            return await self._reservations.change(campaign_id, reserve_id, assigned(now), cut_off=cut_off)

    async def release_reservation(
        self, *, campaign_id: str, reserve_id: str, cut_off: datetime
    ) -> ChangeCounts:
        """End a live reservation; tell how many codes it held."""
        with self._operation("release"):
            return await self._reservations.change(campaign_id, reserve_id, RELEASED, cut_off=cut_off)

    @contextmanager
    def _operation(self, name: str) -> Iterator[None]:
        # pymongo.timeout bounds the whole operation, however many commands it takes.
        with self._telemetry.datastore_operation(name), translated(), pymongo.timeout(self._mongo.timeout):
            yield

    async def _change(
        self, campaign_id: str, codes: Sequence[str], condition: dict[str, Any], change: dict[str, Any]
    ) -> int:
        # What is longer than a code can be is none, and might not fit into a statement. Sorted, since neighbours in
        # the list are then neighbours in the index; once each, since two statements must not meet on a code.
        possible = sorted({code for code in codes if len(code) <= MAX_CODE_BYTES})
        statements = chosen(campaign_id, possible)
        changed = 0

        async def work() -> None:
            nonlocal changed
            for statement in statements:
                result = await self._mongo.codes.update_many(statement | condition, change)
                changed += result.modified_count

        if possible:
            async with self._motion.writing(campaign_id):
                workers = (work() for _ in range(_CHANGES_IN_FLIGHT))
                for outcome in await asyncio.gather(*workers, return_exceptions=True):
                    if outcome is not None:
                        raise outcome
        return changed


class _AnnouncedWriter:
    """Writes the batches of an upload while other processes know that it does."""

    def __init__(self, writer: BatchWriter, motion: Motion, campaign_id: str) -> None:
        self._writer = writer
        self._motion = motion
        self._campaign_id = campaign_id

    @property
    def sorts(self) -> bool:
        """Whether codes shall come sorted, and none twice in a run, rather than in the file's order."""
        return self._writer.sorts

    async def write(self, batch: Batch) -> UploadCounts:
        """Store a batch and tell how many of its codes were new."""
        with translated():
            async with self._motion.writing(self._campaign_id):
                return await self._writer.write(batch)

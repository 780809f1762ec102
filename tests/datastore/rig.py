"""A store on a real MongoDB, wired as the service wires it, with a clock that the test sets."""

import itertools
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from pymongo.monitoring import CommandFailedEvent, CommandListener, CommandStartedEvent, CommandSucceededEvent

from codesvc.datastore.client import Mongo
from codesvc.datastore.codes import CodeStore
from codesvc.datastore.counting import Keeping
from codesvc.datastore.indexes import ensure_indexes
from codesvc.datastore.watch import Watch, view
from codesvc.ingest.dry_runs import DryRuns
from codesvc.ingest.pipeline import Options, Uploads
from codesvc.inventory import Inventory
from codesvc.models import CodeType, UploadCounts, UploadReport
from codesvc.observability.telemetry import Telemetry
from codesvc.settings import Settings, load_settings

CAMPAIGN = "spring-26"
TTL = timedelta(hours=24)
START = datetime(2026, 3, 1, 12, 0, 0, 123_000, tzinfo=UTC)

EAGER = Keeping(keep_from=1, quiet_seconds=0.0)
"""Keeps the counts of the smallest campaigns, too, and at once, so that every test goes through them."""

INDEX_NAMES = [
    *("codes_by_status", "codes_by_reservation", "campaigns_by_writer", "campaigns_by_touch"),
    *("uploads_by_campaign", "uploads_by_saved", "uploads_by_lease", "uploads_by_expiry"),
    *("invalid_rows_by_expiry", "idempotency_keys_by_expiry"),
]
"""Of all collections, in the order in which they are told."""

Documents = Any
"""A blocking collection, to arrange and to look at from outside."""


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now


class Commands(CommandListener):
    """Keeps the commands that the driver sent."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []

    def started(self, event: CommandStartedEvent) -> None:
        self.sent.append(dict(event.command))

    def succeeded(self, event: CommandSucceededEvent) -> None:
        pass

    def failed(self, event: CommandFailedEvent) -> None:
        pass


class MemoryStream:
    """Bytes in pieces of one length."""

    def __init__(self, data: bytes, piece: int, start: int) -> None:
        self._data = data
        self._piece = piece
        self._start = start
        self.done = start

    @property
    def size(self) -> int:
        return len(self._data)

    @property
    def etag(self) -> str | None:
        return '"memory"'

    async def chunks(self) -> AsyncIterator[bytes]:
        for start in range(self._start, len(self._data), self._piece):
            piece = self._data[start : start + self._piece]
            self.done += len(piece)
            yield piece


class MemorySource:
    """One file, under any name."""

    def __init__(self, data: bytes, *, piece: int = 64 * 1024) -> None:
        self._data = data
        self._piece = piece

    @asynccontextmanager
    async def open(
        self, _name: str, /, *, start: int = 0, etag: str | None = None
    ) -> AsyncIterator[MemoryStream]:
        assert etag in {None, '"memory"'}
        yield MemoryStream(self._data, self._piece, start)


@dataclass(frozen=True, slots=True)
class Rig:
    """Everything behind the edge, on one database."""

    settings: Settings
    mongo: Mongo
    store: CodeStore
    inventory: Inventory
    telemetry: Telemetry
    clock: Clock = field(repr=False)

    async def upload(
        self,
        codes: Iterable[str] | bytes,
        *,
        campaign_id: str = CAMPAIGN,
        code_type: CodeType = CodeType.TM,
        batch_size: int | None = None,
        sort_codes: int | None = None,
        write_concurrency: int | None = None,
    ) -> UploadCounts:
        """Upload a file that is all valid; return its counts."""
        data = codes if isinstance(codes, bytes) else csv(codes)
        uploads = Uploads(
            source=MemorySource(data),
            store=self.store,
            telemetry=self.telemetry,
            options=Options(
                batch_size=batch_size or self.settings.batch_size,
                # With batches of its own, a test means the duplicates between them.
                sort_codes=sort_codes or batch_size or self.settings.sort_codes,
                write_concurrency=write_concurrency or self.settings.write_concurrency,
                max_row_bytes=self.settings.max_row_bytes,
            ),
            clock=self.clock,
        )
        report: UploadReport = await uploads.run(
            campaign_id=campaign_id, code_type=code_type, file_key=f"codes/{campaign_id}/{code_type}/x.csv"
        )
        assert report.invalid_count == 0
        return report.counts

    async def dry_run(self, codes: Iterable[str], *, code_type: CodeType = CodeType.TM) -> UploadCounts:
        """Tell what an upload of a file that is all valid would come to; a few hashes fit at a time."""
        settings = self.settings
        dry_runs = DryRuns(
            source=MemorySource(csv(codes)),
            stock=self.store,
            telemetry=self.telemetry,
            options=Options(
                batch_size=settings.batch_size,
                sort_codes=settings.sort_codes,
                write_concurrency=settings.write_concurrency,
                max_row_bytes=settings.max_row_bytes,
            ),
            clock=self.clock,
            most_hashes=150,
        )
        report = await dry_runs.run(campaign_id=CAMPAIGN, code_type=code_type, file_key="x.csv")
        return report.counts

    async def reserve(
        self, count: int, *, campaign_id: str = CAMPAIGN, code_type: CodeType = CodeType.TM
    ) -> list[str]:
        """Reserve; return the codes."""
        reservation = await self.inventory.reserve(campaign_id, code_type, count)
        return [one.code for one in reservation.codes]


@asynccontextmanager
async def opened(
    uri: str,
    database: str,
    *,
    listeners: Sequence[CommandListener] = (),
    keeping: Keeping = EAGER,
    **overrides: Any,
) -> AsyncIterator[Rig]:
    """Open a rig; ``overrides`` are settings by name, ``listeners`` are told of the driver's commands."""
    settings = load_settings(mongo_uri=uri, mongo_database=database, **{"mongo_timeout": 10.0, **overrides})
    telemetry = Telemetry()
    mongo = Mongo(settings, event_listeners=[*listeners, Watch(telemetry.database)])
    telemetry.watch_database(partial(view, mongo))
    store = CodeStore(mongo, telemetry, settings.write_strategy, keeping=keeping)
    try:
        clock = Clock()
        inventory = Inventory(store, reservation_ttl=TTL, clock=clock)
        yield Rig(settings, mongo, store, inventory, telemetry, clock)
    finally:
        await store.close()
        await mongo.close()


class Rigs:
    """Opens rigs on one database, and closes them in the end."""

    def __init__(self, uri: str, database: str, stack: AsyncExitStack) -> None:
        self.uri = uri
        self.database = database
        self._stack = stack

    async def __call__(self, *, uri: str | None = None, indexes: bool = True, **overrides: Any) -> Rig:
        rig = await self._stack.enter_async_context(opened(uri or self.uri, self.database, **overrides))
        if indexes:
            await ensure_indexes(rig.mongo, timeout=None)
        return rig


def csv(codes: Iterable[str]) -> bytes:
    """Make a file of codes, each in quotes."""
    return "".join('"' + code.replace('"', '""') + '"\n' for code in codes).encode()


def numbered(count: int, *, start: int = 0, prefix: str = "CODE-") -> list[str]:
    """Return distinct codes in order."""
    return [f"{prefix}{number:08d}" for number in range(start, start + count)]


def document(
    code: str,
    *,
    campaign_id: str = CAMPAIGN,
    code_type: str = "tm",
    saved: datetime = START,
    reserved: datetime | None = None,
    held: datetime | None = None,
    reserve_id: str | None = None,
    assigned: datetime | None = None,
) -> dict[str, Any]:
    """Make a document as another writer would leave it."""
    date = {"saved": saved, "reserved": reserved, "held": held, "assigned": assigned}
    made = {
        "_id": {"campaign_id": campaign_id, "code": code},
        "type": code_type,
        "reserveId": reserve_id,
        "date": {name: instant for name, instant in date.items() if instant is not None},
    }
    return {name: value for name, value in made.items() if value is not None}


def stored(documents: Documents, **query: Any) -> dict[str, dict[str, Any]]:
    """Return the documents by code."""
    found = list(documents.find(query))
    by_code = {one["_id"]["code"]: one for one in found}
    assert len(by_code) == len(found)
    return by_code


def spread(codes: Sequence[str], into: int) -> list[list[str]]:
    """Deal codes out, as cards."""
    return [list(itertools.islice(codes, start, None, into)) for start in range(into)]


Factory = Callable[..., Any]

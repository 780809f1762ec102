"""The values that every room speaks in. A leaf: standard library only."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Final

MAX_CODE_BYTES: Final = 256
"""The longest code, in bytes of UTF-8."""

MAX_SAMPLES: Final = 100
"""Invalid rows of an upload that are told one by one."""


class CodeType(StrEnum):
    """What kind of promotional code it is."""

    TM = "tm"
    EXTERNAL = "external"


class Status(StrEnum):
    """Where a code stands in its life: lent by a hold that expires, or given away for good."""

    AVAILABLE = "available"
    RESERVED = "reserved"
    ASSIGNED = "assigned"


@dataclass(frozen=True, slots=True)
class Code:
    """One code and where it stands; instants are in UTC, with a resolution of a millisecond.

    ``reserve_id`` and ``reserved`` are of the hold that is live, or under which the code was assigned. ``reckoned`` is
    the instant from which the end of that hold is reckoned: earlier than ``reserved`` where it is shorter than others.
    """

    code: str = field(repr=False)
    type: CodeType
    status: Status
    saved: datetime
    reserve_id: str | None = None
    reserved: datetime | None = None
    assigned: datetime | None = None
    reckoned: datetime | None = None


@dataclass(frozen=True, slots=True)
class CodePage:
    """Some codes of a campaign, by code; ``next`` is the one to go on after, None where there are no more.

    There may be fewer than were asked for, or none at all, and more to come all the same.
    """

    codes: tuple[Code, ...] = field(repr=False)
    next: str | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class Counts:
    """How many codes of one campaign and type stand in each status."""

    available: int
    reserved: int
    assigned: int


@dataclass(frozen=True, slots=True)
class ReservedCode:
    """One code of a reservation; both instants are in UTC, with a resolution of a millisecond."""

    code: str = field(repr=False)
    type: CodeType
    reserve_id: str
    saved: datetime
    reserved: datetime


@dataclass(frozen=True, slots=True)
class Reservation:
    """What one reserve lent, possibly fewer codes than asked for, possibly none; or what it still holds.

    ``expires`` is the end of the hold; None where a service of an earlier version does not tell.
    """

    reserve_id: str
    codes: tuple[ReservedCode, ...] = field(repr=False)
    expires: datetime | None = None


@dataclass(frozen=True, slots=True)
class ChangeCounts:
    """What an assign or a release did: the length of the list as sent, and the codes that changed.

    Of a reservation, ``total`` is the number of codes that it still held.
    """

    total: int
    updated: int


@dataclass(frozen=True, slots=True)
class KeyedRequest:
    """A request with an Idempotency-Key: ``fingerprint`` tells one request's content from another's."""

    campaign_id: str
    key: str = field(repr=False)
    operation: str
    fingerprint: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class KeptReply:
    """What a caller is told, as the edge writes it, to be told again under the same Idempotency-Key."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class KeyClaim:
    """An Idempotency-Key that is this request's to answer.

    Attributes:
        id: of this claim, and of no other.
        name: what the work of this claim goes by.
        earlier: what the work of claims goes by that were never answered.

    """

    asked: KeyedRequest
    id: str
    name: str
    earlier: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class KeyStanding:
    """An Idempotency-Key that another request has: its reply, or None while it is under way."""

    fingerprint: bytes = field(repr=False)
    reply: KeptReply | None


@dataclass(frozen=True, slots=True)
class UploadCounts:
    """Codes stored by an upload; ``total`` is always ``inserted + updated``."""

    inserted: int = 0
    updated: int = 0

    @property
    def total(self) -> int:
        """The number of valid codes read and stored."""
        return self.inserted + self.updated

    def __add__(self, other: "UploadCounts") -> "UploadCounts":
        return UploadCounts(self.inserted + other.inserted, self.updated + other.updated)


@dataclass(frozen=True, slots=True)
class InvalidRow:
    """A record that was not stored: the physical line it starts on (the first is 1), and why, without the code."""

    line: int
    reason: str


@dataclass(frozen=True, slots=True)
class UploadReport:
    """The outcome of an upload: what was stored, how many rows were invalid, and the first of those."""

    counts: UploadCounts
    invalid_count: int = 0
    invalid_samples: tuple[InvalidRow, ...] = ()
    upload_id: str | None = None
    """Of the resource that tells of the upload, where there is one."""


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file that an upload can read: its name, as the source calls it, and its length in bytes."""

    name: str
    size: int


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A place in an upload's file before which all is done: the codes are confirmed, the invalid rows are kept.

    By default, the beginning of the file.

    Attributes:
        offset: of the next record, in bytes of what is parsed: if the file is compressed, of what it holds.
        line: of the next record.
        after_cr: whether a LF there belongs to the CR before it.
        counts: of the codes before it.
        invalid_count, invalid_samples: of the rows before it.
        pieces: into how many pieces those rows were put.

    """

    offset: int = 0
    line: int = 1
    after_cr: bool = False
    counts: UploadCounts = UploadCounts()
    invalid_count: int = 0
    invalid_samples: tuple[InvalidRow, ...] = ()
    pieces: int = 0

    @property
    def place(self) -> tuple[int, int, bool] | None:
        """Where an extractor starts; None for the beginning, where there may be a byte order mark or a header."""
        return (self.offset, self.line, self.after_cr) if self.offset else None


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an upload has come: bytes parsed out of those the source holds, the codes stored, the invalid rows.

    ``pieces`` is into how many pieces the invalid rows were put that are kept; ``checkpoint`` where another process can
    go on.
    """

    bytes_done: int
    bytes_total: int
    counts: UploadCounts
    invalid_count: int = 0
    invalid_samples: tuple[InvalidRow, ...] = ()
    pieces: int = 0
    checkpoint: Checkpoint = Checkpoint()
    beyond: bool = False
    """Whether codes behind the checkpoint may have been stored."""


class UploadState(StrEnum):
    """Where an upload stands."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        """Whether it stays so."""
        return self not in {UploadState.QUEUED, UploadState.RUNNING}


@dataclass(frozen=True, slots=True)
class UploadOrder:
    """What is to be loaded: a file's codes, into a campaign, as a type."""

    campaign_id: str
    code_type: CodeType
    file_key: str
    header: bool = False
    strict: bool = False
    dry_run: bool = False
    """Only to tell what would be stored."""


@dataclass(frozen=True, slots=True)
class UploadFailure:
    """Why an upload failed, in a caller's terms: the code, the title and the detail of a problem.

    ``line`` is that of the row at which it ended, where it was a row.
    """

    code: str
    title: str
    detail: str
    line: int | None = None


@dataclass(frozen=True, slots=True)
class TakenBack:
    """How many codes of an upload were taken back, when that was last so, and whether it has come to its end."""

    count: int
    at: datetime
    done: bool


@dataclass(frozen=True, slots=True)
class Upload:
    """An upload as a resource. Instants are in UTC, with a resolution of a millisecond.

    Attributes:
        id: a UUID of version 7, so that later uploads have greater ones.
        codes_per_second: lately, while it runs; on the whole, when it has ended.
        seconds_left: as it seems, while it runs.

    """

    id: str
    order: UploadOrder
    state: UploadState
    updated: datetime
    progress: Progress
    codes_per_second: int = 0
    seconds_left: int | None = None
    started: datetime | None = None
    finished: datetime | None = None
    failure: UploadFailure | None = None
    taken_back: TakenBack | None = None


@dataclass(frozen=True, slots=True)
class Stamp:
    """What a word of an upload's owner carries besides how far it has come.

    Attributes:
        generation: how often the upload has been taken over; words of an earlier owner are not heeded.
        revision: counts the words of one owner; an earlier one that comes late is not heeded.
        attempts: how often the upload has been taken over since its checkpoint last moved.
        unsure: whether codes may have been inserted that are in no count.

    """

    generation: int
    revision: int
    attempts: int
    unsure: bool


@dataclass(frozen=True, slots=True)
class Claim:
    """An upload that a process has taken over, from where its checkpoint is.

    Attributes:
        generation, attempts, unsure: see Stamp.
        handed_over: whether the owner before left it to others, rather than going away without a word.
        cancelled: whether somebody wants it to end.
        saved: the instant at which its codes are saved; None where none has been written yet.
        etag: of the version of the file that has been read so far.

    """

    upload: Upload
    generation: int
    attempts: int
    unsure: bool
    handed_over: bool
    cancelled: bool
    saved: datetime | None
    etag: str | None

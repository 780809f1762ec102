"""What calls return, and how it is read from JSON. Members that nobody knows are passed over."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from codesvc.models import (
    Code,
    CodePage,
    CodeType,
    Counts,
    InvalidRow,
    Reservation,
    ReservedCode,
    Status,
    TakenBack,
    UploadCounts,
    UploadState,
)


@dataclass(frozen=True, slots=True)
class Problem:
    """Why an upload did not succeed: a stable name, and words for people."""

    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class Upload:
    """An upload as the service sees it.

    ``upload_id`` is None where the service does not keep uploads and replied when all was done. ``exact`` is False
    where the request had to be sent again while its first try may have been under way already: then codes that one try
    inserted are updated ones to the other, and ``counts`` is what the last one says. With ``dry_run``, nothing is
    stored, and ``counts`` says what would be.
    """

    upload_id: str | None
    state: UploadState
    counts: UploadCounts
    file_key: str = ""
    type: CodeType | None = None
    bytes_done: int = 0
    bytes_total: int | None = None
    invalid_count: int = 0
    invalid_samples: tuple[InvalidRow, ...] = ()
    codes_per_second: float | None = None
    seconds_left: float | None = None
    started_at: datetime | None = None
    updated_at: datetime | None = None
    finished_at: datetime | None = None
    problem: Problem | None = None
    exact: bool = True
    taken_back: TakenBack | None = None
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class Change:
    """What an assign or a release did: the length of the list as sent, and the codes that changed.

    Of a reservation, ``total`` is how many codes it still held.

    ``exact`` is False where a request had to be sent again while its first try may have taken effect already: every
    code is as it was asked to be, but those that the first try changed are not in ``updated``.
    """

    total: int
    updated: int
    exact: bool = True

    def __add__(self, other: "Change") -> "Change":
        return Change(self.total + other.total, self.updated + other.updated, self.exact and other.exact)


def read_counts(body: Mapping[str, Any]) -> Counts:
    """Read the reply of a count."""
    return Counts(int(body["available"]), int(body["reserved"]), int(body["assigned"]))


def read_change(body: Mapping[str, Any], *, exact: bool) -> Change:
    """Read the reply of an assign or a release."""
    count = body["count"]
    return Change(int(count["in"]), int(count["updated"]), exact)


def read_reservation(body: Mapping[str, Any]) -> Reservation:
    """Read the reply of a reserve, or a reservation as it stands."""
    # Its codes share few instants.
    instants: dict[str, datetime] = {}

    def instant(text: str) -> datetime:
        if text not in instants:
            instants[text] = datetime.fromisoformat(text)
        return instants[text]

    codes = tuple(
        ReservedCode(
            code=str(each["code"]),
            type=CodeType(each["type"]),
            reserve_id=str(each["reserveId"]),
            saved=instant(each["date"]["saved"]),
            reserved=instant(each["date"]["reserved"]),
        )
        for each in body["codes"]
    )
    return Reservation(str(body["reserveId"]), codes, _instant(body.get("expiresAt")))


def read_code(body: Mapping[str, Any]) -> Code:
    """Read the reply of a look-up."""
    dates = body["date"]
    return Code(
        code=str(body["code"]),
        type=CodeType(body["type"]),
        status=Status(body["status"]),
        saved=datetime.fromisoformat(dates["saved"]),
        reserve_id=body.get("reserveId"),
        reserved=_instant(dates.get("reserved")),
        assigned=_instant(dates.get("assigned")),
    )


def read_codes(body: Mapping[str, Any]) -> CodePage:
    """Read a page of codes."""
    return CodePage(tuple([read_code(each) for each in body["codes"]]), body.get("next"))


def read_uploads(body: Mapping[str, Any]) -> tuple[tuple[Upload, ...], str | None]:
    """Read a page of upload resources, and where the next begins."""
    return tuple(read_upload(each) for each in body["uploads"]), body.get("next")


def read_upload(body: Mapping[str, Any], *, exact: bool = True) -> Upload:
    """Read an upload resource, or the reply of a service that has none of them."""
    count, invalid, size = (body.get(name) or {} for name in ("count", "invalid", "bytes"))
    kind = body.get("type")
    return Upload(
        upload_id=body.get("uploadId"),
        state=UploadState(body.get("state", UploadState.SUCCEEDED)),
        counts=read_upload_counts(count),
        file_key=str(body.get("fileKey") or ""),
        type=None if kind is None else CodeType(kind),
        bytes_done=int(size.get("done") or 0),
        bytes_total=size.get("total"),
        invalid_count=int(invalid.get("count") or 0),
        invalid_samples=tuple(
            InvalidRow(int(row["line"]), str(row["reason"])) for row in invalid.get("samples") or ()
        ),
        codes_per_second=body.get("codesPerSecond"),
        seconds_left=body.get("secondsLeft"),
        started_at=_instant(body.get("startedAt")),
        updated_at=_instant(body.get("updatedAt")),
        finished_at=_instant(body.get("finishedAt")),
        problem=_problem(body.get("error")),
        exact=exact,
        taken_back=_taken_back(body.get("takenBack")),
        dry_run=bool(body.get("dryRun")),
    )


def read_upload_counts(count: Mapping[str, Any]) -> UploadCounts:
    """Read the member ``count`` of an upload."""
    return UploadCounts(int(count.get("inserted") or 0), int(count.get("updated") or 0))


def _taken_back(body: Mapping[str, Any] | None) -> TakenBack | None:
    if body is None:
        return None
    return TakenBack(int(body["count"]), datetime.fromisoformat(body["at"]), bool(body["done"]))


def _instant(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


def _problem(error: Any) -> Problem | None:
    if not isinstance(error, Mapping):
        return Problem("", str(error)) if error else None
    return Problem(str(error.get("code") or ""), str(error.get("detail") or error.get("title") or ""))

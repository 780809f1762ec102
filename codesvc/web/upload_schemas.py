"""The shapes of uploads as resources."""

import re
from datetime import datetime
from typing import Annotated, Any, ClassVar, Final

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field
from pydantic.json_schema import SkipJsonSchema
from pydantic_core import PydanticCustomError

from codesvc.models import CodeType, Upload, UploadState
from codesvc.web.schemas import DryRun, InvalidSample, RequestSchema, UploadCount, optional, rfc3339

MAX_PAGE: Final = 100
UPLOAD_ID_PATTERN: Final = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"

_upload_id = re.compile(UPLOAD_ID_PATTERN).fullmatch

_Size = Annotated[int, Field(ge=0)]


def _checked_after(value: str) -> str:
    if _upload_id(value) is None:
        raise PydanticCustomError("after", "is no id of an upload")
    return value


class UploadsQuery(RequestSchema):
    """Which uploads to show."""

    limit: Annotated[int, Field(ge=1, le=MAX_PAGE, description="How many to show at most.")] = 20
    after: (
        Annotated[
            str,
            AfterValidator(_checked_after),
            Field(
                description="Show those before this one: the `next` of the page before.",
                json_schema_extra={"pattern": f"^{UPLOAD_ID_PATTERN}$"},
            ),
        ]
        | SkipJsonSchema[None]
    ) = optional()

    problems: ClassVar[dict[str, str]] = {"limit": "invalidLimit", "after": "invalidAfter"}


def _truth(value: object) -> object:
    """Take the words of a query for what they say."""
    return {"true": True, "false": False}.get(value) if isinstance(value, str) else value


class DeleteQuery(RequestSchema):
    """Whether to take codes back."""

    takeBack: (  # noqa: N815 - as it is spelt in JSON
        Annotated[
            bool,
            BeforeValidator(_truth),
            Field(
                description="`true`: take its codes back, when it has ended; `false`: only cancel it. Without it, one "
                "that was cancelled less than a minute ago stays as it is."
            ),
        ]
        | SkipJsonSchema[None]
    ) = optional()

    problems: ClassVar[dict[str, str]] = {"takeBack": "invalidTakeBack"}


class UploadBytes(BaseModel):
    """How much of the file is done, out of all of it."""

    done: _Size
    total: _Size


class UploadInvalid(BaseModel):
    """How many rows were not stored, and the first hundred of them."""

    count: _Size
    samples: Annotated[list[InvalidSample], Field(max_length=100)]


class UploadError(BaseModel):
    """Why an upload failed: what the problem would have been as a reply."""

    code: str
    title: str
    detail: str


class UploadTakenBack(BaseModel):
    """Of one that was deleted: how many of its codes are, when that was last so, and whether all are that can be."""

    count: _Size
    at: datetime
    done: bool


class UploadResource(BaseModel):
    """An upload, and how far it has come. Instants are RFC 3339, UTC, with milliseconds."""

    uploadId: Annotated[str, Field(json_schema_extra={"format": "uuid"})]  # noqa: N815 - as it is spelt in JSON
    fileKey: str  # noqa: N815
    type: CodeType
    state: UploadState
    bytes: UploadBytes
    count: UploadCount
    invalid: UploadInvalid
    codesPerSecond: Annotated[  # noqa: N815
        int, Field(ge=0, description="Lately, while it runs; on the whole, when it has ended.")
    ]
    secondsLeft: Annotated[  # noqa: N815
        Annotated[int, Field(ge=0)] | None, Field(description="As it seems; null unless it runs.")
    ]
    startedAt: datetime | None  # noqa: N815
    updatedAt: datetime  # noqa: N815
    finishedAt: datetime | None  # noqa: N815
    error: Annotated[UploadError | None, Field(description="Null unless it failed.")]
    dryRun: DryRun = optional()  # noqa: N815
    takenBack: UploadTakenBack | SkipJsonSchema[None] = optional()  # noqa: N815


class UploadsReply(BaseModel):
    """A page of uploads, the latest first; `next` is there when there are more."""

    uploads: Annotated[list[UploadResource], Field(max_length=MAX_PAGE)]
    next: str | SkipJsonSchema[None] = optional()


def is_upload_id(text: str) -> bool:
    """Tell whether ``text`` may name an upload."""
    return _upload_id(text) is not None


def upload_resource(upload: Upload) -> dict[str, Any]:
    """Return the members of UploadResource."""
    progress = upload.progress
    counts = progress.counts
    failure = upload.failure
    resource: dict[str, Any] = {
        "uploadId": upload.id,
        "fileKey": upload.order.file_key,
        "type": upload.order.code_type,
        "state": upload.state,
        "bytes": {"done": progress.bytes_done, "total": progress.bytes_total},
        "count": {"in": counts.total, "inserted": counts.inserted, "updated": counts.updated},
        "invalid": {
            "count": progress.invalid_count,
            "samples": [{"line": row.line, "reason": row.reason} for row in progress.invalid_samples],
        },
        "codesPerSecond": upload.codes_per_second,
        "secondsLeft": upload.seconds_left,
        "startedAt": None if upload.started is None else rfc3339(upload.started),
        "updatedAt": rfc3339(upload.updated),
        "finishedAt": None if upload.finished is None else rfc3339(upload.finished),
        "error": None
        if failure is None
        else {"code": failure.code, "title": failure.title, "detail": failure.detail},
    }
    if upload.order.dry_run:
        resource["dryRun"] = True
    taken = upload.taken_back
    if taken is not None:
        resource["takenBack"] = {"count": taken.count, "at": rfc3339(taken.at), "done": taken.done}
    return resource

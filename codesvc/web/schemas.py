"""The shapes of requests and replies: what checks a request is what the OpenAPI document shows."""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Annotated, Any, ClassVar, Final, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
)
from pydantic.json_schema import SkipJsonSchema
from pydantic_core import PydanticCustomError

from codesvc.models import MAX_CODE_BYTES, Code, CodeType, Reservation, Status, UploadReport
from codesvc.web.problems import RequestError

CAMPAIGN_PATTERN: Final = r"[A-Za-z0-9._~-]{1,128}"
FILE_KEY_PATTERN: Final = rf"codes/({CAMPAIGN_PATTERN})/(tm|external)/([^\x00-\x1f\x7f]+)"
MAX_CODES_PAGE: Final = 1000
MAX_FILE_KEY_BYTES: Final = 1024
"""The longest key of S3 (Amazon S3 User Guide, Naming objects), in bytes of UTF-8."""

RESERVE_ID_PATTERN: Final = r"[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}"

_campaign = re.compile(CAMPAIGN_PATTERN).fullmatch
_file_key = re.compile(FILE_KEY_PATTERN).fullmatch
_reserve_id = re.compile(RESERVE_ID_PATTERN).fullmatch
_control = re.compile(r"[\x00-\x1f\x7f]").search
_surrogate = re.compile(r"[\ud800-\udfff]").search


# By identity, since it is part of the key of what is kept of queries: to hash its members costs as much as the rest.
@dataclass(frozen=True, slots=True, eq=False)
class Limits:
    """The sizes that a request is held to, and all of them together; bodies are in bytes, times in seconds.

    ``max_requests``, ``max_streams`` and ``max_lengthy`` are under way at once: ordinary ones, replies that are sent
    piece by piece, and uploads whose caller waits for the end. ``max_bodies`` is for all bodies together.
    """

    max_reserve: int = 10_000
    max_codes_per_request: int = 100_000
    reservation_ttl: int = 86_400
    max_body: int = 32 << 20
    operation_timeout: float = 28.0
    max_requests: int = 256
    max_streams: int = 1_000
    max_lengthy: int = 1_272
    max_bodies: int = 128 << 20


class RequestSchema(BaseModel):
    """What is sent. Members that nobody knows are passed over: a later version may send them."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)

    problems: ClassVar[dict[str, str]]
    """The code of the problem that a wrong value of each member is."""


RequestT = TypeVar("RequestT", bound=RequestSchema)


def _checked_file_key(key: str) -> str:
    if key.endswith(".gz") and not key.endswith(".csv.gz"):
        # Read as CSV, it would be taken for a file of broken rows, a few of which are not.
        raise PydanticCustomError("file_key", "names a compressed file, which would have to end in .csv.gz")
    match = _file_key(key)
    if match is None or ".." in match[3] or len(key.encode()) > MAX_FILE_KEY_BYTES:
        raise PydanticCustomError("file_key", "is not codes/{campaignId}/{type}/{name}")
    return key


def _not_too_many(value: Any, info: ValidationInfo) -> Any:
    if isinstance(value, list) and len(value) > _limits(info).max_codes_per_request:
        raise PydanticCustomError(
            "too_many", "has more than {most} codes", {"most": _limits(info).max_codes_per_request}
        )
    return value


def _whole(value: Any) -> Any:
    """Take 7.0 for the integer that it is to JSON Schema (2020-12, Validation, section 6.1.1)."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _not_too_large(count: int, info: ValidationInfo) -> int:
    if count > _limits(info).max_reserve:
        raise PydanticCustomError("too_large", "is more than {most}", {"most": _limits(info).max_reserve})
    return count


def _not_too_long(ttl: int, info: ValidationInfo) -> int:
    if ttl > _limits(info).reservation_ttl:
        raise PydanticCustomError("too_long", "is more than {most}", {"most": _limits(info).reservation_ttl})
    return ttl


def _not_above_count(least: int, info: ValidationInfo) -> int:
    if least > info.data.get("count", least):
        raise PydanticCustomError("above_count", "is more than count")
    return least


def _not_null(value: Any) -> Any:
    if value is None:
        raise PydanticCustomError("null", "is null")
    return value


def _checked_reserve_id(text: str) -> str:
    """Return an id as it is written here: upper-case digits are read, too (RFC 9562, section 4)."""
    if not is_reserve_id(text):
        raise PydanticCustomError("reserve_id", "is no id of a reservation")
    return text.lower()


def _limits(info: ValidationInfo) -> Limits:
    return info.context if isinstance(info.context, Limits) else Limits()


def optional() -> Any:
    """Declare a member that may be absent, but is never null."""

    def without_default(schema: dict[str, Any]) -> None:
        schema.pop("default", None)

    return Field(default=None, json_schema_extra=without_default)


# NOTE: strict mode would refuse a string for an enumeration outside of JSON.
_Type = Annotated[CodeType, Field(strict=False, description="The type of code.")]
_Status = Annotated[Status, Field(strict=False, description="The one status to count.")]


DryRun = (
    Annotated[
        Literal[True],
        Field(description="There, and true, if nothing was stored: the counts say what would be."),
    ]
    | SkipJsonSchema[None]
)


class UploadRequest(RequestSchema):
    """Names the file to load."""

    fileKey: Annotated[  # noqa: N815 - as it is spelt in JSON
        str,
        AfterValidator(_checked_file_key),
        Field(
            description="The object's key, `codes/{campaignId}/{type}/{name}`, at most 1024 bytes of UTF-8. "
            "What ends in `.csv.gz` is decompressed on the way.",
            examples=["codes/12345/tm/batch-001.csv", "codes/12345/tm/batch-002.csv.gz"],
            json_schema_extra={
                "pattern": rf"^codes/{CAMPAIGN_PATTERN}/(tm|external)/(?!.*(\.\.|(?<!\.csv)\.gz$))"
                r"[^\u0000-\u001f\u007f]+$",
                "maxLength": MAX_FILE_KEY_BYTES,
            },
        ),
    ]
    header: Annotated[bool, Field(description="Whether the first record is a header, to be skipped.")] = False
    strict: Annotated[bool, Field(description="Whether the first invalid row ends the upload.")] = False
    dryRun: Annotated[  # noqa: N815 - as it is spelt in JSON
        bool,
        Field(
            description="Whether only to tell what would be stored: reads and checks all, and stores nothing."
        ),
    ] = False

    problems = {
        "fileKey": "invalidFileKey",
        "header": "invalidJson",
        "strict": "invalidJson",
        "dryRun": "invalidJson",
    }


def _checked_place(code: str) -> str:
    # It need not be a code that is there, nor one that could be: only text, to be compared with codes.
    if _control(code) is not None or _surrogate(code) is not None:
        raise PydanticCustomError("place", "is no code")
    return code


class CodesQuery(RequestSchema):
    """Which codes to show."""

    type: Annotated[CodeType, Field(strict=False, description="Of one type only.")] | SkipJsonSchema[None] = (
        optional()
    )
    status: (
        Annotated[Status, Field(strict=False, description="In one status only.")] | SkipJsonSchema[None]
    ) = optional()
    after: (
        Annotated[
            str,
            AfterValidator(_checked_place),
            Field(
                description="Show those behind this code: the `next` of the page before.",
                min_length=1,
                max_length=MAX_CODE_BYTES,
                json_schema_extra={"pattern": "^[^\\u0000-\\u001f\\u007f]+$"},
            ),
        ]
        | SkipJsonSchema[None]
    ) = optional()
    limit: Annotated[
        int,
        Field(ge=1, le=MAX_CODES_PAGE, description="How many a page shows at most; a stream has no limit."),
    ] = 100

    problems = {
        "type": "invalidType",
        "status": "invalidStatus",
        "after": "invalidAfter",
        "limit": "invalidLimit",
    }


class CountQuery(RequestSchema):
    """Which codes to count."""

    type: _Type
    status: _Status | SkipJsonSchema[None] = optional()

    problems = {"type": "invalidType", "status": "invalidStatus"}


class ReserveRequest(RequestSchema):
    """How many codes to reserve, and of which type."""

    type: _Type
    count: Annotated[
        int,
        Field(ge=1, description="How many codes to reserve.", examples=[10]),
        BeforeValidator(_whole),
        AfterValidator(_not_too_large),
    ]

    ttl: Annotated[
        Annotated[
            int,
            Field(ge=1, description="Seconds that the hold lasts, if not as long as others.", examples=[900]),
            BeforeValidator(_whole),
            AfterValidator(_not_too_long),
        ]
        | SkipJsonSchema[None],
        BeforeValidator(_not_null),
    ] = optional()
    min: Annotated[
        Annotated[
            int,
            Field(
                ge=1,
                description="With fewer codes than so many, none is held. At most `count`.",
                examples=[10],
            ),
            BeforeValidator(_whole),
            AfterValidator(_not_above_count),
        ]
        | SkipJsonSchema[None],
        BeforeValidator(_not_null),
    ] = optional()

    problems = {"type": "invalidType", "count": "invalidCount", "ttl": "invalidTtl", "min": "invalidMin"}


class CodesRequest(RequestSchema):
    """What to assign or release: codes, or instead of them the reservation that holds them."""

    model_config = ConfigDict(
        json_schema_extra={"oneOf": [{"required": ["codes"]}, {"required": ["reserveId"]}]}
    )

    codes: Annotated[
        Annotated[
            list[str],
            Field(min_length=1, fail_fast=True, examples=[["ABC123", "DEF456"]]),
            BeforeValidator(_not_too_many),
        ]
        | SkipJsonSchema[None],
        BeforeValidator(_not_null),
        Field(repr=False),
    ] = optional()
    reserveId: Annotated[  # noqa: N815 - as it is spelt in JSON
        Annotated[
            str,
            AfterValidator(_checked_reserve_id),
            Field(
                description="A reservation: all codes that it still holds.",
                json_schema_extra={"pattern": f"^{RESERVE_ID_PATTERN}$"},
            ),
        ]
        | SkipJsonSchema[None],
        BeforeValidator(_not_null),
    ] = optional()

    problems = {"codes": "invalidCodes", "reserveId": "invalidReserveId"}


class UploadCount(BaseModel):
    """Codes that an upload stored; `in` is always the sum of the other two."""

    model_config = ConfigDict(
        json_schema_extra={"example": {"in": 100000, "inserted": 98000, "updated": 2000}}
    )

    in_: Annotated[int, Field(alias="in", ge=0)]
    inserted: Annotated[int, Field(ge=0)]
    updated: Annotated[int, Field(ge=0)]


class InvalidSample(BaseModel):
    """A row that was not stored: the physical line on which it starts (the first is 1), and why."""

    line: Annotated[int, Field(ge=1)]
    reason: str


class InvalidRows(BaseModel):
    """How many rows were not stored, and the first hundred of them."""

    count: Annotated[int, Field(ge=1)]
    samples: Annotated[list[InvalidSample], Field(max_length=100)]


class UploadReply(BaseModel):
    """What an upload did; `invalid` is there only when a row was invalid."""

    count: UploadCount
    invalid: InvalidRows | SkipJsonSchema[None] = optional()
    dryRun: DryRun = optional()  # noqa: N815


class CountReply(BaseModel):
    """Codes by status; just the one asked for, when one was."""

    model_config = ConfigDict(
        json_schema_extra={
            "minProperties": 1,
            "example": {"available": 50000, "reserved": 1000, "assigned": 49000},
        }
    )

    available: Annotated[int, Field(ge=0)] | SkipJsonSchema[None] = optional()
    reserved: Annotated[int, Field(ge=0)] | SkipJsonSchema[None] = optional()
    assigned: Annotated[int, Field(ge=0)] | SkipJsonSchema[None] = optional()


class CodeDates(BaseModel):
    """When a code was stored and when it was reserved: RFC 3339, UTC, milliseconds."""

    saved: datetime
    reserved: datetime


class ReservedCodeReply(BaseModel):
    """One code of a reservation."""

    code: str
    type: CodeType
    reserveId: str  # noqa: N815 - as it is spelt in JSON
    date: CodeDates


class ReserveReply(BaseModel):
    """What was reserved: possibly fewer codes than asked for, possibly none."""

    reserveId: Annotated[str, Field(json_schema_extra={"format": "uuid"})]  # noqa: N815
    codes: list[ReservedCodeReply]
    count: Annotated[int, Field(ge=0)]
    expiresAt: Annotated[datetime, Field(description="When the hold ends by itself.")]  # noqa: N815


class ReservationReply(BaseModel):
    """What a live reservation still holds; `type` is that of most of its codes, should an upload have changed some."""

    reserveId: Annotated[str, Field(json_schema_extra={"format": "uuid"})]  # noqa: N815
    type: CodeType
    codes: Annotated[list[ReservedCodeReply], Field(min_length=1)]
    count: Annotated[int, Field(ge=1)]
    expiresAt: datetime  # noqa: N815


class CodeStatusDates(BaseModel):
    """When a code was stored, reserved and assigned, as far as it was: RFC 3339, UTC, milliseconds."""

    saved: datetime
    reserved: datetime | SkipJsonSchema[None] = optional()
    assigned: datetime | SkipJsonSchema[None] = optional()


class CodeReply(BaseModel):
    """One code; `reserveId` and `date.reserved` are there while it is held, or if it was assigned while it was."""

    code: str
    type: CodeType
    status: Status
    reserveId: str | SkipJsonSchema[None] = optional()  # noqa: N815 - as it is spelt in JSON
    date: CodeStatusDates


class CodesReply(BaseModel):
    """A page of codes, in the order of their UTF-8 bytes; `next` is there when there may be more."""

    codes: Annotated[list[CodeReply], Field(max_length=MAX_CODES_PAGE)]
    next: str | SkipJsonSchema[None] = optional()


class ChangeCount(BaseModel):
    """How many codes were sent, or held by the reservation, and how many of them changed."""

    model_config = ConfigDict(json_schema_extra={"example": {"in": 2, "updated": 2}})

    in_: Annotated[int, Field(alias="in", ge=0)]
    updated: Annotated[int, Field(ge=0)]


class ChangeReply(BaseModel):
    """What an assign or a release did."""

    count: ChangeCount


class StatusReply(BaseModel):
    """The process answers."""

    status: Literal["ok"]


class TokenReply(BaseModel):
    """A token for development."""

    token: str


class ProblemReply(BaseModel):
    """A problem (RFC 9457). `line` and `count` are there for `invalidRow`, `notCsv` and `corruptFile` only."""

    model_config = ConfigDict(extra="allow")

    type: Annotated[str, Field(json_schema_extra={"format": "uri-reference"})]
    title: str
    status: Annotated[int, Field(ge=400, le=599)]
    detail: str
    code: str
    correlationId: str  # noqa: N815 - as it is spelt in JSON
    line: Annotated[int, Field(ge=1)] | SkipJsonSchema[None] = optional()
    count: UploadCount | SkipJsonSchema[None] = optional()


def parse(model: type[RequestT], data: Any, limits: Limits) -> RequestT:
    """Check ``data`` against ``model``.

    Raises:
        RequestError: with the code that the contract gives to the first member that is wrong.

    """
    try:
        return model.model_validate(data, context=limits)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    member = str(first["loc"][0])
    code = model.problems[member]
    if code == "invalidCodes" and (data.get("codes") is None or data["codes"] == []):
        code = "emptyCodes"
    raise RequestError(code, f"{member}: {first['msg']}")


def parse_change(data: Mapping[str, Any], limits: Limits) -> CodesRequest:
    """Check what is to be assigned or released: codes or a reservation, and not both.

    Raises:
        RequestError: emptyCodes, invalidCodes or invalidReserveId.

    """
    if "reserveId" in data and "codes" in data:
        raise RequestError("invalidCodes", "codes: are there beside reserveId")
    if "reserveId" not in data and "codes" not in data:
        raise RequestError("emptyCodes", "codes: are missing, and so is reserveId")
    return parse(CodesRequest, data, limits)


def checked_campaign_id(campaign_id: str) -> str:
    """Return ``campaign_id`` as it is.

    Raises:
        RequestError: invalidCampaignId.

    """
    if not is_campaign_id(campaign_id):
        raise RequestError("invalidCampaignId", "A campaign id is 1 to 128 characters of A-Z a-z 0-9 . _ ~ -")
    return campaign_id


@lru_cache(maxsize=1024)
def is_campaign_id(text: str) -> bool:
    """Tell whether ``text`` may name a campaign.

    The dot segments may not: RFC 3986, section 5.2.4, has every client remove them from a path.
    """
    return _campaign(text) is not None and text not in {".", ".."}


def is_reserve_id(text: str) -> bool:
    """Tell whether ``text`` may name a reservation: whether it is written as a UUID is."""
    return _reserve_id(text) is not None


def split_file_key(key: str) -> tuple[str, CodeType]:
    """Return the campaign and the type that a well-formed file key names."""
    match = _file_key(key)
    if match is None:
        raise ValueError("not a file key")
    return match[1], CodeType(match[2])


def upload_reply(report: UploadReport, *, dry_run: bool = False) -> dict[str, Any]:
    """Return the members of UploadReply."""
    counts = report.counts
    reply: dict[str, Any] = {
        "count": {"in": counts.total, "inserted": counts.inserted, "updated": counts.updated}
    }
    if report.invalid_count:
        reply["invalid"] = {
            "count": report.invalid_count,
            "samples": [{"line": row.line, "reason": row.reason} for row in report.invalid_samples[:100]],
        }
    if dry_run:
        reply["dryRun"] = True
    return reply


def is_code(text: str) -> bool:
    """Tell whether ``text`` may be a code: 1 to 256 bytes of UTF-8 without control characters."""
    try:
        size = len(text.encode())
    except UnicodeEncodeError:  # bytes of a path that are no UTF-8
        return False
    return 1 <= size <= MAX_CODE_BYTES and _control(text) is None


def code_reply(code: Code) -> dict[str, Any]:
    """Return the members of CodeReply."""
    reply: dict[str, Any] = {"code": code.code, "type": code.type, "status": code.status}
    if code.reserve_id is not None:
        reply["reserveId"] = code.reserve_id
    dates = {"saved": code.saved, "reserved": code.reserved, "assigned": code.assigned}
    reply["date"] = {name: rfc3339(instant) for name, instant in dates.items() if instant is not None}
    return reply


def reserve_reply(reservation: Reservation) -> dict[str, Any]:
    """Return the members of ReserveReply."""
    # A reservation's codes share few instants, and neighbours share the objects: to hash a datetime costs more than to
    # write it into the reply.
    dates: dict[int, str] = {}

    def text(instant: datetime) -> str:
        known = dates.get(id(instant))
        if known is None:
            known = dates[id(instant)] = rfc3339(instant)
        return known

    reply: dict[str, Any] = {
        "reserveId": reservation.reserve_id,
        "codes": [
            {
                "code": each.code,
                "type": each.type,
                "reserveId": each.reserve_id,
                "date": {"saved": text(each.saved), "reserved": text(each.reserved)},
            }
            for each in reservation.codes
        ],
        "count": len(reservation.codes),
    }
    if reservation.expires is not None:
        reply["expiresAt"] = rfc3339(reservation.expires)
    return reply


def reservation_reply(reservation: Reservation) -> dict[str, Any]:
    """Return the members of ReservationReply."""
    ((most, _),) = Counter(each.type for each in reservation.codes).most_common(1)
    return reserve_reply(reservation) | {"type": most}


def rfc3339(instant: datetime) -> str:
    """Write an instant in UTC with exactly three decimals (RFC 3339, section 5.6); a naive one is UTC."""
    if instant.tzinfo is not None:
        instant = instant.astimezone(UTC)
    return instant.isoformat(timespec="milliseconds")[:23] + "Z"

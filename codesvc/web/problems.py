"""Errors as problem+json (RFC 9457), and the one table that maps the domain's errors to HTTP.

The member ``type`` is ``urn:codesvc:problem:`` and the member ``code``: a name to compare, not an address
to fetch.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

import orjson
from aiohttp import hdrs, web

from codesvc.errors import (
    CodesvcError,
    CorruptFileError,
    DatabaseUnavailableError,
    DrainingError,
    InvalidRowError,
    KeyInUseError,
    KeyReusedError,
    NotCsvError,
    NotEnoughCodesError,
    NotFoundError,
    OverloadedError,
    SourceChangedError,
    SourceNotFoundError,
    StorageUnavailableError,
    TooManyUploadsError,
    UploadCancelledError,
    UploadHandedOverError,
    UploadInterruptedError,
    UploadRejectedError,
)
from codesvc.models import Upload, UploadCounts, UploadFailure

PROBLEM_TYPE: Final = "application/problem+json"
TYPE_PREFIX: Final = "urn:codesvc:problem:"


@dataclass(frozen=True, slots=True)
class Problem:
    """What is the same for every problem of one code; ``retry_after`` is in seconds."""

    status: int
    title: str
    retry_after: int | None = None


PROBLEMS: Final[Mapping[str, Problem]] = {
    "badRequest": Problem(400, "The request is not valid HTTP"),
    "invalidJson": Problem(400, "The body is not what was expected"),
    "invalidFileKey": Problem(400, "The file key is missing or malformed"),
    "campaignMismatch": Problem(400, "The file key names another campaign than the path"),
    "invalidType": Problem(400, "The type of code is missing or unknown"),
    "invalidStatus": Problem(400, "The status is unknown"),
    "invalidCount": Problem(400, "The count is missing or out of range"),
    "invalidTtl": Problem(400, "The length of the hold is out of range"),
    "invalidMin": Problem(400, "The least number of codes is out of range"),
    "invalidLimit": Problem(400, "The limit is out of range"),
    "invalidAfter": Problem(400, "The place to go on from is malformed"),
    "invalidTakeBack": Problem(400, "Whether to take back is neither true nor false"),
    "invalidCampaignId": Problem(400, "The campaign id is malformed"),
    "emptyCodes": Problem(400, "The list of codes is missing or empty"),
    "invalidCodes": Problem(400, "The list of codes is malformed or too long"),
    "invalidReserveId": Problem(400, "The id of the reservation is malformed"),
    "invalidIdempotencyKey": Problem(400, "The idempotency key is malformed"),
    "unauthorized": Problem(401, "A valid token is required"),
    "supremeUserRequired": Problem(401, "The token does not belong to a supreme user"),
    "notFound": Problem(404, "There is nothing at this address"),
    "fileNotFound": Problem(404, "The file does not exist"),
    "methodNotAllowed": Problem(405, "The method is not allowed here"),
    "notAcceptable": Problem(406, "There is no such representation"),
    "requestTimeout": Problem(408, "The request was not sent in time"),
    "fileChanged": Problem(409, "The file was replaced while it was being read"),
    "uploadCancelled": Problem(409, "The upload was cancelled"),
    "notEnoughCodes": Problem(409, "Fewer codes are available than asked for at least"),
    "idempotencyKeyInUse": Problem(
        409, "The first request with this idempotency key is still under way", retry_after=1
    ),
    "payloadTooLarge": Problem(413, "The body is too large"),
    "unsupportedMediaType": Problem(415, "The body is not JSON"),
    "invalidRow": Problem(422, "The file holds an invalid row"),
    "notCsv": Problem(422, "The file is not CSV"),
    "corruptFile": Problem(422, "The compressed file is damaged"),
    "idempotencyKeyReused": Problem(422, "The idempotency key was used for another request"),
    "internalError": Problem(500, "The service failed"),
    "storageUnavailable": Problem(503, "The object store is not available", retry_after=5),
    "databaseUnavailable": Problem(503, "The database is not available", retry_after=5),
    "keysUnavailable": Problem(503, "The keys that verify tokens are not available", retry_after=5),
    "metricsUnavailable": Problem(503, "The metrics are not available", retry_after=1),
    "overloaded": Problem(503, "The service has as much to do as it can", retry_after=1),
    "tooManyUploads": Problem(503, "Too many uploads are under way", retry_after=15),
    "interrupted": Problem(503, "The processes that ran the upload are gone", retry_after=1),
    "draining": Problem(503, "This process is shutting down", retry_after=1),
}

_DOMAIN: Final[Mapping[type[CodesvcError], str]] = {
    DatabaseUnavailableError: "databaseUnavailable",
    StorageUnavailableError: "storageUnavailable",
    DrainingError: "draining",
    NotFoundError: "notFound",
    NotEnoughCodesError: "notEnoughCodes",
    SourceNotFoundError: "fileNotFound",
    SourceChangedError: "fileChanged",
    InvalidRowError: "invalidRow",
    NotCsvError: "notCsv",
    CorruptFileError: "corruptFile",
    OverloadedError: "overloaded",
    TooManyUploadsError: "tooManyUploads",
    UploadCancelledError: "uploadCancelled",
    UploadInterruptedError: "interrupted",
    KeyInUseError: "idempotencyKeyInUse",
    KeyReusedError: "idempotencyKeyReused",
}

_HTTP: Final[Mapping[int, str]] = {
    404: "notFound",
    405: "methodNotAllowed",
    413: "payloadTooLarge",
    415: "unsupportedMediaType",
}

_UNTOLD: Final = "Quote the correlation ID when you report this."


class RequestError(CodesvcError):
    """A request that is refused at the edge.

    Attributes:
        code: a key of PROBLEMS.
        headers: what the response carries besides the usual.

    """

    def __init__(self, code: str, detail: str, *, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.code = code
        self.headers: Mapping[str, str] = headers or {}


def problem_code(error: Exception) -> str:
    """Return the code of the problem that ``error`` is to the caller."""
    if isinstance(error, RequestError):
        return error.code
    for kind in type(error).__mro__:
        code = _DOMAIN.get(kind)
        if code is not None:
            return code
    if isinstance(error, web.HTTPException):
        return _HTTP.get(error.status, "badRequest" if error.status < 500 else "internalError")
    return "internalError"


def failure(error: Exception) -> UploadFailure:
    """Tell ``error`` as the failure of an upload: the problem that it would be as a reply."""
    code = problem_code(error)
    line = error.line if isinstance(error, UploadRejectedError) else None
    return UploadFailure(code, PROBLEMS[code].title, _detail(error, code), line)


def _detail(error: Exception, code: str) -> str:
    if isinstance(error, CodesvcError) and code != "internalError":
        return str(error)
    return PROBLEMS[code].title if isinstance(error, web.HTTPException) else _UNTOLD


def problem_response(error: Exception, *, correlation_id: str) -> web.Response:
    """Tell ``error`` to the caller; of one that codesvc did not raise on purpose, only that it happened."""
    code = problem_code(error)
    if isinstance(error, web.HTTPException) and code == "badRequest":
        return _response(
            code,
            HTTPStatus(error.status).phrase,
            correlation_id=correlation_id,
            status=error.status,
        )
    detail = _detail(error, code)
    headers: dict[str, str] = {}
    members: dict[str, Any] = {}
    if isinstance(error, RequestError):
        headers.update(error.headers)
    elif isinstance(error, UploadHandedOverError):
        headers[hdrs.LOCATION] = f"/v1/{error.campaign_id}/uploads/{error.upload_id}"
    elif isinstance(error, UploadRejectedError):
        members = _rejection(error.line, error.counts)
    return _response(code, detail, correlation_id=correlation_id, headers=headers, members=members)


def rejection_response(upload: Upload, *, correlation_id: str) -> web.Response | None:
    """Tell that an upload ended at a row, as its own reply does; None where it ended otherwise."""
    failure = upload.failure
    if failure is None or failure.line is None:
        return None
    members = _rejection(failure.line, upload.progress.counts)
    return _response(failure.code, failure.detail, correlation_id=correlation_id, members=members)


def _rejection(line: int, counts: UploadCounts) -> dict[str, Any]:
    stored = {"in": counts.total, "inserted": counts.inserted, "updated": counts.updated}
    return {"line": line, "count": stored}


def _response(
    code: str,
    detail: str,
    *,
    correlation_id: str,
    status: int | None = None,
    headers: Mapping[str, str] | None = None,
    members: Mapping[str, Any] | None = None,
) -> web.Response:
    problem = PROBLEMS[code]
    status = status or problem.status
    body = {
        "type": TYPE_PREFIX + code,
        "title": problem.title,
        "status": status,
        "detail": detail or problem.title,
        "code": code,
        "correlationId": correlation_id,
        **(members or {}),
    }
    response = web.Response(body=orjson.dumps(body), status=status, headers=headers)
    response.headers[hdrs.CONTENT_TYPE] = PROBLEM_TYPE
    if problem.retry_after is not None:
        response.headers[hdrs.RETRY_AFTER] = str(problem.retry_after)
    return response

"""What a call can end with. No message holds a code, a token or an address with either in it."""

from typing import Final

from codesvc.client.replies import Change, Upload
from codesvc.errors import CodesvcError
from codesvc.models import UploadCounts


class CodesvcClientError(CodesvcError):
    """The base of everything that a call raises on purpose; the message is one line.

    Attributes:
        transient: whether the same call may succeed later.
        may_have_taken_effect: whether the service may have done what was asked, though nobody was told so.
        retry_after: seconds that the service asked to wait, if it did.
        correlation_id: what finds the call in the service's logs.
        done: of an assign or a release in several requests, what those before the one that failed did.

    """

    transient = False
    may_have_taken_effect = False
    retry_after: float | None = None
    correlation_id: str | None = None
    done: Change | None = None


class CannotConnectError(CodesvcClientError):
    """There was no connection to send the request on: no such host, nobody listens, no trust. Nothing happened."""

    def __init__(self, reason: str, transient: bool = True) -> None:
        super().__init__(reason, transient)
        self.transient = transient

    def __str__(self) -> str:
        return str(self.args[0])


class NoReplyError(CodesvcClientError):
    """The request was sent, and no whole reply came: the connection broke, or the time was up."""

    transient = True
    may_have_taken_effect = True


class NotCodesvcError(CodesvcClientError):
    """What answered does not speak as codesvc does: the address may be wrong."""

    may_have_taken_effect = True


class CodesvcApiError(CodesvcClientError):
    """The service refused, or failed.

    Attributes:
        status: of HTTP.
        code: the stable name of the problem, such as ``invalidType``; empty where somebody else than codesvc answered.
        detail: what was wrong, for people.

    """

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        correlation_id: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(status, code, detail, correlation_id, retry_after)
        self.status = status
        self.code = code
        self.detail = detail
        self.correlation_id = correlation_id
        self.retry_after = retry_after
        self.transient = status in TRANSIENT_STATUSES
        self.may_have_taken_effect = status >= 500 and code not in NOTHING_HAPPENED

    def __str__(self) -> str:
        told = [self.code] if self.code else []
        told.append(f"HTTP {self.status}")
        if self.correlation_id:
            told.append(f"correlation id {self.correlation_id}")
        return f"{self.detail} ({', '.join(told)})"


class BadRequestError(CodesvcApiError):
    """400, 405, 413, 415: the request is wrong, and will be the next time."""


class UnauthorizedError(CodesvcApiError):
    """401, 403: there is no token, or none that counts."""


class NotFoundError(CodesvcApiError):
    """404: no such file, upload, code or address."""


class ConflictError(CodesvcApiError):
    """409: the file was replaced while it was read, or something else was in the way."""


class NotEnoughCodesError(ConflictError):
    """409 ``notEnoughCodes``: fewer codes are available than a reserve's ``minimum``, and none is held."""


class RejectedError(CodesvcApiError):
    """422: the file holds a row that ended the upload.

    Attributes:
        line: the physical line on which the row starts, the file's first being 1; None if the service did not say.
        counts: what was stored before it.

    """

    line: int | None = None
    counts: UploadCounts | None = None


class TooManyRequestsError(CodesvcApiError):
    """429: somebody in between limits the rate."""


class ServerError(CodesvcApiError):
    """500 and all other 5xx but 503: it failed."""


class UnavailableError(CodesvcApiError):
    """503: the service, or something that it depends on, cannot serve now."""


class UploadUnderWayError(CodesvcClientError):
    """An upload that is to be taken back has not ended."""

    def __init__(self, upload: Upload) -> None:
        super().__init__(upload)
        self.upload = upload

    def __str__(self) -> str:
        return f"the upload {self.upload.upload_id} is under way: cancel it first"


class UploadEndedError(CodesvcClientError):
    """An upload that was followed did not succeed. ``transient`` says whether to begin it anew may help; it is safe.

    Attributes:
        upload: how it ended; what it had stored until then stays stored.

    """

    def __init__(self, upload: Upload) -> None:
        super().__init__(upload)
        self.upload = upload
        self.transient = upload.problem is not None and upload.problem.code in PASSING

    def __str__(self) -> str:
        problem = self.upload.problem
        told = "" if problem is None else f": {problem.detail} ({problem.code})"
        return f"the upload {self.upload.upload_id} {_ENDED[type(self)]}{told}"


class UploadFailedError(UploadEndedError):
    """It failed; ``upload.problem`` says why."""


class UploadCancelledError(UploadEndedError):
    """Somebody cancelled it."""


TRANSIENT_STATUSES: Final = frozenset({429, 502, 503, 504})
NOTHING_HAPPENED: Final = frozenset({"draining", "keysUnavailable", "tooManyUploads"})
"""Problems of a 503 that are told before anything is done."""
PASSING: Final = frozenset({"databaseUnavailable", "draining", "interrupted", "storageUnavailable"})
"""Problems of an upload after which another may succeed."""

_ENDED: Final = {
    UploadEndedError: "ended",
    UploadFailedError: "failed",
    UploadCancelledError: "was cancelled",
}
_BY_STATUS: Final[dict[int, type[CodesvcApiError]]] = {
    401: UnauthorizedError,
    403: UnauthorizedError,
    404: NotFoundError,
    409: ConflictError,
    422: RejectedError,
    429: TooManyRequestsError,
    503: UnavailableError,
}


def api_error_type(status: int, code: str = "") -> type[CodesvcApiError]:
    """Return the class for a status of 300 or more, and the code of a problem."""
    if (status, code) == (409, "notEnoughCodes"):
        return NotEnoughCodesError
    if status in _BY_STATUS:
        return _BY_STATUS[status]
    return ServerError if status >= 500 else BadRequestError

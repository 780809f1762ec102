"""A client of codesvc's HTTP API, for asyncio.

    async with Client("http://127.0.0.1:8080", token=token) as codes:
        upload = await codes.upload("codes/summer/tm/batch-001.csv", progress=print)
        lent = await codes.reserve("summer", CodeType.TM, 10)
        await codes.assign("summer", [each.code for each in lent.codes])

It needs aiohttp, orjson and yarl, and nothing else of what the service needs.

What is tried again, after a pause, until the ``RetryPolicy`` is used up:

=============================================  =========  ======  ==========================  =======
what happened                                  took       reads,  upload, assign, release     reserve
                                               effect     get_*
=============================================  =========  ======  ==========================  =======
no connection: refused, unknown host, timeout  no         yes     yes                         yes
the certificate is not trusted, no TLS         no         no      no                          no
429                                            no         yes     yes                         yes
503 ``draining``, ``keysUnavailable``,         no         yes     yes                         yes
``tooManyUploads``
503 ``databaseUnavailable``                    perhaps    yes     yes; counts tell less       no
503 ``storageUnavailable``                     perhaps    yes     yes; counts tell less       no
502, 503, 504 of somebody in between           perhaps    yes     yes; counts tell less       no
the connection broke, or no reply in time      perhaps    yes     yes; counts tell less       no
401 where ``token`` gives another one          no         once    once                        once
500, and everything else below 500             see error  no      no                          no
=============================================  =========  ======  ==========================  =======

"Counts tell less": to assign a code twice leaves it as to assign it once, but the second time counts nothing; the
result's ``exact`` is then False. A reserve that is sent twice may hold twice as many codes, half of which nobody knows
of; so it is not, the error has ``may_have_taken_effect`` set, and those codes are available again when their hold ends.
``reserve(repeat=True)`` accepts that. The DELETE that cancels an upload goes by the last column, too.

Every try of an upload, reserve, assign or release carries one ``Idempotency-Key``. A service that remembers keys gives
the first try's reply to the others, which is exact; then all that is transient is tried again in every column, and so
is a 409 with ``Retry-After`` (the first try is still under way), for as long as the policy has time. Where the first
try did a part of it and failed, another begins anew, and its counts tell less. The client takes a service for one of
those once a reply has carried the key back in ``Idempotency-Key``, or from the start with ``Client(idempotency=True)``.
While pods of an older version, which forget keys, serve beside newer ones, ``idempotency=False`` keeps to the table.
"""

from codesvc.client.api import Client
from codesvc.client.errors import (
    BadRequestError,
    CannotConnectError,
    CodesvcApiError,
    CodesvcClientError,
    ConflictError,
    NoReplyError,
    NotCodesvcError,
    NotEnoughCodesError,
    NotFoundError,
    RejectedError,
    ServerError,
    TooManyRequestsError,
    UnauthorizedError,
    UnavailableError,
    UploadCancelledError,
    UploadEndedError,
    UploadFailedError,
    UploadUnderWayError,
)
from codesvc.client.exports import ExportForm
from codesvc.client.replies import Change, Problem, Upload
from codesvc.client.retries import RetryPolicy
from codesvc.client.transport import TokenProvider
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

__all__ = [
    "BadRequestError",
    "CannotConnectError",
    "Change",
    "Client",
    "Code",
    "CodePage",
    "CodeType",
    "CodesvcApiError",
    "CodesvcClientError",
    "ConflictError",
    "Counts",
    "ExportForm",
    "InvalidRow",
    "NoReplyError",
    "NotCodesvcError",
    "NotEnoughCodesError",
    "NotFoundError",
    "Problem",
    "RejectedError",
    "Reservation",
    "ReservedCode",
    "RetryPolicy",
    "ServerError",
    "Status",
    "TakenBack",
    "TokenProvider",
    "TooManyRequestsError",
    "UnauthorizedError",
    "UnavailableError",
    "Upload",
    "UploadCancelledError",
    "UploadCounts",
    "UploadEndedError",
    "UploadFailedError",
    "UploadState",
    "UploadUnderWayError",
]

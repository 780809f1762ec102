"""What can go wrong, in the domain's terms. A leaf: no HTTP status, no driver's exception.

Every message is fit for a caller's eyes: no code, no secret, no driver's text.
"""

from codesvc.models import InvalidRow, UploadCounts


class CodesvcError(Exception):
    """The base of every error that codesvc raises on purpose."""


class SettingsError(CodesvcError):
    """A setting is missing or malformed; the message is one line that names the variable."""


class DatabaseUnavailableError(CodesvcError):
    """MongoDB did not answer in time, or answered that it cannot serve now. Sending the request again is safe."""


class StorageUnavailableError(CodesvcError):
    """The object store did not answer in time, or refused."""


class DrainingError(CodesvcError):
    """The process is going away; another will serve the request."""


class UploadHandedOverError(DrainingError):
    """The upload goes on in another process, or soon will."""

    def __init__(self, message: str, campaign_id: str, upload_id: str) -> None:
        super().__init__(message)
        self.campaign_id = campaign_id
        self.upload_id = upload_id


class NotFoundError(CodesvcError):
    """There is nothing by that name."""


class NotEnoughCodesError(CodesvcError):
    """Fewer codes are available than a reserve would have at least; it holds none."""


class SourceNotFoundError(CodesvcError):
    """The file of an upload does not exist."""


class SourceChangedError(CodesvcError):
    """The file of an upload was replaced while it was being read."""


class SourceDamagedError(CodesvcError):
    """A compressed file cannot be decompressed any further; the message says why, in a few words."""


class OverloadedError(CodesvcError):
    """There is more to do at the moment than can be done in time; nothing was begun."""


class TooManyUploadsError(CodesvcError):
    """As many uploads run and wait in this process as it takes."""


class UploadCancelledError(CodesvcError):
    """Somebody cancelled the upload."""


class UploadInterruptedError(CodesvcError):
    """One process after the other that ran the upload went away without a word."""


class KeyReusedError(CodesvcError):
    """An Idempotency-Key was sent before, with another request."""


class KeyInUseError(CodesvcError):
    """The first request with an Idempotency-Key is still under way."""


class UploadRejectedError(CodesvcError):
    """An upload ended at a row. ``counts`` tells what was stored before it.

    Attributes:
        line: the physical line on which the row starts; the file's first is 1.
        counts: the codes of earlier rows, all of them stored.

    """

    def __init__(self, row: InvalidRow, counts: UploadCounts) -> None:
        super().__init__(f"line {row.line}: {row.reason}")
        self.line = row.line
        self.counts = counts


class InvalidRowError(UploadRejectedError):
    """A strict upload met an invalid row."""


class NotCsvError(UploadRejectedError):
    """A record was longer than any real record is: the file is not CSV, or a quote was never closed."""


class CorruptFileError(UploadRejectedError):
    """A compressed file is damaged, cut off, or not compressed at all; ``line`` is the first that could not be read."""


class DatabaseRefusedError(CodesvcError):
    """MongoDB refused a command for a reason that sending it again will not mend (a validator, missing rights)."""

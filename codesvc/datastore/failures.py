"""What the driver raises, told in the domain's terms.

A driver's message may quote a document, so none ever leaves this room: the domain's errors carry words of their own,
and the number of the server's error where it has one.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from bson.errors import BSONError
from pymongo.errors import (
    AutoReconnect,
    BulkWriteError,
    ConnectionFailure,
    ExecutionTimeout,
    OperationFailure,
    PyMongoError,
    WaitQueueTimeoutError,
)

from codesvc.errors import DatabaseRefusedError, DatabaseUnavailableError

RETRYABLE_CODES: Final = frozenset(
    {
        6,  # HostUnreachable
        7,  # HostNotFound
        89,  # NetworkTimeout
        91,  # ShutdownInProgress
        134,  # ReadConcernMajorityNotAvailableYet
        189,  # PrimarySteppedDown
        262,  # ExceededTimeLimit
        9001,  # SocketException
        10107,  # NotWritablePrimary
        11600,  # InterruptedAtShutdown
        11602,  # InterruptedDueToReplStateChange
        13435,  # NotPrimaryNoSecondaryOk
        13436,  # NotPrimaryOrSecondary
    }
)
"""Errors after which a retryable write is sent again (the drivers' specification of retryable writes)."""

_PASSING_CODES: Final = RETRYABLE_CODES | {
    18,  # AuthenticationFailed: seen while credentials are rotated
    24,  # LockTimeout
    46,  # LockBusy
    50,  # MaxTimeMSExpired
    64,  # WriteConcernFailed: not replicated in time
    112,  # WriteConflict
    133,  # FailedToSatisfyReadPreference
    202,  # NetworkInterfaceExceededTimeLimit
    225,  # TransactionTooOld
    251,  # NoSuchTransaction
    11601,  # Interrupted
    14031,  # OutOfDiskSpace
}


# The server's own word that another try may succeed, whatever the code (MongoDB manual, "Transaction Error Handling").
_PASSING_LABELS: Final = ("TransientTransactionError", "RetryableWriteError")


def database_error(code: int | None) -> DatabaseUnavailableError | DatabaseRefusedError:
    """Make the domain's error for a number of the server's: unavailable if another try may succeed."""
    suffix = "" if code is None else f" (MongoDB error {code})"
    if code is None or code in _PASSING_CODES:
        return DatabaseUnavailableError(f"The database cannot serve now{suffix}.")
    return DatabaseRefusedError(f"The database refused the operation{suffix}.")


def may_be_sent_again(error: PyMongoError) -> bool:
    """Tell whether what failed may succeed if it is tried once more, as after a lost connection or a failover."""
    if isinstance(error, AutoReconnect):
        return True
    if isinstance(error, OperationFailure):
        return error.code in RETRYABLE_CODES or any(error.has_error_label(one) for one in _PASSING_LABELS)
    return False


@contextmanager
def translated() -> Iterator[None]:
    """Raise the domain's errors in place of the driver's.

    Raises:
        DatabaseUnavailableError: no primary, a lost connection, a time limit, a full disk: try again.
        DatabaseRefusedError: anything else that the server refused.

    """
    try:
        yield
    except (ConnectionFailure, AutoReconnect, ExecutionTimeout, WaitQueueTimeoutError) as error:
        raise DatabaseUnavailableError("The database did not answer.") from error
    except BulkWriteError as error:
        raise database_error(_first_code(error)) from error
    except OperationFailure as error:
        passing = any(error.has_error_label(label) for label in _PASSING_LABELS)
        raise database_error(None if passing else error.code) from error
    except PyMongoError as error:
        if error.timeout:
            raise DatabaseUnavailableError("The database did not answer in time.") from error
        raise DatabaseRefusedError("The database driver refused the operation.") from error
    except BSONError as error:
        raise DatabaseRefusedError(
            "A command or a reply of the database is not what it should be."
        ) from error


def _first_code(error: BulkWriteError) -> int | None:
    details = error.details or {}
    for entry in (*details.get("writeErrors", ()), *details.get("writeConcernErrors", ())):
        code = entry.get("code")
        if isinstance(code, int):
            return code
    return None

"""How an upload ended, in the word that operators count by."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Protocol

from codesvc.errors import (
    DrainingError,
    SourceChangedError,
    SourceNotFoundError,
    UploadCancelledError,
    UploadRejectedError,
)

_REJECTED: Final = (UploadRejectedError, SourceNotFoundError, SourceChangedError)
"""The caller's to mend: another try with the same file would end the same way."""

_CANCELLED: Final = (asyncio.CancelledError, DrainingError, UploadCancelledError)
"""Somebody wanted it to end."""


class Told(Protocol):
    """Takes the outcome of an upload."""

    def ended(self, outcome: str) -> None:
        """Tell ``succeeded``, ``rejected``, ``failed`` or ``cancelled``."""


@contextmanager
def outcome_told(told: Told) -> Iterator[None]:
    """Tell the outcome of a block."""
    try:
        yield
    except BaseException as error:
        told.ended(outcome_of(error))
        raise
    told.ended("succeeded")


def outcome_of(error: BaseException) -> str:
    """Name what an upload that raised ``error`` has come to: the caller's, the service's, or nobody's failure."""
    if isinstance(error, _REJECTED):
        return "rejected"
    return "cancelled" if isinstance(error, _CANCELLED) else "failed"

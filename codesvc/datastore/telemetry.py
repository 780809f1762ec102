"""What this room tells of its operations."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from contextvars import Context
from typing import Protocol


class Telemetry(Protocol):
    """Times operations; the composition root supplies one."""

    def datastore_operation(self, name: str, /, **attributes: str | int) -> AbstractContextManager[None]:
        """Time a block as the operation ``name``, and trace it."""

    def shared_operation(
        self, name: str, callers: Sequence[Context], /, **attributes: str | int
    ) -> AbstractContextManager[None]:
        """Trace a block as done at once for several callers; ``callers`` are copies of their contexts."""

    def counts_checked(self, *, equal: bool) -> None:
        """Tell whether counts that were kept were those of the index."""

"""What this room tells of its operations."""

from contextlib import AbstractContextManager
from typing import Protocol


class Telemetry(Protocol):
    """Times operations; the composition root supplies one."""

    def datastore_operation(self, name: str, /, **attributes: str | int) -> AbstractContextManager[None]:
        """Time a block as the operation ``name``, and trace it."""

    def counts_checked(self, *, equal: bool) -> None:
        """Tell whether counts that were kept were those of the index."""

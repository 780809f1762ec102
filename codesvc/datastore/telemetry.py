"""What this room tells of its operations."""

from collections.abc import Mapping, Sequence
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

    def command_retried(self) -> None:
        """Tell that a command is sent again; from any thread."""

    def reserved(self, code_type: str, *, requested: int, lent: int, expired: int) -> None:
        """Tell what came of a reserve; ``expired`` of the codes that were lent had a hold that had expired."""

    def reserve_conflicts(self, count: int) -> None:
        """Tell that somebody else took codes that were about to be lent."""


class Connections(Protocol):
    """Is told of the connections, from any thread."""

    def retried(self) -> None:
        """Tell that a command is sent again."""

    def connections(self, *, opened: int = 0, taken: int = 0) -> None:
        """Tell that more, or fewer, connections are open, or in use."""

    def awaited(self, seconds: float, *, ok: bool) -> None:
        """Tell how long an operation waited for a connection, and whether it got one, which is then in use."""


class Samples(Protocol):
    """Is told of the whole stock."""

    def show(
        self,
        codes: Mapping[tuple[str, str], int],
        campaigns: int,
        lowest: Sequence[tuple[str, str, int]],
        *,
        sampled: float,
        good_until: float,
    ) -> None:
        """Tell what was sampled.

        ``codes`` by type and status, the number of ``campaigns`` that have any, and campaign, type and available codes
        of those that have the fewest; the time of the ``sampled`` figures, and until when (monotonic clock) they may
        be shown.
        """

    def forget(self) -> None:
        """Tell that another process samples."""

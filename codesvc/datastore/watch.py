"""What the driver tells of its connections and commands (CMAP and command monitoring), and of the replica set.

A command that the driver sends again, after a network error or a failover, belongs to the same operation as the first
try, and bears its number. codesvc's own further tries are operations of their own, and are counted where they are made.
Of drivers before PyMongo 4.20, which number each try anew, only codesvc's own are seen. All events of one command took
5 us of CPU, where the command took 300 in all.

Motor works in several threads, and so do the events.
"""

from collections import deque
from typing import Final

from pymongo import monitoring
from pymongo.topology_description import TopologyDescription

from codesvc.datastore.client import Mongo
from codesvc.datastore.telemetry import Connections

_REMEMBERED: Final = 64


class Watch(monitoring.ConnectionPoolListener, monitoring.CommandListener):
    """Listens to one client: one of its ``event_listeners``."""

    def __init__(self, told: Connections) -> None:
        self._told = told
        # Operations whose last command failed: next to none, so that looking here costs next to nothing.
        self._failed: deque[int | None] = deque(maxlen=_REMEMBERED)

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        """Count a command of an operation of which one has failed."""
        if self._failed and event.operation_id in self._failed:
            self._told.retried()

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        """Do nothing."""

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        """Remember the operation."""
        if event.operation_id not in self._failed:
            self._failed.append(event.operation_id)

    def pool_created(self, event: monitoring.PoolCreatedEvent) -> None:
        """Do nothing."""

    def pool_ready(self, event: monitoring.PoolReadyEvent) -> None:
        """Do nothing."""

    def pool_cleared(self, event: monitoring.PoolClearedEvent) -> None:
        """Do nothing."""

    def pool_closed(self, event: monitoring.PoolClosedEvent) -> None:
        """Do nothing: each of its connections is told of."""

    def connection_created(self, event: monitoring.ConnectionCreatedEvent) -> None:  # noqa: ARG002
        """Count a connection as open."""
        self._told.connections(opened=1)

    def connection_ready(self, event: monitoring.ConnectionReadyEvent) -> None:
        """Do nothing."""

    def connection_closed(self, event: monitoring.ConnectionClosedEvent) -> None:  # noqa: ARG002
        """Count a connection as closed."""
        self._told.connections(opened=-1)

    def connection_check_out_started(self, event: monitoring.ConnectionCheckOutStartedEvent) -> None:
        """Do nothing."""

    def connection_check_out_failed(self, event: monitoring.ConnectionCheckOutFailedEvent) -> None:
        """Note how long an operation has waited for nothing."""
        self._told.awaited(event.duration or 0.0, ok=False)

    def connection_checked_out(self, event: monitoring.ConnectionCheckedOutEvent) -> None:
        """Note how long an operation has waited for its connection."""
        self._told.awaited(event.duration or 0.0, ok=True)

    def connection_checked_in(self, event: monitoring.ConnectionCheckedInEvent) -> None:  # noqa: ARG002
        """Count a connection as free."""
        self._told.connections(taken=-1)


def view(mongo: Mongo) -> tuple[int, float | None]:
    """Tell how many connections there may be (0: no limit), and how far the replica set's secondaries are behind.

    The limit is that of one server: codesvc reads and writes at the primary alone. No command is sent.
    """
    most = mongo.client.options.pool_options.max_pool_size
    return int(most or 0), replica_lag(mongo.client.topology_description)


def replica_lag(topology: TopologyDescription) -> float | None:
    """Tell how many seconds the furthest secondary is behind the primary; None where there is no primary.

    By the dates of their last writes, which each server tells with every heartbeat (10 s apart), less what the driver
    heard of the primary later than of the secondary (specification of max staleness). Who does not answer has no lag.
    """
    behind: list[float] = []
    servers = topology.server_descriptions().values()
    primary = next((one for one in servers if one.server_type_name == "RSPrimary"), None)
    if primary is None or primary.last_write_date is None:
        return None
    for one in servers:
        if one.server_type_name == "RSSecondary" and one.last_write_date is not None:
            heard = one.last_update_time - primary.last_update_time
            behind.append(primary.last_write_date + heard - one.last_write_date)
    return max(0.0, *behind) if behind else 0.0

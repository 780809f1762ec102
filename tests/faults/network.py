"""A replica set whose members reach each other, and are reached, over a network that can be divided.

Each member is known to all by the address of a proxy. Whoever connects is told apart by the process that has the other
end of the connection (proc(5), /proc/net/tcp). So a member, and whoever is with it, can be cut off from the rest in
both directions without any right over the machine's network.
"""

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from api.proxy import Proxy

from codesvc.local.mongod import Mongod, ReplicaSet, start_replica_set


class Network:
    """The members, and who of all is alone.

    Attributes:
        members: the processes; their own ports are not part of the network.

    """

    members: ReplicaSet

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._proxies: dict[int, Proxy] = {}
        self._alone: frozenset[int] = frozenset()
        self._lock = threading.Lock()

    @property
    def uri(self) -> str:
        """The address of the set by way of the network."""
        hosts = ",".join(f"127.0.0.1:{proxy.port}" for proxy in self._proxies.values())
        return f"mongodb://{hosts}/?replicaSet={self.members.members[0].options.replica_set}"

    def address(self, member: Mongod) -> str:
        """Take a member in; return under which address it is known from now on."""
        proxy = Proxy(member.port, admits=lambda port: self._admits(member, port))
        self._proxies[member.port] = self._stack.enter_context(proxy)
        return f"127.0.0.1:{proxy.port}"

    def cut_off(self, *pids: int) -> None:
        """Leave these processes to themselves; everybody else hears nothing of them, nor they of the others."""
        self._divide(frozenset(pids))

    def heal(self) -> None:
        """Let all hear of each other again."""
        self._divide(frozenset())

    def _divide(self, alone: frozenset[int]) -> None:
        with self._lock:
            self._alone = alone
        for proxy in self._proxies.values():
            proxy.cut()

    def _admits(self, member: Mongod, port: int) -> bool:
        with self._lock:
            alone = self._alone
        return not alone or (member.pid in alone) == any(_has_port(pid, port) for pid in alone)


@contextmanager
def network(directory: Path) -> Iterator[Network]:
    """Start three members and the network between them."""
    with ExitStack() as stack:
        made = Network(stack)
        made.members = stack.enter_context(start_replica_set(directory, address=made.address))
        yield made


def _has_port(pid: int, port: int) -> bool:
    """Tell whether a process has a connection of 127.0.0.1 that begins at ``port``."""
    inode = _inode(port)
    if inode is None:
        return False
    wanted = f"socket:[{inode}]"
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            if str(entry.readlink()) == wanted:
                return True
    return False


def _inode(port: int) -> str | None:
    local = f"0100007F:{port:04X}"
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[1] == local and fields[9] != "0":
            return fields[9]
    return None

"""The sockets that the service listens on."""

import errno
import os
import socket
from typing import Final

from codesvc.errors import SettingsError
from codesvc.settings import Settings

_BACKLOG: Final = 128


def listening_sockets(settings: Settings) -> list[socket.socket]:
    """Listen on every address that CODESVC_HOST stands for; they do not block.

    Raises:
        SettingsError: it is no address of this machine, or the port cannot be listened on: in use, or privileged.

    """
    sockets: list[socket.socket] = []
    try:
        found = socket.getaddrinfo(
            settings.host or None, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        for family, kind, protocol, _, address in dict.fromkeys(found):
            sockets.append(one := socket.socket(family, kind, protocol))
            # A server that has ended leaves connections in TIME_WAIT; they do not stop the next from listening.
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            one.setblocking(False)
            one.bind(address)
            one.listen(_BACKLOG)
    except OSError as error:
        for one in sockets:
            one.close()
        raise address_error(settings, error) from None
    return sockets


def address_error(settings: Settings, error: OSError) -> SettingsError:
    """Say in one line why the address cannot be listened on."""
    if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
        return SettingsError("CODESVC_HOST: is no address of this machine")
    why = os.strerror(error.errno or 0)
    return SettingsError(f"CODESVC_PORT: cannot listen on {settings.host}:{settings.port} ({why})")

"""The listening sockets of API processes that share a port: one for each, with SO_REUSEPORT."""

from __future__ import annotations

import socket
from contextlib import suppress


def bind(address: str, port: int, count: int) -> list[socket.socket]:
    """Bind sockets that share a port. They do not accept connections before :meth:`socket.socket.listen`.

    SO_REUSEPORT also lets another service of the same user share the port, so this function first makes sure that none
    listens there. Services that are started within the same second may not notice each other.

    :param address: an IPv4 or IPv6 address; all addresses if empty.
    :param port: 0 for one that the system chooses.
    :raises OSError: the address is not one of this machine, or another service uses the port.
    """
    sockets: list[socket.socket] = []
    with _new_socket(address) as probe:
        probe.bind((address, port))
        # A socket that was bound to port 0 would get another port when it listens again after refuse_connections.
        port = probe.getsockname()[1]
        try:
            for _ in range(count):
                own = _new_socket(address)
                sockets.append(own)
                own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                own.bind((address, port))
        except OSError:
            for own in sockets:
                own.close()
            raise
    return sockets


def refuse_connections(bound: socket.socket) -> None:
    """Take a socket that no process serves out of the distribution of connections, until it listens again.

    Connections that wait in its queue are reset. Closing it would not suffice if a process that starts has it as well.
    """
    # Without an effect on a socket that does not listen.
    with suppress(OSError):
        bound.shutdown(socket.SHUT_RD)


def _new_socket(address: str) -> socket.socket:
    new = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
    # As Twisted does; otherwise connections of an earlier service in TIME_WAIT would occupy the port.
    new.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    return new

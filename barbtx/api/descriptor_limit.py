"""File descriptors: each connection is one, and a process may have only so many."""

from __future__ import annotations

import resource

from twisted.logger import Logger

log = Logger()

#: Connections that the system keeps until they are accepted. It has a limit of its own.
BACKLOG = 512

# For the database, the broker, Keystone, log files, and whatever else the process opens.
_OTHERS = 200


def fit_to_descriptor_limit(wanted: int, reserve: int) -> int:
    """Raise the process's limit of open files as far as connections need it; how many connections then fit.

    Without room the system would refuse to accept a connection, and Twisted would close every new one unanswered. All
    that wait to be accepted may be accepted in one turn of the reactor, before those that give way to them are closed.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    others = reserve + BACKLOG + _OTHERS
    needed = wanted + others
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return wanted
    allowed = needed if hard == resource.RLIM_INFINITY else min(hard, needed)
    if allowed > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed >= needed:
        return wanted
    # A process that may open very few files serves what it can.
    fitting = max(1, allowed - others, (allowed - reserve) // 4)
    log.warn(
        "the limit of open files, {limit}, allows {fitting} connections instead of [api] max_connections = "
        "{wanted}; raise it (ulimit -n, or LimitNOFILE in a systemd unit)",
        limit=allowed,
        fitting=fitting,
        wanted=wanted,
    )
    return fitting

"""The limit of open files, which also limits the number of connections."""

from __future__ import annotations

import resource

from twisted.logger import Logger

log = Logger()

#: Length of the listening socket's queue of connections that are not yet accepted. The system may limit it further.
BACKLOG = 512

# Descriptors for the database, the broker, Keystone, log files and everything else that the process opens.
_OTHERS = 200


def fit_to_descriptor_limit(wanted: int, reserve: int) -> int:
    """Raise the process's soft limit of open files, and return how many connections fit.

    When a process has no free descriptor, the system does not accept connections, and Twisted closes new ones without
    a response. The backlog is counted because all of its connections can be accepted in one turn of the reactor, before
    the connections that they evict are closed.

    :param wanted: the desired number of connections.
    :param reserve: the number of reserved connections.
    :return: ``wanted``, or fewer if the hard limit is too low.
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
    # With a very low limit, some connections are served at the risk of running out of descriptors.
    fitting = max(1, allowed - others, (allowed - reserve) // 4)
    log.warn(
        "the limit of open files, {limit}, allows {fitting} connections instead of [api] max_connections = "
        "{wanted}; raise it (ulimit -n, or LimitNOFILE in a systemd unit)",
        limit=allowed,
        fitting=fitting,
        wanted=wanted,
    )
    return fitting

"""How the parent of several API processes and each of them, a worker, recognize and reach each other."""

from __future__ import annotations

import os

#: The environment variable that tells a process that it is a worker, and its number, from 1.
VARIABLE = "BARBTX_API_WORKER"

#: The environment variable that tells a worker to listen only after the startup check has passed, since others serve.
CHECK_FIRST = "BARBTX_API_WORKER_CHECK_FIRST"

#: The descriptor of the listening socket, which the parent has bound.
SOCKET = 3

#: The descriptor of a stream socket to the parent, on which both send words, one a line. Its end of file tells a worker
#: that the parent has ended.
CHANNEL = 4

#: A worker sends this when it is about to listen, and does so when the parent has answered: from then on the parent
#: does not refuse connections on the socket.
OPENING, OPEN = b"opening", b"open"

#: A worker sends this when it accepts connections.
LISTENING = b"listening"

#: A worker sends this when it has stopped listening.
CLOSED = b"closed"

#: The parent requests a reload, and the worker confirms that it has ended.
RELOAD, RELOADED = b"reload", b"reloaded"

#: The parent requests a status report.
REPORT = b"report"


def number() -> int | None:
    """Return the number of this process if it is a worker."""
    value = os.environ.get(VARIABLE)
    return int(value) if value else None


def must_check_first() -> bool:
    """Return whether this process must not listen before the startup check has passed."""
    return CHECK_FIRST in os.environ

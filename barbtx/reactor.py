"""The type of the reactor that is passed to everything that waits, listens or uses threads."""

from __future__ import annotations

from typing import cast

from twisted.internet.interfaces import (
    IReactorCore,
    IReactorFDSet,
    IReactorProcess,
    IReactorSocket,
    IReactorTCP,
    IReactorThreads,
    IReactorTime,
)


class IReactor(
    IReactorCore, IReactorFDSet, IReactorTime, IReactorThreads, IReactorTCP, IReactorSocket, IReactorProcess
):
    """The interfaces of Twisted's reactor that barbtx uses.

    Code that only needs timers takes an :class:`~twisted.internet.interfaces.IReactorTime`, so that a
    :class:`twisted.internet.task.Clock` serves in tests. Its ``seconds()`` is monotonic; see :mod:`barbtx.twistd`.
    """


def global_reactor() -> IReactor:
    """Return Twisted's reactor. The first call in a process installs it."""
    from twisted.internet import reactor

    # Twisted's own annotation names fewer interfaces than every reactor provides.
    return cast(IReactor, reactor)

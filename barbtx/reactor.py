"""The type of the reactor that is passed to everything that waits, listens or uses threads."""

from __future__ import annotations

from twisted.internet.interfaces import IReactorCore, IReactorTCP, IReactorThreads, IReactorTime


class IReactor(IReactorCore, IReactorTime, IReactorThreads, IReactorTCP):
    """What barbtx uses of Twisted's reactor.

    Code that only needs timers takes an :class:`~twisted.internet.interfaces.IReactorTime`, so that a
    :class:`twisted.internet.task.Clock` serves in tests. Its ``seconds()`` is monotonic; see :mod:`barbtx.twistd`.
    """

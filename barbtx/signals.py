"""Signal handling: SIGTERM and SIGINT stop the process, SIGHUP reloads, SIGUSR1 logs a status report."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from twisted.application.service import Service

from barbtx.lifecycle import stop_reactor
from barbtx.reactor import IReactor

_STOP = (signal.SIGINT, signal.SIGTERM)
_OTHERS = (signal.SIGHUP, signal.SIGUSR1)


def before_start() -> None:
    """Install handlers for the time before the reactor runs: SIGTERM and SIGINT exit with status 0; others do nothing.

    By default SIGHUP and SIGUSR1 would terminate the process, and twistd would rotate its log file on SIGUSR1. They are
    unblocked, since the parent of several API processes starts each with these signals blocked.
    """
    for number in _STOP:
        signal.signal(number, lambda *_: sys.exit(0))
    for number in _OTHERS:
        signal.signal(number, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _OTHERS)


@contextmanager
def blocked() -> Iterator[None]:
    """Block SIGHUP and SIGUSR1. A process that is started meanwhile does not get them before :func:`before_start`."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _OTHERS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Signals(Service):
    """Handles signals while the reactor runs, one after the other, in the reactor.

    A process that is shutting down no longer reloads, but still logs status reports. Twisted's own handlers would end
    the process by the signal that stopped it, with an exit status that systemd takes for a failure.

    :param reload: called on SIGHUP.
    :param report: called on SIGUSR1.
    """

    def __init__(self, reactor: IReactor, reload: Callable[[], object], report: Callable[[], object]) -> None:
        self._reactor = reactor
        self._reload = reload
        self._report = report

    def startService(self) -> None:
        """Install the handlers when the reactor starts."""
        super().startService()
        # Twisted's own handlers are installed when the reactor starts.
        self._reactor.callWhenRunning(self._install)

    def _install(self) -> None:
        for number in _STOP:
            signal.signal(number, partial(self._received, lambda: stop_reactor(self._reactor)))
        signal.signal(signal.SIGHUP, partial(self._received, self._reload_if_running))
        signal.signal(signal.SIGUSR1, partial(self._received, self._report))

    def _received(self, action: Callable[[], object], *_: object) -> None:
        self._reactor.callFromThread(action)

    def _reload_if_running(self) -> None:
        # The parent stops its services one after the other, this one among the last.
        if self.parent is not None and self.parent.running:
            self._reload()

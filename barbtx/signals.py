"""What signals mean to a process: SIGTERM and SIGINT stop it, SIGHUP has it reload, SIGUSR1 has it log a report."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from twisted.application.service import Service

from barbtx.lifecycle import stop_reactor

_STOP = (signal.SIGINT, signal.SIGTERM)
_OTHERS = (signal.SIGHUP, signal.SIGUSR1)


def before_start() -> None:
    """Say what signals mean while the process is being set up: a request to stop is no failure, others come too early.

    Left alone, SIGHUP and SIGUSR1 would end it, and twistd would take SIGUSR1 for a wish to rotate its log file.
    """
    for number in _STOP:
        signal.signal(number, lambda *_: sys.exit(0))
    for number in _OTHERS:
        signal.signal(number, lambda *_: None)


class Signals(Service):
    """Handles signals from the moment when the reactor runs until the process ends.

    They are handled in the reactor, one after the other. A process that is stopping reloads nothing any more, but still
    reports. Twisted would end the process by the signal that asked it to stop, with a status that says so.

    :param reload: what SIGHUP does.
    :param report: what SIGUSR1 does.
    """

    def __init__(self, reactor: Any, reload: Callable[[], object], report: Callable[[], object]) -> None:
        self._reactor = reactor
        self._reload = reload
        self._report = report

    def startService(self) -> None:
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
        if self.parent.running:
            self._reload()

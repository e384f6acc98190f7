"""What ``twistd barbtx`` and ``twistd barbtx-worker`` understand on the command line."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable
from typing import Any

from twisted.application.service import Service
from twisted.python import usage

from barbtx.config import load
from barbtx.errors import ConfigurationError
from barbtx.foundation import Foundation
from barbtx.log import Logged


class Options(usage.Options):
    """``--config-file`` and ``--set``, each as often as needed."""

    def __init__(self) -> None:
        super().__init__()
        self["config-file"], self["set"] = [], []

    def opt_config_file(self, path: str) -> None:
        """A configuration file; of several the later one wins."""
        self["config-file"].append(path)

    def opt_set(self, setting: str) -> None:
        """An option as section.option=value; it wins over the files."""
        self["set"].append(setting)


def make_service(options: Options, make: Callable[[Any, Foundation], Service]) -> Service:
    """Read the configuration and make a service, or end the process with one clear line."""
    from twisted.internet import reactor

    # Twisted waits by the time of day: set back by an hour, it would stand still for one.
    reactor.seconds = time.monotonic
    reactor.callWhenRunning(_stop_on_signals, reactor)
    try:
        conf = load(options["config-file"], options["set"])
        logged = Logged(conf, options.parent or {})
        make(reactor, Foundation.from_config(reactor, conf)).setServiceParent(logged)
        return logged
    except ConfigurationError as problem:
        sys.exit(f"barbtx: {problem}")


def _stop_on_signals(reactor: Any) -> None:
    """Being asked to stop is no failure: twistd would end the process by the signal, with a status that says so."""
    def stop() -> None:
        if reactor.running:
            reactor.stop()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: reactor.callFromThread(stop))

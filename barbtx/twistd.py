"""What ``twistd barbtx`` and ``twistd barbtx-worker`` understand on the command line."""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

from oslo_config import cfg
from twisted.application.service import Service
from twisted.python import usage

from barbtx.config import load
from barbtx.errors import ConfigurationError
from barbtx.foundation import Foundation
from barbtx.log import Logged
from barbtx.signals import before_start


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

    before_start()
    # Twisted waits by the time of day: set back by an hour, it would stand still for one.
    reactor.seconds = time.monotonic

    def read() -> cfg.ConfigOpts:
        return load(options["config-file"], options["set"])

    try:
        conf = read()
        logged = Logged(conf, options.parent or {})
        make(reactor, Foundation.from_config(reactor, conf, read=read)).setServiceParent(logged)
        return logged
    except ConfigurationError as problem:
        sys.exit(f"barbtx: {problem}")
    except Exception as problem:
        traceback.print_exc()
        sys.exit(f"barbtx: cannot start: {type(problem).__name__}: {' '.join(str(problem).split())}")

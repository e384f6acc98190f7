"""What ``twistd barbtx`` and ``twistd barbtx-worker`` understand on the command line."""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Callable, Iterable
from typing import Any

from oslo_config import cfg
from twisted.application.service import Service
from twisted.python import usage

from barbtx.config import load, locate, read, require
from barbtx.config_diagnosis import Part, find_problems
from barbtx.errors import ConfigurationError
from barbtx.log import LoggingService
from barbtx.runtime import Runtime
from barbtx.signals import before_start


class Options(usage.Options):
    """``--config-file``, ``--config-dir`` and ``--set``, each as often as needed."""

    def __init__(self) -> None:
        super().__init__()
        self["config-file"], self["config-dir"], self["set"] = [], [], []

    def opt_config_file(self, path: str) -> None:
        """A configuration file; of several the later one wins. Without any, barbtx.conf in ~/.barbtx, ~, /etc/barbtx or
        /etc is used."""
        self["config-file"].append(path)

    def opt_config_dir(self, path: str) -> None:
        """A directory whose *.conf files count after the configuration files, in the order of their names."""
        self["config-dir"].append(path)

    def opt_set(self, setting: str) -> None:
        """An option as section.option=value; it wins over the files."""
        self["set"].append(setting)


def make_service(options: Options, make: Callable[[Any, Runtime], Service], parts: Iterable[Part] = ()) -> Service:
    """Read the configuration and make a service, or end the process with a clear line for each problem.

    :param parts: what else is made from the configuration, for the problems to be complete.
    """
    from twisted.internet import reactor

    before_start()
    # Twisted waits by the time of day: set back by an hour, it would stand still for one.
    reactor.seconds = time.monotonic  # type: ignore[method-assign]
    files = locate(options["config-file"], options["config-dir"])

    def load_again() -> cfg.ConfigOpts:
        return load(files, options["set"])

    try:
        conf = load_again()
        if not files:
            require(conf, files, "database", "connection")
        logged = LoggingService(conf, options.parent or {})
        make(reactor, Runtime.from_config(reactor, conf, read=load_again)).setServiceParent(logged)
        require(conf, files, "database", "connection")
        return logged
    except ConfigurationError as problem:
        problems = _all_problems(problem, reactor, files, options["set"], parts)
        sys.exit("\n".join(f"barbtx: {line}" for line in problems))
    except Exception as problem:
        traceback.print_exc()
        sys.exit(f"barbtx: cannot start: {type(problem).__name__}: {' '.join(str(problem).split())}")


def _all_problems(
    first: ConfigurationError, reactor: Any, files: list[str], settings: list[str], parts: Iterable[Part]
) -> tuple[str, ...]:
    reading = read(files, settings)
    if not files or not reading.complete:
        # What is missing is in a file that could not be read: all else follows from that.
        return first.problems
    found = find_problems(reactor, reading.conf, parts)
    return tuple(dict.fromkeys([*reading.problems, *first.problems, *found]))

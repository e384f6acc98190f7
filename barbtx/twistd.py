"""The command line of ``twistd barbtx`` and ``twistd barbtx-worker``, and the startup of both processes."""

from __future__ import annotations

import errno
import os
import platform
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from oslo_config import cfg
from twisted.application.service import IService
from twisted.logger import Logger
from twisted.python import usage

import twisted
from barbtx import __version__, garbage_collection
from barbtx.config import CONFIGURATION_HELP, load, locate, read, require
from barbtx.config_diagnosis import Part, find_problems
from barbtx.errors import ConfigurationError, one_line
from barbtx.invocation import Invocation
from barbtx.log import LoggingService
from barbtx.reactor import IReactor, global_reactor
from barbtx.runtime import Runtime
from barbtx.signals import before_start

log = Logger()


class Options(usage.Options):
    """``--config-file``, ``--config-dir`` and ``--set``, which can be given several times, and ``--version``."""

    def __init__(self) -> None:
        super().__init__()
        self["config-file"], self["config-dir"], self["set"] = [], [], []
        # Instead of the docstrings of the methods, whose indentation Twisted would print.
        for name, text in CONFIGURATION_HELP.items():
            self.docs[name] = f"{text[0].upper()}{text[1:]}."

    def opt_config_file(self, path: str) -> None:
        """Add a configuration file."""
        self["config-file"].append(path)

    def opt_config_dir(self, path: str) -> None:
        """Add a directory with configuration files."""
        self["config-dir"].append(path)

    def opt_set(self, setting: str) -> None:
        """Option as section.option=value; overrides the configuration files."""
        self["set"].append(setting)

    def opt_version(self) -> None:
        """Print the version of barbtx and exit."""
        sys.stdout.write(f"barbtx {__version__}\n")
        sys.exit(0)


def make_service(
    options: Options, make: Callable[[IReactor, Runtime, Invocation], IService], parts: Iterable[Part] = ()
) -> IService:
    """Read the configuration and make the services of a process.

    If that fails, the process ends with exit status 1 and one line for each problem on standard error.

    :param make: makes the services.
    :param parts: parts of this process that :func:`find_problems` checks in addition to those of every process.
    """
    reactor = global_reactor()
    before_start()
    twistd: Mapping[str, Any] = options.parent or {}
    _check_pid_file(twistd.get("pidfile"))
    log.info(
        "barbtx {version} starting (Python {python}, Twisted {twisted})",
        version=__version__,
        python=platform.python_version(),
        twisted=twisted.__version__,
    )
    # By default Twisted's timers use the wall clock: if it were set back by an hour, they would all be an hour late.
    reactor.seconds = time.monotonic  # type: ignore[method-assign]
    files = locate(options["config-file"], options["config-dir"])

    def load_again() -> cfg.ConfigOpts:
        return load(files, options["set"])

    try:
        conf = load_again()
        if not files:
            _require_database(conf, files)
        service = LoggingService(reactor, conf, twistd)
        invocation = Invocation(files, options["set"], twistd, service.write)
        make(reactor, Runtime.from_config(reactor, conf, read=load_again), invocation).setServiceParent(service)
        _require_database(conf, files)
        reactor.callWhenRunning(garbage_collection.settle)
        return service
    except ConfigurationError as problem:
        problems = _all_problems(problem, reactor, files, options["set"], parts)
        sys.exit("\n".join(f"barbtx: {line}" for line in problems))
    except Exception as problem:
        traceback.print_exc()
        sys.exit(f"barbtx: cannot start: {type(problem).__name__}: {one_line(problem)}")


def _require_database(conf: cfg.ConfigOpts, files: Sequence[str]) -> None:
    require(conf, files, "database", "connection")


def _check_pid_file(path: str | None) -> None:
    """Exit unless a file can be created at a path. twistd would print a traceback into the log of the daemon."""
    directory = os.path.dirname(os.path.abspath(path)) if path else None
    if directory is not None and not os.access(directory, os.W_OK | os.X_OK):
        reason = os.strerror(errno.EACCES if os.path.isdir(directory) else errno.ENOENT)
        sys.exit(f"barbtx: --pidfile {path}: {reason}")


def _all_problems(
    first: ConfigurationError, reactor: IReactor, files: list[str], settings: Sequence[str], parts: Iterable[Part]
) -> tuple[str, ...]:
    reading = read(files, settings)
    if not files or not reading.complete:
        # Options that a missing or unreadable file would set lead to further problems, which are not reported.
        return first.problems
    found = find_problems(reactor, reading.conf, [*parts, lambda _, conf: _require_database(conf, files)])
    return tuple(dict.fromkeys([*reading.problems, *first.problems, *found]))

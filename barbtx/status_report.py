"""The report that SIGUSR1 asks for: versions, options, threads and what goes on, in some lines of the log."""

from __future__ import annotations

import os
import platform
import sys
import threading
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import attrs
from oslo_config import cfg
from twisted.logger import Logger

from barbtx.model.migration import head_revision

log = Logger()

_PACKAGES = (
    "barbtx",
    "Twisted",
    "klein",
    "SQLAlchemy",
    "alembic",
    "psycopg",
    "PyMySQL",
    "txAMQP",
    "cryptography",
    "oslo.config",
    "oslo.policy",
)

Gauges = Callable[[], Mapping[str, object]]


@attrs.frozen(eq=False)
class StatusReport:
    """Logs what an operator needs to see of a running process. Values of secret options are masked.

    :ivar sources: what goes on, by the part of the process that tells it.
    """

    reactor: Any
    conf: cfg.ConfigOpts
    sources: Mapping[str, Gauges]

    def __call__(self) -> None:
        """Log it, one line for each part."""
        sources: dict[str, Gauges] = {
            "versions": _versions,
            "threads": _threads,
            "reactor": self._reactor_gauges,
            **self.sources,
        }
        for part, gauges in sources.items():
            try:
                found = dict(gauges())
            except Exception:
                log.failure("report: {part} cannot be told", part=part)
                continue
            _say(part, found)
        for section, options in _options(self.conf).items():
            _say(f"options [{section}]", options)

    def _reactor_gauges(self) -> Mapping[str, object]:
        pool = self.reactor.getThreadPool()
        return {
            "threads": f"{len(pool.working)} of {pool.workers} at work, at most {pool.max}",
            "sockets": len(self.reactor.getReaders()),
            "calls due later": len(self.reactor.getDelayedCalls()),
        }


def _say(part: str, values: Mapping[str, object]) -> None:
    log.info(
        "report: {part}: {values}", part=part, values=", ".join(f"{name} = {value}" for name, value in values.items())
    )


def _versions() -> Mapping[str, object]:
    found: dict[str, object] = {"pid": os.getpid(), "Python": platform.python_version(), "schema": head_revision()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def _threads() -> Mapping[str, object]:
    """Where each thread is: file and function only, no variables."""
    frames = sys._current_frames()
    found: dict[str, object] = {"count": threading.active_count()}
    for thread in threading.enumerate():
        frame = frames.get(thread.ident)
        if frame is not None:
            code = frame.f_code
            found[thread.name] = f"{os.path.basename(code.co_filename)}:{frame.f_lineno} {code.co_name}"
    return found


def _options(conf: cfg.ConfigOpts) -> Mapping[str, Mapping[str, object]]:
    """By section, as oslo.config itself shows them: it masks what is secret."""
    lines: list[str] = []

    class Collector:
        @staticmethod
        def log(level: int, text: str, *arguments: object) -> None:
            lines.append(text % arguments if arguments else text)

    conf.log_opt_values(Collector, 0)
    sections: dict[str, dict[str, object]] = {}
    for line in lines:
        name, equals, value = line.partition(" = ")
        if equals:
            section, _, option = name.strip().rpartition(".")
            sections.setdefault(section or "DEFAULT", {})[option] = value
    return sections

"""The status report that SIGUSR1 requests: versions, options, threads and the state of each part, in the log."""

from __future__ import annotations

import os
import platform
import sys
import threading
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version

import attrs
from oslo_config import cfg
from twisted.internet.interfaces import IReactorFDSet
from twisted.logger import Logger

from barbtx.model.migration import head_revision
from barbtx.reactor import IReactor

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
    """Logs the state of a running process. The values of secret options are masked.

    :ivar sources: for each part of the process, a function that returns its figures by name.
    """

    reactor: IReactor
    conf: cfg.ConfigOpts
    sources: Mapping[str, Gauges]

    def __call__(self) -> None:
        """Log the report, one line for each part."""
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
                log.failure("report: {part} is not available", part=part)
                continue
            _log_part(part, found)
        for section, options in _options(self.conf).items():
            _log_part(f"options [{section}]", options)

    def _reactor_gauges(self) -> Mapping[str, object]:
        pool = self.reactor.getThreadPool()
        return {
            "threads": f"{len(pool.working)} of {pool.workers} busy, at most {pool.max}",
            "sockets": len(self.reactor.getReaders()) if IReactorFDSet.providedBy(self.reactor) else "unknown",
            "delayed calls": len(self.reactor.getDelayedCalls()),
        }


def _log_part(part: str, values: Mapping[str, object]) -> None:
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
    """Return the current position of each thread, as file, line and function, without variables."""
    frames = sys._current_frames()
    found: dict[str, object] = {"count": threading.active_count()}
    for thread in threading.enumerate():
        frame = frames.get(thread.ident or 0)
        if frame is not None:
            code = frame.f_code
            found[thread.name] = f"{os.path.basename(code.co_filename)}:{frame.f_lineno} {code.co_name}"
    return found


@attrs.frozen
class _Collector:
    """Collects lines that are logged with the interface of :class:`logging.Logger`."""

    lines: list[str] = attrs.field(factory=list)

    def log(self, level: int, msg: object, *args: object) -> None:
        self.lines.append(str(msg) % args if args else str(msg))


def _options(conf: cfg.ConfigOpts) -> Mapping[str, Mapping[str, object]]:
    """Return the options of each section in the form that oslo.config logs, which masks secret values."""
    collector = _Collector()
    conf.log_opt_values(collector, 0)
    sections: dict[str, dict[str, object]] = {}
    for line in collector.lines:
        name, equals, value = line.partition(" = ")
        if equals:
            section, _, option = name.strip().rpartition(".")
            sections.setdefault(section or "DEFAULT", {})[option] = value
    return sections

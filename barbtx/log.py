"""The log: one line for each event, as text or as JSON, with the ids of its request and order.

``[DEFAULT] log_format`` and ``log_level`` set the format and the level. Options of twistd set the destination:
``--logfile``, ``--syslog``, or else standard output. ``twistd --logger barbtx.log.json_lines`` overrides all of them.
"""

from __future__ import annotations

import atexit
import io
import math
import sys
import syslog
import threading
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, TextIO

import attrs
from oslo_config import cfg
from twisted.application.service import MultiService
from twisted.logger import ILogObserver, LogLevel, LogLevelFilterPredicate, formatEvent
from twisted.python.logfile import LogFile
from zope.interface import implementer

from barbtx.log_buffer import LineBuffer
from barbtx.log_lines import Event, as_json, as_text
from barbtx.reactor import IReactor

OPTIONS = {
    "DEFAULT": [
        cfg.StrOpt(
            "log_level",
            default="info",
            choices=["debug", "info", "warn", "error"],
            help="Minimum level of the log lines. With debug, events of Twisted's connections and requests for the "
            "health check are logged as well.",
        ),
        cfg.StrOpt(
            "log_format",
            default="text",
            choices=["text", "json"],
            help="Format of the log lines: text, or json with one JSON object per line.",
        ),
    ],
}

# The interval at which equal events of an outage are logged.
_OUTAGE_SECONDS = 30.0
_REMEMBERED_OUTAGES = 1000

_SYSLOG = {
    LogLevel.debug: syslog.LOG_DEBUG,
    LogLevel.info: syslog.LOG_INFO,
    LogLevel.warn: syslog.LOG_WARNING,
    LogLevel.error: syslog.LOG_ERR,
    LogLevel.critical: syslog.LOG_CRIT,
}

# Lines of these levels may wait for others.
_PATIENT = frozenset({LogLevel.debug, LogLevel.info})

_NOISY = (
    "twisted.application",
    "twisted.internet.endpoints",
    "twisted.internet.protocol",
    "twisted.protocols",
    "twisted.web",
)

#: Writes a line of an event with a level; None for an event without one.
Write = Callable[[str, LogLevel | None], object]


def json_lines(stream: TextIO | None = None) -> ILogObserver:
    """Make an observer that writes each event as one line of JSON.

    A line has ``time``, ``level``, ``logger`` and ``message``, the scalar fields of the event, such as ``request_id``,
    and the ``traceback`` of a failure, without local variables.

    :param stream: standard output if not given.
    """
    return _observer(as_json, _to_stream(stream or sys.stdout), "info")


def text_lines(stream: TextIO | None = None) -> ILogObserver:
    """Make an observer that writes each event as one line of text, with its fields at the end of the line.

    Control characters are escaped, so that a client cannot forge log lines. The lines of a traceback are indented.

    :param stream: standard output if not given.
    """
    return _observer(as_text, _to_stream(stream or sys.stdout), "info")


class LoggingService(MultiService):
    """Makes the application log in the configured format and level, to the destination that twistd's options name.

    While the reactor runs, lines for standard output or for a file are collected for a moment
    (:class:`~barbtx.log_buffer.LineBuffer`), except those of level warn and above. During the shutdown they are not.

    :param twistd: twistd's options.
    """

    def __init__(self, reactor: IReactor, conf: cfg.ConfigOpts, twistd: Mapping[str, Any]) -> None:
        super().__init__()
        self._reactor = reactor
        self._conf = conf
        self._twistd = twistd
        self._write = self._destination()

    def write(self, lines: str) -> None:
        """Write lines that another process has formatted."""
        if self._write is not None:
            self._write(lines, None)

    def setServiceParent(self, parent: Any) -> None:
        """Install the log observer in the application, unless twistd's options leave logging to twistd."""
        form = {"text": as_text, "json": as_json}[self._conf.log_format]
        if self._write is not None:
            parent.setComponent(ILogObserver, _observer(form, self._write, self._conf.log_level))
        super().setServiceParent(parent)

    def _destination(self) -> Write | None:
        """Return a function that writes where twistd's options say, or None if twistd rejects them.

        A log file that cannot be opened ends the process.
        """
        twistd = self._twistd
        path, foreground = twistd.get("logfile"), twistd.get("nodaemon")
        if twistd.get("syslog"):
            syslog.openlog(twistd.get("prefix") or "barbtx", syslog.LOG_PID, syslog.LOG_DAEMON)
            return _to_syslog
        if path == "-" and not foreground:
            return None
        if path == "-" or (foreground and not path):
            if isinstance(sys.stdout, io.TextIOWrapper):
                sys.stdout.reconfigure(errors="backslashreplace")
            return self._buffered(sys.stdout)
        path = path or "twistd.log"
        try:
            return self._buffered(LogFile.fromFullPath(path))
        except OSError as problem:
            sys.exit(f"barbtx: --logfile {path}: {problem.strerror}")

    def _buffered(self, stream: Any) -> Write:
        def through(text: str) -> None:
            stream.write(text)
            stream.flush()

        buffer = LineBuffer(self._reactor, through)
        # The process may exit in the middle of the shutdown, so that it must not begin with lines that wait.
        self._reactor.callWhenRunning(buffer.start)
        self._reactor.addSystemEventTrigger("before", "shutdown", buffer.stop)
        atexit.register(buffer.stop)
        return lambda line, level: buffer.write(line, urgent=level not in _PATIENT)


def _observer(form: Callable[[Event], str], write: Write, level: str) -> ILogObserver:
    levels = LogLevelFilterPredicate(LogLevel.levelWithName(level))
    if level != "debug":
        # Twisted logs the start and stop of every factory and connection.
        for namespace in _NOISY:
            levels.setLogLevelForNamespace(namespace, LogLevel.warn)
    return _Observer(levels, _Outages(), form, write)


def _to_stream(stream: TextIO) -> Write:
    def write(line: str, level: LogLevel | None) -> None:
        stream.write(line)
        stream.flush()

    return write


def _to_syslog(line: str, level: LogLevel | None) -> None:
    # syslog takes one line per message.
    syslog.syslog(_SYSLOG.get(level, syslog.LOG_INFO), line.rstrip("\n").replace("\n", "\\n"))


@implementer(ILogObserver)
class _Observer:
    """Writes the events that have their level, one line each."""

    def __init__(
        self, levels: LogLevelFilterPredicate, outages: _Outages, form: Callable[[Event], str], write: Write
    ) -> None:
        self._outages = outages
        self._form = form
        self._write = write
        # The predicate searches the levels for a name and for every shorter one.
        self._minimum = lru_cache(maxsize=1000)(levels.logLevelForNamespace)

    def __call__(self, event: Event) -> None:
        level, namespace = event.get("log_level"), event.get("log_namespace")
        if level is None or not namespace or level < self._minimum(namespace):
            return
        if event.get("log_outage"):
            counted = self._outages.count(event)
            if counted is None:
                return
            event = counted
        self._write(self._form(event), level)


@attrs.define
class _Outages:
    """Selects from equal events with ``log_outage`` one every 30 seconds."""

    _lock: threading.Lock = attrs.field(factory=threading.Lock, init=False)
    _seen: dict[tuple[Any, str], tuple[float, int]] = attrs.field(factory=dict, init=False)

    def count(self, event: Event) -> Event | None:
        """Return the event with the number of those that were left out before; None to leave it out."""
        key, now = (event.get("log_namespace"), formatEvent(dict(event))), event["log_time"]
        with self._lock:
            since, repeated = self._seen.get(key, (-math.inf, 0))
            if abs(now - since) < _OUTAGE_SECONDS:
                self._seen[key] = since, repeated + 1
                return None
            self._seen.pop(key, None)
            self._seen[key] = now, 0
            if len(self._seen) > _REMEMBERED_OUTAGES:
                del self._seen[next(iter(self._seen))]
        return {**event, "repeated": repeated} if repeated else event

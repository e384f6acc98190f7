"""The log: one line for each event, as text or as JSON, with the ids of its request and order.

``[DEFAULT] log_format`` and ``log_level`` set the format and the level. Options of twistd set the destination:
``--logfile``, ``--syslog``, or else standard output. ``twistd --logger barbtx.log.json_lines`` overrides all of them.
"""

from __future__ import annotations

import datetime
import io
import json
import math
import os
import re
import sys
import syslog
import threading
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any, TextIO

import attrs
from oslo_config import cfg
from twisted.application.service import MultiService
from twisted.logger import (
    FilteringLogObserver,
    ILogObserver,
    LogLevel,
    LogLevelFilterPredicate,
    formatEvent,
    formatTime,
)
from twisted.python.logfile import LogFile
from zope.interface import implementer

from barbtx import activity, worker_process
from barbtx.activity import Activity

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

# Fields that twisted.logger and twisted.python.log use internally.
_INTERNAL = frozenset({"message", "time", "format", "isError", "system", "failure", "why", "text"})
_PLAIN = (str, int, float, bool)
_ACTIVITY = tuple(field.name for field in attrs.fields(Activity))
_FIELD = re.compile(r"\{(\w+)")
_PLAIN_FORMAT = re.compile(r"(?:[^{}]|\{\w+(?::[^{}]*)?\})*")
# Letters and digits of any script, as str.isalnum has them, and some punctuation.
_UNQUOTED = re.compile(r"(?:[^\W_]|[-_.:/@%+*])+")
# The interval at which equal events of an outage are logged.
_OUTAGE_SECONDS = 30.0
_REMEMBERED_OUTAGES = 1000
# Several API processes write to one log.
_PROCESS = {"pid": os.getpid()} if worker_process.number() is not None else {}

_SYSLOG = {
    LogLevel.debug: syslog.LOG_DEBUG,
    LogLevel.info: syslog.LOG_INFO,
    LogLevel.warn: syslog.LOG_WARNING,
    LogLevel.error: syslog.LOG_ERR,
    LogLevel.critical: syslog.LOG_CRIT,
}

_NOISY = (
    "twisted.application",
    "twisted.internet.endpoints",
    "twisted.internet.protocol",
    "twisted.protocols",
    "twisted.web",
)

Event = Mapping[str, Any]


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

    :param twistd: twistd's options.
    """

    def __init__(self, conf: cfg.ConfigOpts, twistd: Mapping[str, Any]) -> None:
        super().__init__()
        self._conf = conf
        self._twistd = twistd
        self._write = _destination(twistd)

    def write(self, lines: str) -> None:
        """Write lines that another process has formatted."""
        if self._write is not None:
            self._write(lines, {})

    def setServiceParent(self, parent: Any) -> None:
        """Install the log observer in the application, unless twistd's options leave logging to twistd."""
        form = {"text": as_text, "json": as_json}[self._conf.log_format]
        if self._write is not None:
            parent.setComponent(ILogObserver, _observer(form, self._write, self._conf.log_level))
        super().setServiceParent(parent)


def _observer(form: Callable[[Event], str], write: Callable[[str, Event], object], level: str) -> ILogObserver:
    levels = LogLevelFilterPredicate(LogLevel.levelWithName(level))
    if level != "debug":
        # Twisted logs the start and stop of every factory and connection.
        for namespace in _NOISY:
            levels.setLogLevelForNamespace(namespace, LogLevel.warn)
    return FilteringLogObserver(_Outages(_Lines(form, write)), [levels])


def _to_stream(stream: TextIO) -> Callable[[str, Event], object]:
    def write(line: str, event: Event) -> None:
        stream.write(line)
        stream.flush()

    return write


def _destination(twistd: Mapping[str, Any]) -> Callable[[str, Event], object] | None:
    """Return a function that writes to the destination that twistd's options name, or None if twistd rejects them.

    A log file that cannot be opened ends the process.
    """
    path, foreground = twistd.get("logfile"), twistd.get("nodaemon")
    if twistd.get("syslog"):
        syslog.openlog(twistd.get("prefix") or "barbtx", syslog.LOG_PID, syslog.LOG_DAEMON)
        # syslog takes one line per message.
        return lambda line, event: syslog.syslog(
            _SYSLOG.get(event.get("log_level"), syslog.LOG_INFO), line.rstrip("\n").replace("\n", "\\n")
        )
    if path == "-" and not foreground:
        return None
    if path == "-" or (foreground and not path):
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")
        return _to_stream(sys.stdout)
    path = path or "twistd.log"
    try:
        return _to_stream(LogFile.fromFullPath(path))
    except OSError as problem:
        sys.exit(f"barbtx: --logfile {path}: {problem.strerror}")


@implementer(ILogObserver)
@attrs.frozen
class _Lines:
    form: Callable[[Event], str]
    write: Callable[[str, Event], object]

    def __call__(self, event: Event) -> None:
        self.write(self.form(event), event)


@implementer(ILogObserver)
@attrs.define
class _Outages:
    """Forwards events. Of equal events with ``log_outage``, one is forwarded every 30 seconds, with their number."""

    observer: Callable[[Event], object]
    _lock: threading.Lock = attrs.field(factory=threading.Lock, init=False)
    _seen: dict[tuple[Any, str], tuple[float, int]] = attrs.field(factory=dict, init=False)

    def __call__(self, event: Event) -> None:
        if event.get("log_outage"):
            key, now = (event.get("log_namespace"), formatEvent(dict(event))), event["log_time"]
            with self._lock:
                since, repeated = self._seen.get(key, (-math.inf, 0))
                if abs(now - since) < _OUTAGE_SECONDS:
                    self._seen[key] = since, repeated + 1
                    return
                self._seen.pop(key, None)
                self._seen[key] = now, 0
                if len(self._seen) > _REMEMBERED_OUTAGES:
                    del self._seen[next(iter(self._seen))]
            if repeated:
                event = {**event, "repeated": repeated}
        self.observer(event)


def as_json(event: Event) -> str:
    """Format an event as a line of JSON."""
    moment = datetime.datetime.fromtimestamp(event["log_time"], datetime.UTC)
    document: dict[str, Any] = {
        "time": moment.isoformat(timespec="milliseconds"),
        "level": event["log_level"].name if event.get("log_level") else None,
        "logger": event.get("log_namespace"),
        "message": _message(event),
    }
    document |= {
        name: value if not isinstance(value, float) or math.isfinite(value) else str(value)
        for name, value in _fields(event)
    }
    failure = event.get("log_failure")
    if failure is not None:
        document["traceback"] = failure.getTraceback()
    return json.dumps(document) + "\n"


def as_text(event: Event) -> str:
    """Format an event as a line of text, followed by the lines of its traceback."""
    level = event["log_level"].name if event.get("log_level") else "-"
    shown = _shown_fields(event.get("log_format") or "")
    extra = " ".join(
        f"{name}={_quoted(value)}"
        for name, value in _fields(event)
        if value is not None and value is not False and name not in shown
    )
    source = f"{event.get('log_namespace') or '-'}#{level}"
    line = f"{_local_time(int(event['log_time']))} [{source}] {_escaped(_message(event))}" + (
        f" [{extra}]" if extra else ""
    )
    failure = event.get("log_failure")
    if failure is not None:
        line += "".join(f"\n\t{_escaped(part)}" for part in failure.getTraceback().rstrip().split("\n"))
    return line + "\n"


@lru_cache(maxsize=1000)
def _shown_fields(log_format: str) -> frozenset[str]:
    """The fields that a message contains and that are not repeated, except the ids that operators search for."""
    return frozenset(_FIELD.findall(log_format)) - {"request_id", "order_id"}


@lru_cache(maxsize=10)
def _local_time(second: int) -> str:
    return formatTime(second)


@lru_cache(maxsize=1000)
def _is_plain(log_format: str) -> bool:
    """Whether a format has no attributes, calls and conversions, so that str.format does what twisted.logger does."""
    return _PLAIN_FORMAT.fullmatch(log_format) is not None


def _message(event: Event) -> str:
    log_format = event.get("log_format")
    if isinstance(log_format, str) and _is_plain(log_format):
        try:
            return log_format.format_map(event)
        except Exception:
            # twisted.logger then describes the event instead.
            return formatEvent(dict(event))
    return formatEvent(dict(event))


def _fields(event: Event) -> Iterator[tuple[str, Any]]:
    """Yield the scalar fields of an event, of the process, and of the current activity unless the event has them."""
    current = activity.current()
    for name in _ACTIVITY:
        value = getattr(current, name)
        if value is not None and event.get(name) is None:
            yield name, value
    yield from _PROCESS.items()
    for name, value in event.items():
        if not name.startswith("log_") and name not in _INTERNAL and (value is None or isinstance(value, _PLAIN)):
            yield name, value


def _escaped(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _quoted(value: Any) -> str:
    text = str(value)
    return text if _UNQUOTED.fullmatch(text) else _escaped(json.dumps(text, ensure_ascii=False))

"""The form of log lines: an event of twisted.logger as a line of text or of JSON."""

from __future__ import annotations

import datetime
import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

import attrs
from twisted.logger import formatEvent, formatTime

from barbtx import activity, worker_process
from barbtx.activity import Activity

Event = Mapping[str, Any]

# Fields that twisted.logger and twisted.python.log use internally.
_INTERNAL = frozenset({"message", "time", "format", "isError", "system", "failure", "why", "text"})
_PLAIN = (str, int, float, bool)
_ACTIVITY = tuple(field.name for field in attrs.fields(Activity))
#: The id of the process, if several API processes write to one log; None otherwise.
PROCESS_ID = os.getpid() if worker_process.number() is not None else None
_FIELD = re.compile(r"\{(\w+)")
_PLAIN_FORMAT = re.compile(r"(?:[^{}]|\{\w+(?::[^{}]*)?\})*")
# Letters and digits of any script, as str.isalnum has them, and some punctuation.
_UNQUOTED = re.compile(r"[\w\-.:/@%+*]+")


class SelfFormattingEvent(dict[str, Any]):
    """An event that is logged so often that it has methods of its own, which return what the functions below would."""

    def as_text(self) -> str:
        """Format the event as a line of text."""
        raise NotImplementedError

    def as_json(self) -> str:
        """Format the event as a line of JSON."""
        raise NotImplementedError


def as_json(event: Event) -> str:
    """Format an event as a line of JSON."""
    if isinstance(event, SelfFormattingEvent):
        return event.as_json()
    document: dict[str, Any] = {
        "time": utc_time(event["log_time"]),
        "level": event["log_level"].name if event.get("log_level") else None,
        "logger": event.get("log_namespace"),
        "message": _message(event),
    }
    for name, value in _fields(event):
        document[name] = value if not isinstance(value, float) or math.isfinite(value) else str(value)
    failure = event.get("log_failure")
    if failure is not None:
        document["traceback"] = failure.getTraceback()
    return json.dumps(document) + "\n"


def as_text(event: Event) -> str:
    """Format an event as a line of text, followed by the lines of its traceback."""
    if isinstance(event, SelfFormattingEvent):
        return event.as_text()
    level = event["log_level"].name if event.get("log_level") else "-"
    shown = _shown_fields(event.get("log_format") or "")
    extra = " ".join(
        [
            f"{name}={quote(value)}"
            for name, value in _fields(event)
            if value is not None and value is not False and name not in shown
        ]
    )
    source = f"{event.get('log_namespace') or '-'}#{level}"
    line = f"{local_time(int(event['log_time']))} [{source}] {escape(_message(event))}"
    if extra:
        line = f"{line} [{extra}]"
    failure = event.get("log_failure")
    if failure is not None:
        line += "".join(f"\n\t{escape(part)}" for part in failure.getTraceback().rstrip().split("\n"))
    return line + "\n"


@lru_cache(maxsize=1000)
def _shown_fields(log_format: str) -> frozenset[str]:
    """The fields that a message contains and that are not repeated, except the ids that operators search for."""
    return frozenset(_FIELD.findall(log_format)) - {"request_id", "order_id"}


@lru_cache(maxsize=10)
def local_time(second: int) -> str:
    """Return a time in seconds since the epoch as text lines have it."""
    return formatTime(second)


def utc_time(seconds: float) -> str:
    """Return a time in seconds since the epoch as JSON lines have it."""
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat(timespec="milliseconds")


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
    if PROCESS_ID is not None:
        yield "pid", PROCESS_ID
    for name, value in event.items():
        if (value is None or isinstance(value, _PLAIN)) and not name.startswith("log_") and name not in _INTERNAL:
            yield name, value


def escape(text: str) -> str:
    """Return a text in which control characters and other line ends are escaped."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def quote(value: Any) -> str:
    """Return a field's value as text lines have it: in quotes unless it is a single word."""
    text = str(value)
    return text if _UNQUOTED.fullmatch(text) else escape(json.dumps(text, ensure_ascii=False))

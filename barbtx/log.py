"""Log lines for machines: ``twistd --logger barbtx.log.json_lines …``."""

from __future__ import annotations

import datetime
import json
import sys
from typing import Any, TextIO

from twisted.logger import FileLogObserver, ILogObserver, formatEvent

# What twisted.logger and the old log module put into events for themselves.
_INTERNAL = frozenset({"message", "time", "format", "isError", "system", "failure", "why", "text", "log_text"})


def json_lines(stream: TextIO | None = None) -> ILogObserver:
    """An observer that writes each event as one line of JSON.

    Beside ``time``, ``level``, ``logger`` and ``message`` a line has the event's own plain fields, such as
    ``request_id``, and the ``traceback`` of a failure. Local variables are never part of it.

    :param stream: standard output if not given.
    """
    return FileLogObserver(stream or sys.stdout, _line)


def _line(event: dict[str, Any]) -> str:
    moment = datetime.datetime.fromtimestamp(event["log_time"], datetime.timezone.utc)
    fields: dict[str, Any] = {
        "time": moment.isoformat(timespec="milliseconds"),
        "level": event["log_level"].name if event.get("log_level") else None,
        "logger": event.get("log_namespace"),
        "message": formatEvent(event),
    }
    fields |= {name: value for name, value in event.items()
               if not name.startswith("log_") and name not in _INTERNAL
               and (value is None or isinstance(value, (str, int, float, bool)))}
    failure = event.get("log_failure")
    if failure is not None:
        fields["traceback"] = failure.getTraceback()
    return json.dumps(fields) + "\n"

"""The access log: one line for each request when it ends.

Query strings and bodies are not logged, because they may contain secrets or name them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.logger import Logger, LogLevel

if TYPE_CHECKING:
    from barbtx.api.http import Request

log = Logger()


def log_request(request: Request, seconds: float, disconnected: bool) -> None:
    """Log a request that has ended.

    :param seconds: duration of its processing.
    :param disconnected: whether the client disconnected before the response was complete.
    """
    context, error = request.context, request.error
    debug = {name: str(value) for name, value in error.debug.items()} if error is not None else {}
    fields: dict[str, object] = {
        "method": request.method.decode("ascii", "replace"),
        "path": request.path.decode("ascii", "backslashreplace"),
        "status": request.code,
        "milliseconds": seconds * 1000,
        "request_id": request.request_id,
        "project_id": context.project_id if context is not None else None,
        "user_id": context.user_id if context is not None else None,
        "client": str(request.sender),
        "object_id": _created_id(request),
        "reason": error.description if error is not None else None,
        "disconnected": disconnected,
    }
    level = LogLevel.debug if request.is_health_check and request.code == 200 else LogLevel.info
    log.emit(level, "{method} {path} {status} {milliseconds:.1f} ms", **(debug | fields))


def _created_id(request: Request) -> str | None:
    """Return the id of the object that the request created, taken from the ``Location`` header."""
    if request.code not in (201, 202):
        return None
    locations = request.responseHeaders.getRawHeaders("location", [])
    return locations[0].rpartition("/")[2] if locations else None

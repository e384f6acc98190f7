"""One line for each request, when it has been answered: who asked, what for, and if it was refused, why.

A query string may name a secret, and a body may be one; neither is part of it.
"""

from __future__ import annotations

from typing import Any

from twisted.logger import Logger, LogLevel

log = Logger()


def log_request(request: Any, seconds: float, disconnected: bool) -> None:
    """Log a request that has ended.

    :param disconnected: whether the client went away before it was answered.
    """
    context, fault = request.context, request.fault
    debug = {name: str(value) for name, value in fault.debug.items()} if fault is not None else {}
    log.emit(
        LogLevel.debug if request.probe and request.code == 200 else LogLevel.info,
        "{method} {path} {status} {milliseconds:.1f} ms",
        **(
            debug
            | {
                "method": request.method.decode("ascii", "replace"),
                "path": request.path.decode("ascii", "backslashreplace"),
                "status": request.code,
                "milliseconds": seconds * 1000,
                "request_id": request.request_id,
                "project_id": context and context.project_id,
                "user_id": context and context.user_id,
                "client": str(request.sender),
                "object_id": _created(request),
                "reason": fault and fault.description,
                "disconnected": disconnected,
            }
        ),
    )


def _created(request: Any) -> str | None:
    """The id of what the request created."""
    if request.code not in (201, 202):
        return None
    location = request.responseHeaders.getRawHeaders("location", [None])[0]
    return location and location.rpartition("/")[2]

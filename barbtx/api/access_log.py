"""The access log: one line for each request when it ends.

Query strings and bodies are not logged, because they may contain secrets or name them.
"""

from __future__ import annotations

import time
from json.encoder import encode_basestring_ascii
from typing import TYPE_CHECKING

from twisted.logger import Logger, LogLevel

from barbtx.log_lines import PROCESS_ID, SelfFormattingEvent, escape, local_time, quote, utc_time

if TYPE_CHECKING:
    from barbtx.api.http import Request

log = Logger()

_FORMAT = "{method} {path} {status} {milliseconds:.1f} ms"
_OTHERS = ("order_id", "request_id", "project_id", "user_id", "client", "object_id", "reason")


class AccessEvent(SelfFormattingEvent):
    """The event of a request without an error whose cause is logged. Its fields are known, which makes it cheap."""

    def as_text(self) -> str:
        """Format the event as a line of text."""
        parts = [f"{name}={quote(value)}" for name in _OTHERS if (value := self.get(name)) is not None]
        if PROCESS_ID is not None:
            parts.insert(1 if "order_id" in self else 0, f"pid={PROCESS_ID}")
        if self["disconnected"]:
            parts.append("disconnected=True")
        return (
            f"{local_time(int(self['log_time']))} [{self['log_namespace']}#{self['log_level'].name}] "
            f"{escape(_message(self))} [{' '.join(parts)}]\n"
        )

    def as_json(self) -> str:
        """Format the event as a line of JSON."""
        order_id = self.get("order_id")
        ids = "" if order_id is None else f', "order_id": {_json(order_id)}'
        if PROCESS_ID is not None:
            ids += f', "pid": {PROCESS_ID}'
        return (
            f'{{"time": "{utc_time(self["log_time"])}", "level": "{self["log_level"].name}", '
            f'"logger": "{self["log_namespace"]}", "message": {_json(_message(self))}{ids}, '
            f'"method": {_json(self["method"])}, "path": {_json(self["path"])}, "status": {self["status"]}, '
            f'"milliseconds": {self["milliseconds"]!r}, "request_id": {_json(self["request_id"])}, '
            f'"project_id": {_json(self["project_id"])}, "user_id": {_json(self["user_id"])}, '
            f'"client": {_json(self["client"])}, "object_id": {_json(self["object_id"])}, '
            f'"reason": {_json(self["reason"])}, "disconnected": {"true" if self["disconnected"] else "false"}}}\n'
        )


def _message(event: AccessEvent) -> str:
    return f"{event['method']} {event['path']} {event['status']} {event['milliseconds']:.1f} ms"


def _json(text: str | None) -> str:
    return "null" if text is None else encode_basestring_ascii(text)


def log_request(request: Request, seconds: float, disconnected: bool) -> None:
    """Log a request that has ended.

    :param seconds: duration of its processing.
    :param disconnected: whether the client disconnected before the response was complete.
    """
    context, error, status = request.context, request.error, request.code
    event = AccessEvent(
        method=request.method.decode("ascii", "replace"),
        path=request.path.decode("ascii", "backslashreplace"),
        status=status,
        milliseconds=seconds * 1000,
        request_id=request.request_id,
        project_id=context.project_id if context is not None else None,
        user_id=context.user_id if context is not None else None,
        client=request.sender.text,
        object_id=_created_id(request) if status in (201, 202) else None,
        reason=error.description if error is not None else None,
        disconnected=disconnected,
        log_logger=log,
        log_level=LogLevel.debug if request.is_health_check and status == 200 else LogLevel.info,
        log_namespace=log.namespace,
        log_source=None,
        log_format=_FORMAT,
        log_time=time.time(),
    )
    order_id = request.activity.order_id
    if error is not None and error.debug:
        order = {} if order_id is None else {"order_id": order_id}
        log.observer({**order, **{name: str(value) for name, value in error.debug.items()}, **event})
        return
    if order_id is not None:
        event["order_id"] = order_id
    log.observer(event)


def _created_id(request: Request) -> str | None:
    """Return the id of the object that the request created, taken from the ``Location`` header."""
    locations = request.sent.get(b"Location")
    return locations[0].decode().rpartition("/")[2] if locations else None

"""What goes back to the client: one function renders success, one renders failure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from barbtx.api import json_documents
from barbtx.errors import TITLES, ErrorResponse

#: Headers of every answer: nothing of a key manager is to be kept by a cache, or taken for what it is not labelled as.
ALWAYS: Mapping[str, str] = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


@attrs.frozen
class Response:
    """A success.

    :ivar document: to be sent as JSON, unless there is ``content``; with neither there is no body.
    """

    status: int = 200
    document: Any = None
    content: bytes | None = attrs.field(default=None, repr=False)
    content_type: str = "application/json"
    headers: Mapping[str, str] = attrs.field(factory=dict)


def write_response(request: Any, answer: Response) -> bytes:
    """Set a request's status and headers; the body to be written."""
    body = answer.content
    if body is None:
        body = b"" if answer.document is None else json_documents.write(answer.document).encode()
    _apply(request, answer.status, answer.headers, body, answer.content_type)
    return body


def render_error(fault: ErrorResponse) -> bytes:
    """A failure as the contract shapes it (section 1.7)."""
    document = {"code": fault.status, "title": fault.title, "description": fault.description}
    return json_documents.write(document).encode()


def write_error(request: Any, fault: ErrorResponse) -> bytes:
    """As :func:`write_response`, for a failure; it carries the request's id, and is left on the request for the log."""
    request.fault = fault
    body = render_error(fault)
    show_request_id(request)
    _apply(request, fault.status, fault.headers, body, "application/json")
    return body


def write_early_error(request: Any, fault: ErrorResponse) -> bytes:
    """As :func:`write_error`, for the steps before the application: plain text for who does not ask for JSON.

    So clients know it of the reference, which leaves these answers to its framework.
    """
    accept = request.getHeader(b"accept") or b""
    if b"application/json" in accept or b"*/*" in accept:
        return write_error(request, fault)
    request.fault = fault
    body = f"{fault.status} {fault.title}\n\n{fault.description or ''}\n".encode()
    show_request_id(request)
    _apply(request, fault.status, fault.headers, body, "text/plain; charset=utf-8")
    return body


def show_request_id(request: Any) -> None:
    """Tell the client the request's id, by which the log knows it."""
    request.setHeader(b"x-openstack-request-id", request.request_id.encode())


def add_vary(request: Any, name: str) -> None:
    """Say that the answer depends on a request header, beside those that earlier steps named.

    They share one line: some clients read one only.
    """
    before = request.responseHeaders.getRawHeaders(b"vary", [])
    request.responseHeaders.setRawHeaders(b"vary", [b", ".join([*before, name.encode()])])


def _apply(request: Any, status: int, headers: Mapping[str, str], body: bytes, content_type: str) -> None:
    request.setResponseCode(status, TITLES[status].encode())
    for name, value in headers.items():
        if name == "Vary":
            add_vary(request, value)
        else:
            request.setHeader(name.encode(), value.encode())
    if status == 204:
        return
    request.setHeader(b"content-length", b"%d" % len(body))
    if body:
        request.setHeader(b"content-type", content_type.encode())

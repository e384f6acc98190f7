"""Writing of responses: headers, successful results and errors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import attrs

from barbtx.api import json_documents
from barbtx.errors import TITLES, ErrorResponse

if TYPE_CHECKING:
    from barbtx.api.http import Request

#: Headers of every response: caches must not store it, and browsers must not guess another content type.
ALWAYS: Mapping[str, str] = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
#: The same as bytes, by the canonical form of the names.
ALWAYS_RAW: Mapping[bytes, bytes] = {name.encode(): value.encode() for name, value in ALWAYS.items()}

_PHRASES = {status: title.encode() for status, title in TITLES.items()}
_JSON = "application/json"


@attrs.frozen
class Response:
    """A successful response. Without ``document`` and ``content`` it has no body.

    :ivar document: the body, to be serialized as JSON; ignored if there is ``content``.
    :ivar content: the body as bytes.
    :ivar content_type: media type of the body, with parameters.
    """

    status: int = 200
    document: Any = None
    content: bytes | None = attrs.field(default=None, repr=False)
    content_type: str = _JSON
    headers: Mapping[str, str] = attrs.field(factory=dict)


def write_response(request: Request, response: Response) -> bytes:
    """Set a request's status and headers, and return the body to be written."""
    body = response.content
    if body is None:
        body = b"" if response.document is None else json_documents.write(response.document).encode()
    _write_head(request, response.status, response.headers, body, response.content_type)
    return body


def render_error(error: ErrorResponse) -> bytes:
    """Return the JSON body of an error (contract, section 1.7)."""
    document = {"code": error.status, "title": error.title, "description": error.description}
    return json_documents.write(document).encode()


def write_error(request: Request, error: ErrorResponse) -> bytes:
    """Set a request's status and headers for an error, record the error for the access log, and return the body."""
    request.error = error
    body = render_error(error)
    show_request_id(request)
    _write_head(request, error.status, error.headers, body, _JSON)
    return body


def write_early_error(request: Request, error: ErrorResponse) -> bytes:
    """Like :func:`write_error`, for errors of the pipeline: plain text unless the client accepts JSON.

    The reference implementation's framework responds to such errors, and clients expect its format.
    """
    accept = request.received.get(b"Accept", (b"",))[-1]
    if b"application/json" in accept or b"*/*" in accept:
        return write_error(request, error)
    request.error = error
    body = f"{error.status} {error.title}\n\n{error.description or ''}\n".encode()
    show_request_id(request)
    _write_head(request, error.status, error.headers, body, "text/plain; charset=utf-8")
    return body


def show_request_id(request: Request) -> None:
    """Set the header with the request's id, by which it can be found in the log."""
    request.set_response_headers({b"X-Openstack-Request-Id": request.request_id.encode()})


def add_vary(request: Request, name: bytes) -> None:
    """Add the name of a request header to ``Vary``, as a single header line: some clients read only one."""
    request.set_response_headers({b"Vary": b", ".join((*request.sent.get(b"Vary", ()), name))})


def _write_head(request: Request, status: int, headers: Mapping[str, str], body: bytes, content_type: str) -> None:
    request.setResponseCode(status, _PHRASES[status])
    for name, value in headers.items():
        if name == "Vary":
            add_vary(request, value.encode())
        else:
            request.setHeader(name.encode(), value.encode())
    if status == 204:
        return
    request.set_response_headers({b"Content-Length": b"%d" % len(body)})
    if body:
        # The media type of a payload is a client's text.
        request.setHeader(b"content-type", content_type.encode())

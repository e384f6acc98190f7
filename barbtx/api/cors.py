"""Cross-origin resource sharing (CORS): which web pages of other sites may read responses.

The protocol is defined by the Fetch standard. The options have the same names as those of oslo.middleware.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
from oslo_config import cfg

from barbtx.api.responses import add_vary

if TYPE_CHECKING:
    from barbtx.api.http import Request

_HEADERS = [
    "X-Auth-Token",
    "X-Openstack-Request-Id",
    "X-Project-Id",
    "X-Identity-Status",
    "X-User-Id",
    "X-Storage-Token",
    "X-Domain-Id",
    "X-User-Domain-Id",
    "X-Project-Domain-Id",
    "X-Roles",
]

OPTIONS = {
    "cors": [
        cfg.ListOpt(
            "allowed_origin",
            default=[],
            help="Origins whose pages may use the API, such as https://dashboard.example; * allows all origins. If "
            "empty, responses have no CORS headers.",
        ),
        cfg.BoolOpt(
            "allow_credentials",
            default=True,
            help="Whether browsers may send credentials with requests from allowed origins.",
        ),
        cfg.ListOpt(
            "expose_headers", default=_HEADERS, help="Response headers that pages of allowed origins may read."
        ),
        cfg.ListOpt("allow_headers", default=_HEADERS, help="Request headers that pages of allowed origins may send."),
        cfg.ListOpt(
            "allow_methods",
            default=["GET", "PUT", "POST", "DELETE", "PATCH"],
            help="Methods that pages of allowed origins may use.",
        ),
        cfg.IntOpt(
            "max_age",
            default=3600,
            min=0,
            help="Time in seconds for which browsers may cache the response to a preflight request. With 0 they do "
            "not cache it.",
        ),
    ],
}


@attrs.frozen
class Cors:
    """Adds CORS headers to responses for allowed origins.

    :ivar options: the configuration group ``[cors]``.
    """

    options: cfg.ConfigOpts.GroupAttr

    def add_headers(self, request: Request) -> None:
        """Add the headers that allow the request's origin to read the response, if that origin is allowed."""
        origins = request.received.get(b"Origin")
        if not origins:
            return
        options = self.options
        if not options.allowed_origin:
            return
        text = origins[-1].decode("ascii", "replace")
        if text not in options.allowed_origin and "*" not in options.allowed_origin:
            return
        self._set(request, "Access-Control-Allow-Origin", text)
        add_vary(request, b"Origin")
        if options.allow_credentials and "*" not in options.allowed_origin:
            self._set(request, "Access-Control-Allow-Credentials", "true")
        if request.method == b"OPTIONS" and request.getHeader(b"access-control-request-method"):
            self._set(request, "Access-Control-Allow-Methods", ",".join(options.allow_methods))
            self._set(request, "Access-Control-Allow-Headers", ",".join(options.allow_headers))
            self._set(request, "Access-Control-Max-Age", str(options.max_age))
        else:
            self._set(request, "Access-Control-Expose-Headers", ",".join(options.expose_headers))

    @staticmethod
    def _set(request: Request, name: str, value: str) -> None:
        request.responseHeaders.setRawHeaders(name.encode(), [value.encode()])

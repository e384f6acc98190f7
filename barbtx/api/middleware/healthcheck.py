"""The health check for load balancers, ``/healthcheck``.

It reports that the process is up and its reactor runs. It does not use the database, the broker or Keystone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from barbtx.api.leaf import LeafResource
from barbtx.api.responses import Response, write_error, write_response
from barbtx.api.root import Builder
from barbtx.errors import MethodNotAllowed, NotFound, to_error_response

if TYPE_CHECKING:
    from barbtx.api.http import Request


class Healthcheck(LeafResource):
    """Responds to GET and HEAD with ``OK``, without authentication."""

    def render(self, request: Request) -> bytes:
        """Return ``OK``, or an error for another method or a path below this one."""
        request.is_health_check = True
        if len(request.postpath) > 1:
            return write_error(
                request, to_error_response(NotFound("There is nothing below /healthcheck."), "Health check")
            )
        if request.method not in (b"GET", b"HEAD"):
            return write_error(request, to_error_response(MethodNotAllowed(("GET", "HEAD")), "Health check"))
        return write_response(request, Response(content=b"OK", content_type="text/plain"))


def app_factory(global_conf: object) -> Builder:
    """Make the builder of the health check. A PasteDeploy application factory."""
    return lambda context: Healthcheck()

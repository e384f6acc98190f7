"""Answers load balancers: the process is up and its reactor turns."""

from __future__ import annotations

from twisted.web.iweb import IRequest
from twisted.web.resource import Resource

from barbtx.api.responses import Response, write_error, write_response
from barbtx.api.root import Builder
from barbtx.errors import MethodNotAllowed, NotFound, describe


class Healthcheck(Resource):
    isLeaf = True

    def render(self, request: IRequest) -> bytes:
        request.probe = True
        if len(request.postpath) > 1:
            return write_error(request, describe(NotFound("There is nothing below /healthcheck."), "Health check"))
        if request.method not in (b"GET", b"HEAD"):
            return write_error(request, describe(MethodNotAllowed(("GET", "HEAD")), "Health check"))
        return write_response(request, Response(content=b"OK", content_type="text/plain"))


def app_factory(global_conf: object) -> Builder:
    """PasteDeploy application factory."""
    return lambda dependencies: Healthcheck()

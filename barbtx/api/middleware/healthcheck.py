"""Answers load balancers: the process is up and its reactor turns."""

from __future__ import annotations

from twisted.web.iweb import IRequest
from twisted.web.resource import Resource

from barbtx.api.answers import Answer, apply_answer, apply_fault
from barbtx.api.front import Builder
from barbtx.errors import MethodNotAllowed, NotFound, describe


class Healthcheck(Resource):
    isLeaf = True

    def render(self, request: IRequest) -> bytes:
        request.probe = True
        if len(request.postpath) > 1:
            return apply_fault(request, describe(NotFound("There is nothing below /healthcheck."), "Health check"))
        if request.method not in (b"GET", b"HEAD"):
            return apply_fault(request, describe(MethodNotAllowed(("GET", "HEAD")), "Health check"))
        return apply_answer(request, Answer(content=b"OK", content_type="text/plain"))


def app_factory(global_conf: object) -> Builder:
    """PasteDeploy application factory."""
    return lambda services: Healthcheck()

"""Gives each request an id, for the client's and the operator's logs."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

from barbtx import activity
from barbtx.api.front import Builder
from barbtx.api.middleware.base import Filter


class RequestId(Filter):
    """Always a new id; what a client sends is theirs, and not trusted to be unique."""

    def before(self, request: Any) -> None:
        request.request_id = f"req-{uuid.uuid4()}"
        activity.note(request_id=request.request_id)
        request.setHeader(b"x-openstack-request-id", request.request_id.encode())


def filter_factory(global_conf: object) -> Callable[[Builder], Builder]:
    """PasteDeploy filter factory."""
    return lambda build: lambda services: RequestId(build(services))

"""Adds the request id to each response, so that clients and operators can find the request in the log."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from barbtx.api.middleware.base import Filter
from barbtx.api.responses import show_request_id
from barbtx.api.root import Builder

if TYPE_CHECKING:
    from barbtx.api.http import Request


class RequestId(Filter):
    """Sets the header ``X-Openstack-Request-Id``."""

    def before(self, request: Request) -> None:
        """Set the header."""
        show_request_id(request)


def filter_factory(global_conf: object) -> Callable[[Builder], Builder]:
    """Make the step's builder. A PasteDeploy filter factory."""
    return lambda build: lambda context: RequestId(build(context))

"""Shows each request's id, for the client's and the operator's logs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from barbtx.api.middleware.base import Filter
from barbtx.api.responses import show_request_id
from barbtx.api.root import Builder


class RequestId(Filter):
    def before(self, request: Any) -> None:
        show_request_id(request)


def filter_factory(global_conf: object) -> Callable[[Builder], Builder]:
    """PasteDeploy filter factory."""
    return lambda build: lambda dependencies: RequestId(build(dependencies))

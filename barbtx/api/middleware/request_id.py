"""Gives each request an id, for the client's and the operator's logs."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from typing import Any

import attrs

from barbtx import activity
from barbtx.api.front import Builder
from barbtx.api.hrefs import client_of
from barbtx.api.middleware.base import Filter


@attrs.frozen(eq=False)
class RequestId(Filter):
    """Always a new id; what a client sends is theirs, and not trusted to be unique.

    :ivar trusted_proxies: networks whose word on the client's address is believed.
    """

    trusted_proxies: Sequence[Any] = ()

    def before(self, request: Any) -> None:
        request.request_id = f"req-{uuid.uuid4()}"
        request.client_address = client_of(request, self.trusted_proxies)
        activity.note(request_id=request.request_id)
        request.setHeader(b"x-openstack-request-id", request.request_id.encode())


def filter_factory(global_conf: object) -> Callable[[Builder], Builder]:
    """PasteDeploy filter factory."""
    return lambda build: lambda services: RequestId(build(services), services.conf.api.trusted_proxies)

"""The base class of pipeline steps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.web.resource import IResource
from twisted.web.server import NOT_DONE_YET

from barbtx.api.leaf import LeafResource
from barbtx.api.responses import write_early_error
from barbtx.errors import BarbtxError, ErrorResponse, to_error_response
from barbtx.validators import provides

if TYPE_CHECKING:
    from barbtx.api.http import Request


@attrs.frozen(eq=False)
class Filter(LeafResource, ABC):
    """A pipeline step that examines a request and passes it to the next resource, or rejects it.

    :ivar wrapped: the next resource.
    """

    wrapped: IResource = attrs.field(validator=provides(IResource), repr=False)

    @abstractmethod
    def before(self, request: Request) -> Deferred[None] | None:
        """Examine the request, and set the attributes that later steps need.

        :return: None, or a Deferred that fires when the step has finished. It is canceled if the client disconnects.
        :raises BarbtxError: (synchronously or through the Deferred) the request is rejected.
        """

    def render(self, request: Request) -> bytes | int:
        """Render the next resource after :meth:`before`, or an error if that rejects the request."""
        try:
            pending = self.before(request)
        except BarbtxError as problem:
            return self.render_error(request, to_error_response(problem, "Request"))
        if pending is None:
            body: bytes | int = self.wrapped.render(request)
            return body
        request.notifyFinish().addErrback(lambda _: pending.cancel())
        Deferred.fromCoroutine(self._render_after(pending, request)).addErrback(request.processingFailed)
        return NOT_DONE_YET

    async def _render_after(self, pending: Deferred[None], request: Request) -> None:
        try:
            await pending
        except CancelledError:
            return
        except BarbtxError as problem:
            body: bytes | int = self.render_error(request, to_error_response(problem, "Request"))
        else:
            body = self.wrapped.render(request)
        if isinstance(body, bytes):
            request.respond(body)

    def render_error(self, request: Request, error: ErrorResponse) -> bytes:
        """Set the response's status and headers for a rejected request, and return its body."""
        return write_early_error(request, error)

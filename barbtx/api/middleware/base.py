"""The shape of a filter."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.web.iweb import IRequest
from twisted.web.resource import IResource
from twisted.web.server import NOT_DONE_YET
from zope.interface import implementer

from barbtx.api.responses import write_early_error
from barbtx.errors import BarbtxError, ErrorResponse, describe


@implementer(IResource)
@attrs.frozen(eq=False)
class Filter(ABC):
    """Looks at a request and passes it on, or refuses it by raising a :class:`BarbtxError`."""

    wrapped: IResource

    isLeaf = True

    @abstractmethod
    def before(self, request: Any) -> Deferred[None] | None:
        """Look at the request; leave on it what later steps need.

        :return: None if that is done, else what fires when it is.
        :raises BarbtxError: (perhaps asynchronously) it goes no further.
        """

    def render(self, request: IRequest) -> bytes | int:
        try:
            looking = self.before(request)
        except BarbtxError as problem:
            return self.refuse(request, describe(problem, "Request"))
        if looking is None:
            return self.wrapped.render(request)
        request.notifyFinish().addErrback(lambda _: looking.cancel())
        Deferred.fromCoroutine(self._render_after(looking, request)).addErrback(request.processingFailed)
        return NOT_DONE_YET

    async def _render_after(self, looking: Deferred[None], request: Any) -> None:
        try:
            await looking
        except CancelledError:
            return
        except BarbtxError as problem:
            body: bytes | int = self.refuse(request, describe(problem, "Request"))
        else:
            body = self.wrapped.render(request)
        if body is not NOT_DONE_YET:
            request.write(body)
            request.finish()

    def refuse(self, request: Any, fault: ErrorResponse) -> bytes:
        """Render a refusal."""
        return write_early_error(request, fault)

    def getChildWithDefault(self, name: bytes, request: IRequest) -> IResource:
        return self

    def putChild(self, path: bytes, child: IResource) -> None:
        raise TypeError("a filter has no children")

"""The shape of a filter."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import attrs
from twisted.web.iweb import IRequest
from twisted.web.resource import IResource
from zope.interface import implementer

from barbtx.api.answers import apply_early_fault
from barbtx.errors import BarbtxError, Fault, describe


@implementer(IResource)
@attrs.frozen(eq=False)
class Filter(ABC):
    """Looks at a request and passes it on, or refuses it by raising a :class:`BarbtxError`."""

    wrapped: IResource

    isLeaf = True

    @abstractmethod
    def before(self, request: Any) -> None:
        """Look at the request; leave on it what later steps need.

        :raises BarbtxError: it goes no further.
        """

    def render(self, request: IRequest) -> bytes | int:
        try:
            self.before(request)
        except BarbtxError as problem:
            return self.refuse(request, describe(problem, "Request"))
        return self.wrapped.render(request)

    def refuse(self, request: Any, fault: Fault) -> bytes:
        """Render a refusal."""
        return apply_early_fault(request, fault)

    def getChildWithDefault(self, name: bytes, request: IRequest) -> IResource:
        return self

    def putChild(self, path: bytes, child: IResource) -> None:
        raise TypeError("a filter has no children")

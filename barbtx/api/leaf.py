"""The base class of resources that handle all paths below them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.web.resource import IResource
from zope.interface import implementer

if TYPE_CHECKING:
    from barbtx.api.http import Request


@implementer(IResource)
class LeafResource:
    """A resource without child resources; subclasses define ``render``."""

    isLeaf = True

    def render(self, request: Request) -> bytes | int:
        """Return the response's body, or ``NOT_DONE_YET``."""
        raise NotImplementedError

    def getChildWithDefault(self, name: bytes, request: Request) -> IResource:
        """Return this resource."""
        return self

    def putChild(self, path: bytes, child: IResource) -> None:
        """Raise TypeError."""
        raise TypeError(f"{type(self).__name__} has no child resources")

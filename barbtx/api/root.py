"""The front door: one reading of the path, before anything decides by it.

Paths are decoded here, once, segment by segment. An encoded slash is refused, since later readers could not tell it
from a real one; doubled and trailing slashes name the same resource.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import unquote_to_bytes

import attrs
from twisted.web.iweb import IRequest
from twisted.web.resource import IResource
from zope.interface import implementer

from barbtx.api.cors import Cors
from barbtx.api.dependencies import Dependencies
from barbtx.api.responses import write_error
from barbtx.errors import ErrorResponse

#: Makes a resource once the services are there; what PasteDeploy passes around instead of WSGI applications.
Builder = Callable[[Dependencies], IResource]

# Two spellings of a resource that clients of the reference may have come to use.
_INDEX = re.compile(r"/v1/[^/]+/[^/]+/index")
_JSON_SUFFIX = re.compile(r"/v1/[^/]+/[^/]+\.json")


def composite_factory(loader: Any, global_conf: Mapping[str, str], **mounts: str) -> Builder:
    """PasteDeploy: ``/first-segment = application`` lines, ``/`` for the bare root and everything else."""
    builders = {path.strip("/"): loader.get_app(name, global_conf=global_conf) for path, name in mounts.items()}
    return lambda dependencies: RootResource(
        {name: build(dependencies) for name, build in builders.items()}, Cors(dependencies.conf.cors)
    )


@implementer(IResource)
@attrs.frozen(eq=False)
class RootResource:
    """Answers OPTIONS, settles the path and passes the request on by its first segment."""

    mounts: Mapping[str, IResource]
    cors: Cors

    isLeaf = True

    def render(self, request: IRequest) -> bytes | int:
        self.cors.mark(request)
        if request.method == b"OPTIONS":
            request.setHeader(b"content-length", b"0")
            return b""
        try:
            path = normalize_path(request.path)
        except ValueError as problem:
            return write_error(request, ErrorResponse(400, str(problem)))
        request.postpath = [segment.encode() for segment in path.split("/")[1:]]
        mount = self.mounts.get(path.split("/")[1], self.mounts[""])
        return mount.render(request)

    def getChildWithDefault(self, name: bytes, request: IRequest) -> IResource:
        return self

    def putChild(self, path: bytes, child: IResource) -> None:
        raise TypeError("the front door has no children but its mounts")


def normalize_path(path: bytes) -> str:
    """The one spelling of a path: decoded, without empty segments.

    :raises ValueError: it has an encoded slash or NUL, or is not UTF-8; the text says so.
    """
    segments = [unquote_to_bytes(segment) for segment in path.split(b"/")]
    if any(b"/" in segment or b"\0" in segment for segment in segments):
        raise ValueError("The path has an encoded slash or NUL; identifiers have none.")
    try:
        settled = "/" + "/".join(segment.decode() for segment in segments if segment)
    except UnicodeDecodeError:
        raise ValueError("The path is not UTF-8.") from None
    if _INDEX.fullmatch(settled):
        return settled.removesuffix("/index")
    if _JSON_SUFFIX.fullmatch(settled):
        return settled.removesuffix(".json")
    return settled

"""The root resource: it normalizes the path and dispatches to the pipeline that is mounted there.

Paths are decoded here and nowhere else, so that authentication, access rules and routing see the same path. An encoded
slash is rejected, because decoded it could not be told from a separator. Doubled and trailing slashes are ignored.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes

import attrs
from twisted.web.resource import IResource

from barbtx.api.cors import Cors
from barbtx.api.dependencies import PipelineContext
from barbtx.api.leaf import LeafResource
from barbtx.api.responses import write_error
from barbtx.errors import ErrorResponse
from barbtx.validators import provides

if TYPE_CHECKING:
    from barbtx.api.http import Request

#: Makes a resource of the pipeline. PasteDeploy's factories return these instead of WSGI applications.
Builder = Callable[[PipelineContext], IResource]

# A path that has no encoded characters and no empty segments.
_PLAIN = re.compile(rb"(?:/[!-$&-.0-~]+)+|/")
# The reference implementation accepts these two suffixes, and existing clients may use them.
_INDEX = re.compile(r"/v1/[^/]+/[^/]+/index")
_JSON_SUFFIX = re.compile(r"/v1/[^/]+/[^/]+\.json")


def composite_factory(loader: Any, global_conf: Mapping[str, str], **mounts: str) -> Builder:
    """Make the builder of a :class:`RootResource`. A PasteDeploy composite factory.

    :param loader: PasteDeploy's loader of applications.
    :param mounts: names of applications by path: ``/<first segment>``, or ``/`` for all other paths.
    """
    builders: dict[str, Builder] = {
        path.strip("/"): loader.get_app(name, global_conf=global_conf) for path, name in mounts.items()
    }
    return lambda context: RootResource(
        {name: build(context) for name, build in builders.items()}, Cors(context.conf.cors)
    )


@attrs.frozen(eq=False)
class RootResource(LeafResource):
    """Responds to OPTIONS, normalizes the path, and dispatches by its first segment.

    :ivar mounts: resources by first segment; ``""`` for all other paths.
    """

    mounts: Mapping[str, IResource] = attrs.field(
        validator=attrs.validators.deep_mapping(value_validator=provides(IResource)), repr=False
    )
    cors: Cors

    def render(self, request: Request) -> bytes | int:
        """Render the mounted resource, with ``request.postpath`` set to the segments of the normalized path."""
        self.cors.add_headers(request)
        if request.method == b"OPTIONS":
            request.setHeader(b"content-length", b"0")
            return b""
        try:
            path = normalize_path(request.path)
        except ValueError as problem:
            return write_error(request, ErrorResponse(400, str(problem)))
        request.postpath = path.encode().split(b"/")[1:]
        mount = self.mounts.get(path.split("/", 2)[1], self.mounts[""])
        body: bytes | int = mount.render(request)
        return body


def normalize_path(path: bytes) -> str:
    """Return the normalized path: decoded, without empty segments, and without the suffixes of old clients.

    :raises ValueError: the path contains an encoded slash or NUL, or is not UTF-8. The text can be sent to the client.
    """
    if _PLAIN.fullmatch(path):
        normalized = path.decode()
    else:
        segments = [unquote_to_bytes(segment) for segment in path.split(b"/")]
        if any(b"/" in segment or b"\0" in segment for segment in segments):
            raise ValueError("The path contains an encoded slash or NUL.")
        try:
            normalized = "/" + "/".join(segment.decode() for segment in segments if segment)
        except UnicodeDecodeError:
            raise ValueError("The path is not UTF-8.") from None
    if not normalized.endswith(("/index", ".json")):
        return normalized
    if _INDEX.fullmatch(normalized):
        return normalized.removesuffix("/index")
    if _JSON_SUFFIX.fullmatch(normalized):
        return normalized.removesuffix(".json")
    return normalized

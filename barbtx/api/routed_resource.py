"""Klein's resource, with a shorter way to the endpoints."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import attrs
from klein import Klein
from klein.resource import KleinResource
from twisted.internet.defer import Deferred
from twisted.web.iweb import IRequest
from twisted.web.server import NOT_DONE_YET
from werkzeug.routing import Rule

if TYPE_CHECKING:
    from barbtx.api.http import Request

_UUID = re.compile(rb"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")
_VARIABLE = re.compile(r"<(\w+)>")

# The segments of a path, without those that are UUIDs.
_Shape = tuple[bytes | None, ...]


@attrs.frozen
class _Route:
    """A rule of Klein.

    :ivar names: the names of the variable segments, in their order.
    :ivar segment_count: the number of segments that Klein moves from ``postpath`` to ``prepath``.
    """

    endpoint: str
    names: tuple[str, ...]
    segment_count: int


class RoutedResource(KleinResource):
    """Finds the routes whose variable segments are all UUIDs in a table; Klein's own resource handles all other paths.

    That resource would bind the URL map for each request, and would wrap the endpoint in closures that refer to each
    other, which only the garbage collector can free.

    :param app: its endpoints return Deferreds of bytes, and handle their own errors.
    """

    def __init__(self, app: Klein) -> None:
        super().__init__(app)
        self._klein = app
        self._routes = dict(route for rule in app.url_map.iter_rules() for route in _routes_of(app, rule))

    def render(self, request: IRequest) -> Any:
        """Call the endpoint of the path, and respond when its Deferred fires."""
        # The site makes all requests.
        arrived = cast("Request", request)
        ids: list[str] = []
        shape: list[bytes | None] = []
        for segment in arrived.postpath:
            if len(segment) == 36 and _UUID.fullmatch(segment):
                ids.append(segment.decode())
                shape.append(None)
            else:
                shape.append(segment)
        route = self._routes.get(tuple(shape))
        if route is None:
            return super().render(request)
        arrived.prepath.extend(arrived.postpath[: route.segment_count])
        del arrived.postpath[: route.segment_count]
        arguments: Mapping[str, str] = dict(zip(route.names, ids, strict=True))
        running = self._klein.execute_endpoint(route.endpoint, arrived, **arguments)
        arrived.respond_later(cast("Deferred[bytes]", running))
        return NOT_DONE_YET


def _routes_of(app: Klein, rule: Rule) -> list[tuple[_Shape, _Route]]:
    """Return the route of a rule by the shape of its paths; none if a segment is variable in another way."""
    segments = rule.rule.split("/")[1:]
    variables = [_VARIABLE.fullmatch(segment) for segment in segments]
    if rule.methods is not None or any(
        "<" in text and not found for text, found in zip(segments, variables, strict=True)
    ):
        return []
    shape = tuple(None if found else text.encode() for text, found in zip(segments, variables, strict=True))
    names = tuple(found[1] for found in variables if found)
    # Klein sets the attribute on each handler, but does not declare it.
    handler: Any = app.endpoints[rule.endpoint]
    return [(shape, _Route(rule.endpoint, names, handler.segment_count))]

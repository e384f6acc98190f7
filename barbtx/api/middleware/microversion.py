"""Negotiates the microversion of the API (OpenStack's API guidelines on microversions)."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from barbtx.api.middleware.base import Filter
from barbtx.api.responses import add_vary
from barbtx.api.root import Builder
from barbtx.errors import BadRequest, NotAcceptable

if TYPE_CHECKING:
    from barbtx.api.http import Request

Version = tuple[int, int]

MINIMUM: Version = (1, 0)
MAXIMUM: Version = (1, 2)
_SERVICE = "key-manager"
_HEADER = b"Openstack-Api-Version"
_HEADER_IN_VARY = b"openstack-api-version"
_VERSION = re.compile(r"(\d{1,9})\.(\d{1,9})")


def version_text(version: Version) -> str:
    """Return a version as clients write it, such as ``1.2``."""
    return f"{version[0]}.{version[1]}"


def requested_version(header: str) -> Version:
    """Return the version that a header requests for this service.

    If the header names the service several times, the last one counts. If it does not name the service, or names it
    without a version, the result is the minimum.

    :param header: the values of all ``OpenStack-API-Version`` headers, joined by commas.
    :raises BadRequest: the version is malformed.
    :raises NotAcceptable: the version is not supported.
    """
    version = MINIMUM
    for item in header.split(","):
        service, *text = item.split(maxsplit=1) or [""]
        if service.lower() == _SERVICE:
            version = _parse(text[0].strip()) if text else MINIMUM
    return version


def _parse(text: str) -> Version:
    if text.lower() == "latest":
        return MAXIMUM
    match = _VERSION.fullmatch(text)
    if match is None:
        raise BadRequest("The microversion is malformed; use 'key-manager 1.2' or 'key-manager latest'.")
    version = int(match[1]), int(match[2])
    if not MINIMUM <= version <= MAXIMUM:
        raise NotAcceptable(f"There is no such microversion; {version_text(MINIMUM)} to {version_text(MAXIMUM)} are.")
    return version


class Microversion(Filter):
    """Sets ``request.microversion`` and the header ``OpenStack-API-Version`` of the response."""

    def before(self, request: Request) -> None:
        """Set the request's microversion.

        :raises BadRequest: the requested version is malformed.
        :raises NotAcceptable: the requested version is not supported.
        """
        values = request.received.get(_HEADER)
        version = requested_version(b",".join(values).decode("ascii", "replace")) if values else MINIMUM
        request.microversion = version
        request.set_response_headers({_HEADER: f"{_SERVICE} {version_text(version)}".encode()})
        add_vary(request, _HEADER_IN_VARY)


def filter_factory(global_conf: object) -> Callable[[Builder], Builder]:
    """Make the step's builder. A PasteDeploy filter factory."""
    return lambda build: lambda context: Microversion(build(context))

"""Settles which microversion of the API a request speaks.

Source: the contract, section 1.4; OpenStack's API guidelines on microversions.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from barbtx.api.middleware.base import Filter
from barbtx.api.responses import add_vary
from barbtx.api.root import Builder
from barbtx.errors import BadRequest, NotAcceptable

Version = tuple[int, int]

MINIMUM: Version = (1, 0)
MAXIMUM: Version = (1, 2)
_SERVICE = "key-manager"
_HEADER = b"openstack-api-version"
_VERSION = re.compile(r"(\d{1,9})\.(\d{1,9})")


def version_text(version: Version) -> str:
    return f"{version[0]}.{version[1]}"


def requested_version(header: str) -> Version:
    """The version that a header asks for: that of our service if it is named (the last time counts), else the oldest.

    The service without a version is as good as not named.

    :raises BadRequest: it cannot be read.
    :raises NotAcceptable: there is no such version.
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
        raise BadRequest("The microversion cannot be read; write 'key-manager 1.2' or 'key-manager latest'.")
    version = int(match[1]), int(match[2])
    if not MINIMUM <= version <= MAXIMUM:
        raise NotAcceptable(f"There is no such microversion; {version_text(MINIMUM)} to {version_text(MAXIMUM)} are.")
    return version


class Microversion(Filter):
    def before(self, request: Any) -> None:
        values = request.requestHeaders.getRawHeaders(_HEADER, [])
        request.microversion = requested_version(b",".join(values).decode("ascii", "replace"))
        request.setHeader(_HEADER, f"{_SERVICE} {version_text(request.microversion)}".encode())
        add_vary(request, _HEADER.decode())


def filter_factory(global_conf: object) -> Callable[[Builder], Builder]:
    """PasteDeploy filter factory."""
    return lambda build: lambda dependencies: Microversion(build(dependencies))

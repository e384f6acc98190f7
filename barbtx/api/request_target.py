"""Parsing of request targets and host names (RFC 9112, section 3; RFC 3986, section 3.2)."""

from __future__ import annotations

import ipaddress
import re
from functools import lru_cache

import attrs

# Stricter than RFC 3986: no user information, percent-encoding or sub-delimiters, which no host name contains.
_AUTHORITY = re.compile(rb"(\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._~-]{1,255})(?::(\d{1,5})?)?")
_LONGEST_AUTHORITY = 261
_ABSOLUTE = re.compile(rb"([A-Za-z][A-Za-z0-9+.-]*)://([^/?#]*)([^#]*)")
_SCHEMES = frozenset({b"http", b"https"})


@attrs.frozen
class RequestTarget:
    """The parsed target of a request line.

    :ivar path: path and query; ``*`` for OPTIONS of the whole server and for CONNECT.
    :ivar scheme: scheme of an absolute target, in lower case.
    :ivar authority: host and optional port of an absolute target.
    """

    path: bytes
    scheme: bytes | None = None
    authority: bytes | None = None


def parse_request_target(method: bytes, target: bytes) -> RequestTarget:
    """Parse the target of a request line.

    :raises ValueError: the target has none of the forms that the method allows; its text can be sent to the client.
    """
    if target.startswith(b"/") or (target == b"*" and method == b"OPTIONS"):
        return RequestTarget(target)
    if method == b"CONNECT":
        return RequestTarget(b"*")
    match = _ABSOLUTE.fullmatch(target)
    if match is None:
        raise ValueError("The request target is neither a path that begins with a slash nor an absolute URI.")
    scheme, authority, path = match[1].lower(), match[2], match[3]
    if scheme not in _SCHEMES:
        raise ValueError("The scheme of an absolute request target must be http or https.")
    if not is_authority(authority):
        raise ValueError("An absolute request target must have a host name or address with an optional port.")
    return RequestTarget(path if path.startswith(b"/") else b"/" + path, scheme, authority)


def is_authority(value: bytes) -> bool:
    """Return whether a ``Host`` header, or the authority of a URI, is a host name or address with an optional port."""
    return len(value) <= _LONGEST_AUTHORITY and _is_authority(value)


# Most requests name one of a few hosts.
@lru_cache(maxsize=100)
def _is_authority(value: bytes) -> bool:
    match = _AUTHORITY.fullmatch(value)
    if match is None or (match[2] and int(match[2]) > 65535):
        return False
    if not match[1].startswith(b"["):
        return True
    try:
        ipaddress.IPv6Address(match[1][1:-1].decode())
    except ValueError:
        return False
    return True


def host_of(authority: bytes) -> str:
    """Return the host of an authority, in lower case, without port, brackets and final dot.

    :raises ValueError: it is not an authority; see :func:`is_authority`.
    """
    match = _AUTHORITY.fullmatch(authority)
    if match is None:
        raise ValueError("not a host name or address")
    host = match[1].decode().lower()
    return host[1:-1] if host.startswith("[") else host.removesuffix(".")


@lru_cache(maxsize=100)
def is_loopback(host: str) -> bool:
    """Return whether a host is ``localhost`` or a loopback address. Names are not looked up."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False

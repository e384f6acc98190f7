"""References to resources, under the name by which the client knows the service."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from typing import Any

from oslo_config import cfg

from barbtx.errors import BadRequest

_HOST = re.compile(rb"[A-Za-z0-9._~:\[\]-]{1,300}")


def base_of(request: Any, conf: cfg.ConfigOpts) -> str:
    """Where all references start: ``[DEFAULT] host_href``, else scheme and host as the client wrote them.

    What a proxy says about that counts only from one that is trusted, and only what the nearest one says.

    :raises BadRequest: the Host header is missing or no host.
    """
    if conf.host_href:
        return conf.host_href.rstrip("/")
    hosts = request.requestHeaders.getRawHeaders(b"host", [])
    host = hosts[0] if len(hosts) == 1 else b""
    scheme = b"https" if request.isSecure() else b"http"
    if _is_trusted(request.getClientAddress(), conf.api.trusted_proxies):
        forwarded = _last(request, b"x-forwarded-proto").lower()
        scheme = forwarded if forwarded in (b"http", b"https") else scheme
        host = _last(request, b"x-forwarded-host") or host
    if not _HOST.fullmatch(host):
        raise BadRequest("The request needs one Host header with a host name or address, and perhaps a port.")
    return f"{scheme.decode()}://{host.decode()}"


def client_of(request: Any, trusted_proxies: Sequence[Any]) -> str | None:
    """The client's address: that of the connection or, if that is a trusted proxy's, the one that it names."""
    peer = request.getClientAddress()
    if _is_trusted(peer, trusted_proxies):
        try:
            return str(ipaddress.ip_address(_last(request, b"x-forwarded-for").decode("ascii", "replace")))
        except ValueError:
            pass
    return getattr(peer, "host", None)


def _last(request: Any, header: bytes) -> bytes:
    return b",".join(request.requestHeaders.getRawHeaders(header, [])).rpartition(b",")[2].strip()


def _is_trusted(peer: Any, networks: Sequence[Any]) -> bool:
    try:
        address = ipaddress.ip_address(peer.host)
    except (AttributeError, ValueError):
        return False
    # On a socket for both families, IPv4 addresses are written as IPv6 ones.
    address = getattr(address, "ipv4_mapped", None) or address
    return any(address in network for network in networks)

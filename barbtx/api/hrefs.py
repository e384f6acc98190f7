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
    """Where all references start: ``[DEFAULT] host_href``, else scheme and host of the request.

    :raises BadRequest: the Host header is missing or no host.
    """
    if conf.host_href:
        return conf.host_href.rstrip("/")
    hosts = request.requestHeaders.getRawHeaders(b"host", [])
    host = hosts[0] if len(hosts) == 1 else b""
    if not _HOST.fullmatch(host):
        raise BadRequest("The request needs one Host header with a host name or address, and perhaps a port.")
    scheme = "https" if request.isSecure() else "http"
    forwarded = (request.getHeader(b"x-forwarded-proto") or b"").strip().lower()
    if forwarded in (b"http", b"https") and _is_trusted(request.getClientAddress(), conf.api.trusted_proxies):
        scheme = forwarded.decode()
    return f"{scheme}://{host.decode()}"


def _is_trusted(peer: Any, networks: Sequence[str]) -> bool:
    if not networks:
        return False
    try:
        address = ipaddress.ip_address(peer.host)
        return any(address in ipaddress.ip_network(network, strict=False) for network in networks)
    except (AttributeError, ValueError):
        return False

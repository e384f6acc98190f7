"""References to resources, under the name by which the client knows the service."""

from __future__ import annotations

from typing import Any

from oslo_config import cfg

from barbtx.api.request_target import is_authority
from barbtx.errors import BadRequest
from barbtx.networks import is_within, parse_address


def base_url(request: Any, conf: cfg.ConfigOpts) -> str:
    """Where all references start: ``[DEFAULT] host_href``, else scheme and host as the client wrote them.

    What a proxy says about that counts only from one that is trusted, and only what the nearest one says.

    :raises BadRequest: the Host header is missing or no host.
    """
    if conf.host_href:
        return conf.host_href.rstrip("/")
    hosts = request.requestHeaders.getRawHeaders(b"host", [])
    host = hosts[0] if len(hosts) == 1 else b""
    scheme = b"https" if request.isSecure() else request.target_scheme or b"http"
    if is_within(parse_address(getattr(request.getClientAddress(), "host", "")), conf.api.trusted_proxies):
        forwarded = _last(request, b"x-forwarded-proto").lower()
        scheme = forwarded if forwarded in (b"http", b"https") else scheme
        host = _last(request, b"x-forwarded-host") or host
    if not is_authority(host):
        raise BadRequest("The request needs one Host header with a host name or address, and perhaps a port.")
    return f"{scheme.decode()}://{host.decode()}"


def _last(request: Any, header: bytes) -> bytes:
    return b",".join(request.requestHeaders.getRawHeaders(header, [])).rpartition(b",")[2].strip()

"""References to resources, which start with the URL by which the client knows the service."""

from __future__ import annotations

from oslo_config import cfg

from barbtx.api.http import Request
from barbtx.api.request_target import is_authority
from barbtx.errors import BadRequest


def base_url(request: Request, conf: cfg.ConfigOpts) -> str:
    """Return the URL that references start with: ``[DEFAULT] host_href``, else the request's scheme and host.

    If a trusted proxy sent the request, the last values of ``X-Forwarded-Proto`` and ``X-Forwarded-Host``, which that
    proxy added, replace the scheme and the host.

    :raises BadRequest: the Host header is missing or not valid.
    """
    if conf.host_href:
        host_href: str = conf.host_href
        return host_href.rstrip("/")
    hosts = request.received.get(b"Host", ())
    host = hosts[0] if len(hosts) == 1 else b""
    scheme = b"https" if request.isSecure() else request.target_scheme or b"http"
    if request.channel.is_from_proxy:
        forwarded = _last(request, b"X-Forwarded-Proto").lower()
        scheme = forwarded if forwarded in (b"http", b"https") else scheme
        host = _last(request, b"X-Forwarded-Host") or host
    if not is_authority(host):
        raise BadRequest("The request must have one Host header, with a host name or address and an optional port.")
    return f"{scheme.decode()}://{host.decode()}"


def _last(request: Request, header: bytes) -> bytes:
    return b",".join(request.received.get(header, ())).rpartition(b",")[2].strip()

"""Options of the HTTP server."""

from __future__ import annotations

from oslo_config import cfg

from barbtx.networks import network

OPTIONS = {
    "DEFAULT": [
        cfg.StrOpt(
            "host_href",
            regex=r"(https?://[^/\s]+.*)?",
            help="Start of all references in answers; if unset they follow the request's Host header.",
        ),
        cfg.StrOpt(
            "api_paste_config", default="barbtx-api-paste.ini", help="The pipeline; relative to the configuration file."
        ),
    ],
    "api": [
        cfg.StrOpt("bind_host", default="127.0.0.1", help="Address to listen on."),
        cfg.PortOpt("bind_port", default=9311, help="Port to listen on; 0 takes a free one."),
        cfg.StrOpt(
            "auth_strategy",
            default="keystone",
            regex=r"[A-Za-z0-9_.-]+",
            help="How callers are authenticated: the name of a composite in api_paste_config, keystone or "
            "noauth as shipped.",
        ),
        cfg.ListOpt(
            "trusted_proxies",
            default=[],
            item_type=network,  # type: ignore[arg-type]  # oslo.config accepts every callable.
            help="Addresses or networks of proxies whose X-Forwarded-Proto, X-Forwarded-Host and "
            "X-Forwarded-For headers are believed. They may hold any number of connections.",
        ),
        cfg.BoolOpt(
            "allow_unauthenticated_remote",
            default=False,
            help="Whether a pipeline without authentication may listen on more than loopback, and takes "
            "requests under any name.",
        ),
        cfg.ListOpt(
            "noauth_hosts",
            default=[],
            help="Names, without ports, under which a pipeline without authentication may be asked, beside "
            "localhost and loopback addresses. Others are refused: a web page may have had its own name "
            "resolve to this machine (DNS rebinding).",
        ),
        cfg.IntOpt(
            "max_connections",
            default=2000,
            min=1,
            help="Connections that clients may hold. Further ones take the place of connections without a "
            "request under way; if there are none, they belong to the reserve.",
        ),
        cfg.IntOpt(
            "max_connections_per_client",
            min=0,
            help="Connections that one client may hold: an IPv4 address or an IPv6 /64 network, trusted_proxies "
            "excepted. A quarter of max_connections (at least 10) if not set; 0 for no limit.",
        ),
        cfg.IntOpt(
            "reserved_connections",
            default=100,
            min=1,
            help="Connections beyond the limits, on which only the health check is answered; everything else "
            "gets a 503.",
        ),
        cfg.FloatOpt(
            "idle_timeout_seconds", default=60.0, min=1, help="How long a connection may stay open without a request."
        ),
        cfg.FloatOpt(
            "request_timeout_seconds",
            default=30.0,
            min=1,
            help="How long a request may take to arrive, from its first byte to its last.",
        ),
        cfg.FloatOpt(
            "write_timeout_seconds",
            default=60.0,
            min=1,
            help="How long a client may take to read the answers that wait for it; its connection is closed then.",
        ),
        cfg.FloatOpt(
            "shutdown_seconds",
            default=15.0,
            min=0,
            help="How long a stopping service waits for the requests it has begun.",
        ),
    ],
}


def share(limit: int | None, whole: int) -> int:
    """Return a limit that applies to a part of ``whole``.

    :param limit: the configured limit. If None, the result is a quarter of ``whole``, but at least 10.
    """
    return min(whole, max(10, whole // 4)) if limit is None else limit

"""Options of the HTTP service."""

from __future__ import annotations

from oslo_config import cfg

from barbtx.networks import network

OPTIONS = {
    "DEFAULT": [
        cfg.StrOpt("host_href", regex=r"(https?://[^/\s]+.*)?",
                   help="Start of all references in answers; if unset they follow the request's Host header."),
        cfg.StrOpt("api_paste_config", default="barbtx-api-paste.ini",
                   help="The pipeline; relative to the configuration file."),
    ],
    "api": [
        cfg.StrOpt("bind_host", default="127.0.0.1", help="Address to listen on."),
        cfg.PortOpt("bind_port", default=9311, help="Port to listen on; 0 takes a free one."),
        cfg.StrOpt("auth_strategy", default="keystone", regex=r"[A-Za-z0-9_.-]+",
                   help="How callers are authenticated: the name of a composite in api_paste_config, keystone or "
                        "noauth as shipped."),
        cfg.ListOpt("trusted_proxies", default=[], item_type=network,
                    help="Addresses or networks whose X-Forwarded-Proto and X-Forwarded-Host headers are believed."),
        cfg.BoolOpt("allow_unauthenticated_remote", default=False,
                    help="Whether a pipeline without authentication may listen on more than loopback."),
        cfg.IntOpt("max_connections", default=2000, min=1,
                   help="Connections that clients may hold; further ones are closed at once."),
        cfg.FloatOpt("idle_timeout_seconds", default=60.0, min=1,
                     help="How long a connection may stay open without a request."),
        cfg.FloatOpt("request_timeout_seconds", default=30.0, min=1,
                     help="How long a request may take to arrive, from its first byte to its last."),
        cfg.FloatOpt("shutdown_seconds", default=15.0, min=0,
                     help="How long a stopping service waits for the requests it has begun."),
    ],
}

"""Options of the HTTP server."""

from __future__ import annotations

from oslo_config import cfg

from barbtx.networks import network

OPTIONS = {
    "DEFAULT": [
        cfg.StrOpt(
            "host_href",
            regex=r"(https?://[^/\s]+.*)?",
            help="Base URL of this service as clients see it, used in the references that responses contain. If "
            "unset, the scheme and host of each request are used, which trusted_proxies can set by X-Forwarded "
            "headers.",
        ),
        cfg.StrOpt(
            "api_paste_config",
            default="barbtx-api-paste.ini",
            help="Paste Deploy file with the pipelines of the API. A relative path is relative to the configuration "
            "file.",
        ),
    ],
    "api": [
        cfg.StrOpt("bind_host", default="127.0.0.1", help="Address or host name to listen on."),
        cfg.PortOpt("bind_port", default=9311, help="TCP port to listen on. With 0 the system chooses a free port."),
        cfg.IntOpt(
            "workers",
            default=1,
            min=1,
            max=64,
            help="Number of API processes that share the port. With more than 1, a parent process starts them, "
            "restarts those that end, and on SIGHUP replaces them one by one if options have changed. The limits of "
            "client connections and of waiting requests are divided among the processes; all other limits, such as "
            "that of database connections, apply to each process.",
        ),
        cfg.StrOpt(
            "auth_strategy",
            default="keystone",
            regex=r"[A-Za-z0-9_.-]+",
            help="Name of the composite in api_paste_config that serves requests. The shipped file has keystone, and "
            "noauth, which does not authenticate callers.",
        ),
        cfg.ListOpt(
            "trusted_proxies",
            default=[],
            item_type=network,  # type: ignore[arg-type]  # oslo.config accepts every callable.
            help="Addresses or networks of reverse proxies whose X-Forwarded-Proto, X-Forwarded-Host and "
            "X-Forwarded-For headers are trusted. max_connections_per_client does not apply to them. If empty, "
            "the headers are ignored.",
        ),
        cfg.BoolOpt(
            "allow_unauthenticated_remote",
            default=False,
            help="Whether a pipeline without authentication may listen on addresses other than loopback, and accepts "
            "requests with any Host header. With true, everybody who can connect has access to all secrets.",
        ),
        cfg.ListOpt(
            "noauth_hosts",
            default=[],
            help="Host names, without ports, that a pipeline without authentication accepts in addition to localhost "
            "and loopback addresses. Requests for other hosts are refused, because a web page could otherwise "
            "reach the API by DNS rebinding.",
        ),
        cfg.IntOpt(
            "max_connections",
            default=2000,
            min=1,
            help="Maximum number of client connections. A further connection replaces one that has no request in "
            "flight; if there is none, it uses one of reserved_connections. The hard limit of open files "
            "(RLIMIT_NOFILE) must be higher.",
        ),
        cfg.IntOpt(
            "max_connections_per_client",
            min=0,
            help="Maximum number of connections of one client, which is an IPv4 address or an IPv6 /64 network. It "
            "does not apply to trusted_proxies. With 0 there is no limit; if unset, the limit is a quarter of "
            "max_connections, but at least 10.",
        ),
        cfg.IntOpt(
            "reserved_connections",
            default=100,
            min=1,
            help="Number of connections beyond the limits that get responses to health checks, and 503 to all other "
            "requests.",
        ),
        cfg.FloatOpt(
            "idle_timeout_seconds",
            default=60.0,
            min=1,
            help="Time in seconds after which a connection without a request is closed.",
        ),
        cfg.FloatOpt(
            "request_timeout_seconds",
            default=30.0,
            min=1,
            help="Timeout in seconds for receiving a request, from its first byte to its last.",
        ),
        cfg.FloatOpt(
            "write_timeout_seconds",
            default=60.0,
            min=1,
            help="Timeout in seconds for the client to read pending responses; then its connection is closed.",
        ),
        cfg.FloatOpt(
            "shutdown_seconds",
            default=15.0,
            min=0,
            help="How long a shutdown waits for requests in flight, in seconds. With 0 it does not wait. Keep it "
            "below [DEFAULT] graceful_shutdown_timeout.",
        ),
    ],
}


def share(limit: int | None, whole: int) -> int:
    """Return a limit that applies to a part of ``whole``.

    :param limit: the configured limit. If None, the result is a quarter of ``whole``, but at least 10.
    """
    return min(whole, max(10, whole // 4)) if limit is None else limit


def for_one_worker(limit: int, workers: int) -> int:
    """Return the part of a limit that applies to each of the processes that share a port, rounded up."""
    return -(-limit // workers)

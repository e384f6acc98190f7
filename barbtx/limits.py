"""Limits that more than one room of the house keeps."""

from __future__ import annotations

from oslo_config import cfg

_QUOTA = "A project's {} if it has no quota of its own; negative is unlimited."

OPTIONS = {
    "quotas": [
        cfg.IntOpt(f"quota_{resource}", default=-1, min=-2**31, max=2**31 - 1, help=_QUOTA.format(resource))
        for resource in ("secrets", "orders", "containers", "consumers", "cas")
    ],
    "DEFAULT": [
        cfg.IntOpt("max_allowed_secret_in_bytes", default=20000, min=1,
                   help="Longest payload of a secret, in bytes as sent."),
        cfg.IntOpt("max_allowed_request_size_in_bytes", default=25000, min=1,
                   help="Longest request body that is read, in bytes."),
        cfg.IntOpt("max_limit_paging", default=100, min=1, help="Most items on one page of a list."),
        cfg.IntOpt("default_limit_paging", default=10, min=1, help="Items on a page if the client does not say."),
    ],
}

"""Options of identity and policy."""

from __future__ import annotations

from oslo_config import cfg
from oslo_policy import opts as oslo_policy

OPTIONS = {
    "policy": [
        cfg.FloatOpt(
            "reload_seconds",
            default=10.0,
            min=0,
            help="Interval in seconds between checks of the policy files for changes. With 0, they are read again on "
            "SIGHUP only.",
        ),
    ],
    "DEFAULT": [
        cfg.StrOpt(
            "admin_role",
            default="admin",
            help="Role of requests that name no role, in a pipeline without authentication.",
        ),
    ],
    **{section: list(options) for section, options in oslo_policy.list_opts()},
}

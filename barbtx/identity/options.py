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
            help="How often policy files are looked at for changes; 0 reads them again on SIGHUP only.",
        ),
    ],
    "DEFAULT": [
        cfg.StrOpt(
            "admin_role", default="admin", help="Without authentication: the role of a request that names none."
        ),
    ],
    **{section: list(options) for section, options in oslo_policy.list_opts()},
}

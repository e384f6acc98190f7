"""Options of identity and policy."""

from __future__ import annotations

from oslo_config import cfg
from oslo_policy import opts as oslo_policy

OPTIONS = {
    "DEFAULT": [
        cfg.StrOpt("admin_role", default="admin",
                   help="Without authentication: the role of a request that names none."),
    ],
    **{section: list(options) for section, options in oslo_policy.list_opts()},
}

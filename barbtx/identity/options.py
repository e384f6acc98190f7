"""Options of identity and policy."""

from __future__ import annotations

from oslo_config import cfg
from oslo_policy import opts as oslo_policy

#: Help texts of oslo.policy's options, where barbtx differs from the library.
HELP_TEXTS = {
    "enforce_new_defaults": "If true, the default rules with the roles reader, member and admin apply. If false, "
    "the earlier default rules with the roles creator, observer, audit and admin apply instead.",
    "policy_dirs": "Directories whose files override rules, in the order of their names. Paths are relative to the "
    "directories of the configuration files. The default directory need not exist; one that is set must exist and "
    "contain a file.",
    "policy_file": "File that overrides rules. A path is relative to the directories of the configuration files. The "
    "default file need not exist; one that is set must exist.",
    "policy_default_rule": "Not used: a rule that does not exist allows nobody.",
} | dict.fromkeys(
    (
        "remote_content_type",
        "remote_ssl_verify_server_crt",
        "remote_ssl_ca_crt_file",
        "remote_ssl_client_crt_file",
        "remote_ssl_client_key_file",
        "remote_timeout",
    ),
    "Not used: barbtx refuses http: checks.",
)


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

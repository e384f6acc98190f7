"""Options of token validation, under keystonemiddleware's names wherever they mean the same."""

from __future__ import annotations

from oslo_config import cfg

OPTIONS = {
    "DEFAULT": [
        cfg.BoolOpt(
            "allow_anonymous_access",
            default=False,
            help="With delay_auth_decision: whether requests without a valid token go on, as nobody.",
        ),
    ],
    "keystone_authtoken": [
        cfg.URIOpt(
            "www_authenticate_uri",
            schemes=["http", "https"],
            help="Where clients shall go for a token; auth_url if not set.",
        ),
        cfg.URIOpt("auth_url", schemes=["http", "https"], help="Where the service itself finds Keystone."),
        cfg.StrOpt(
            "auth_type",
            default="password",
            choices=["password", "v3password", "v3applicationcredential"],
            help="How the service authenticates itself.",
        ),
        cfg.StrOpt("username", help="The service's user."),
        cfg.StrOpt("user_id", help="The service's user, by id."),
        cfg.StrOpt("password", secret=True, help="The service user's password."),
        cfg.StrOpt("user_domain_id", help="The user's domain, by id; 'default' if neither is set."),
        cfg.StrOpt("user_domain_name", help="The user's domain."),
        cfg.StrOpt("project_name", help="The service's project."),
        cfg.StrOpt("project_id", help="The service's project, by id."),
        cfg.StrOpt("project_domain_id", help="The project's domain, by id; 'default' if neither is set."),
        cfg.StrOpt("project_domain_name", help="The project's domain."),
        cfg.StrOpt("application_credential_id", help="The service's application credential, by id."),
        cfg.StrOpt("application_credential_name", help="The same by name, together with its user."),
        cfg.StrOpt("application_credential_secret", secret=True, help="The application credential's secret."),
        cfg.StrOpt("cafile", help="PEM file with the authorities to believe; the system's if not set."),
        cfg.StrOpt("certfile", help="PEM file with a client certificate."),
        cfg.StrOpt("keyfile", help="PEM file with the client certificate's key."),
        cfg.BoolOpt(
            "delay_auth_decision",
            default=False,
            help="Whether to let requests without a valid token through; see allow_anonymous_access.",
        ),
        cfg.StrOpt(
            "service_type",
            default="key-manager",
            help="The service's type in the catalog: access rules of application credentials name it.",
        ),
        cfg.ListOpt(
            "service_token_roles", default=["service"], help="Roles, any of which makes an X-Service-Token one."
        ),
        cfg.BoolOpt(
            "service_token_roles_required",
            default=True,
            help="Whether a service token without any of these roles is refused, or just counts for nothing.",
        ),
        cfg.IntOpt(
            "token_cache_time",
            default=300,
            min=0,
            help="Seconds for which a token that Keystone took for valid is believed; also the longest that a "
            "revoked one works.",
        ),
        cfg.IntOpt(
            "token_cache_entries",
            default=10000,
            min=1,
            help="Tokens that are remembered, at most; as many invalid ones again.",
        ),
        cfg.FloatOpt(
            "invalid_token_cache_time",
            default=5.0,
            min=0,
            help="Seconds for which a token that Keystone refused is refused without asking again.",
        ),
        cfg.FloatOpt("http_connect_timeout", default=2.0, min=0.1, help="Seconds for connecting to Keystone."),
        cfg.FloatOpt(
            "http_request_timeout",
            default=4.0,
            min=0.1,
            help="Seconds for each try of a request to Keystone, from its begin to the end of the answer.",
        ),
        cfg.IntOpt("http_request_max_retries", default=2, min=0, max=10, help="Further tries after the first."),
        cfg.IntOpt("max_requests", default=32, min=1, help="Requests to Keystone at the same time, at most."),
        cfg.IntOpt(
            "max_waiting_requests",
            default=1000,
            min=0,
            help="Requests to Keystone that may wait for their turn; further ones are answered 503.",
        ),
        cfg.IntOpt(
            "circuit_failures",
            default=3,
            min=1,
            help="Failures in a row after which Keystone is left alone for a while.",
        ),
        cfg.FloatOpt(
            "circuit_seconds",
            default=5.0,
            min=0,
            help="How long it is left alone; requests that would need it are answered 503 meanwhile.",
        ),
    ],
}

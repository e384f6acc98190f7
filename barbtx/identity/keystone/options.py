"""Options of token validation, with the names of keystonemiddleware's options where they mean the same."""

from __future__ import annotations

from oslo_config import cfg

OPTIONS = {
    "DEFAULT": [
        cfg.BoolOpt(
            "allow_anonymous_access",
            default=False,
            help="Whether requests without a valid token are processed as those of an anonymous caller. Takes effect "
            "only with delay_auth_decision. Policy then decides what anonymous callers may do.",
        ),
    ],
    "keystone_authtoken": [
        cfg.URIOpt(
            "www_authenticate_uri",
            schemes=["http", "https"],
            help="URL of Keystone as clients see it, sent to them with 401 responses. Defaults to auth_url.",
        ),
        cfg.URIOpt("auth_url", schemes=["http", "https"], help="URL of Keystone as this service sees it."),
        cfg.StrOpt(
            "auth_type",
            default="password",
            choices=["password", "v3password", "v3applicationcredential"],
            help="Method by which the service authenticates itself to Keystone.",
        ),
        cfg.StrOpt("username", help="Name of the service's user."),
        cfg.StrOpt("user_id", help="Id of the service's user; takes precedence over username."),
        cfg.StrOpt("password", secret=True, help="Password of the service's user."),
        cfg.StrOpt("user_domain_id", help="Id of the user's domain; 'default' if neither id nor name is set."),
        cfg.StrOpt("user_domain_name", help="Name of the user's domain."),
        cfg.StrOpt("project_name", help="Name of the service's project."),
        cfg.StrOpt("project_id", help="Id of the service's project; takes precedence over project_name."),
        cfg.StrOpt("project_domain_id", help="Id of the project's domain; 'default' if neither id nor name is set."),
        cfg.StrOpt("project_domain_name", help="Name of the project's domain."),
        cfg.StrOpt("application_credential_id", help="Id of the service's application credential."),
        cfg.StrOpt(
            "application_credential_name",
            help="Name of the service's application credential; requires its user as well.",
        ),
        cfg.StrOpt("application_credential_secret", secret=True, help="Secret of the application credential."),
        cfg.StrOpt("cafile", help="PEM file with the trusted certificate authorities; those of the system if not set."),
        cfg.StrOpt(
            "certfile", help="PEM file with the client certificate that is presented to Keystone; none if not set."
        ),
        cfg.StrOpt("keyfile", help="PEM file with the private key of certfile; not needed if certfile contains it."),
        cfg.BoolOpt(
            "delay_auth_decision",
            default=False,
            help="Whether requests without a valid token are passed on instead of being answered with 401; see "
            "allow_anonymous_access.",
        ),
        cfg.StrOpt(
            "service_type",
            default="key-manager",
            help="Type of the service in the catalog, which access rules of application credentials refer to.",
        ),
        cfg.ListOpt(
            "service_token_roles",
            default=["service"],
            help="Roles of which a token in X-Service-Token must have at least one.",
        ),
        cfg.BoolOpt(
            "service_token_roles_required",
            default=True,
            help="Whether a service token without any of service_token_roles is answered with 401. If not, the token "
            "is ignored.",
        ),
        cfg.IntOpt(
            "token_cache_time",
            default=300,
            min=0,
            help="Seconds for which the successful validation of a token is cached. A revoked token is accepted for up "
            "to this time. With 0, Keystone validates the token of every request.",
        ),
        cfg.IntOpt(
            "token_cache_entries",
            default=10000,
            min=1,
            help="Maximum number of valid tokens in the cache; the cache of invalid tokens has the same limit.",
        ),
        cfg.FloatOpt(
            "invalid_token_cache_time",
            default=5.0,
            min=0,
            help="Seconds for which a token that Keystone refused is refused without another request to Keystone.",
        ),
        cfg.FloatOpt(
            "http_connect_timeout", default=2.0, min=0.1, help="Timeout in seconds for connecting to Keystone."
        ),
        cfg.FloatOpt(
            "http_request_timeout",
            default=4.0,
            min=0.1,
            help="Timeout in seconds for each try of a request to Keystone, from its start to the end of the response.",
        ),
        cfg.IntOpt(
            "http_request_max_retries",
            default=2,
            min=0,
            max=10,
            help="Number of retries of a request to Keystone after the first try.",
        ),
        cfg.IntOpt("max_requests", default=32, min=1, help="Maximum number of requests to Keystone in flight."),
        cfg.IntOpt(
            "max_waiting_requests",
            default=1000,
            min=0,
            help="Maximum number of requests that wait until another request to Keystone is done; further requests are "
            "answered with 503.",
        ),
        cfg.IntOpt(
            "circuit_failures",
            default=3,
            min=1,
            help="Consecutive failures after which requests to Keystone are suspended for circuit_seconds.",
        ),
        cfg.FloatOpt(
            "circuit_seconds",
            default=5.0,
            min=0,
            help="Seconds for which requests to Keystone are suspended after circuit_failures. Meanwhile, requests "
            "whose token is not in the cache are answered with 503.",
        ),
    ],
}

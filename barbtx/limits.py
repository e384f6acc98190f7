"""Limits that several parts of the program enforce."""

from __future__ import annotations

import attrs
from oslo_config import cfg

_QUOTA = (
    "Maximum number of {} per project, unless a quota of the project is set through the API. A negative value means no "
    "limit, 0 that none can be created."
)
_QUOTAS = {resource: _QUOTA.format(resource) for resource in ("secrets", "orders", "containers", "consumers")} | {
    "cas": "Not used, because there are no certificate authorities. The API shows it, and configurations of the "
    "reference service contain it."
}

OPTIONS = {
    "quotas": [
        cfg.IntOpt(f"quota_{resource}", default=-1, min=-(2**31), max=2**31 - 1, help=text)
        for resource, text in _QUOTAS.items()
    ],
    "DEFAULT": [
        cfg.IntOpt(
            "max_allowed_secret_in_bytes",
            default=20000,
            min=1,
            help="Maximum size of a secret's payload, in bytes as received. max_allowed_request_size_in_bytes must "
            "be larger, because it includes the encoding of the payload.",
        ),
        cfg.IntOpt(
            "max_allowed_request_size_in_bytes",
            default=25000,
            min=1,
            help="Maximum size of a request body, in bytes. Larger requests are refused with 413.",
        ),
        cfg.IntOpt("max_limit_paging", default=100, min=1, help="Maximum number of items on one page of a list."),
        cfg.IntOpt(
            "default_limit_paging",
            default=10,
            min=1,
            help="Number of items on one page of a list if the request has no limit parameter.",
        ),
    ],
    "api": [
        cfg.IntOpt(
            "max_embedded_consumers",
            default=100,
            min=1,
            help="Maximum number of consumers, oldest first, in the representation of a secret or container. The "
            "list .../consumers contains all of them in pages.",
        ),
        cfg.IntOpt(
            "max_consumers_per_object",
            default=10000,
            min=1,
            help="Maximum number of consumers of one secret or container. Further ones are refused with 403.",
        ),
        cfg.IntOpt(
            "max_consumers_per_registrant",
            default=5000,
            min=1,
            help="Maximum number of consumers that one project may register on a secret or container, so that "
            "another project that may read the object cannot use up max_consumers_per_object. Further ones are "
            "refused with 403.",
        ),
        cfg.IntOpt(
            "max_metadata_per_secret",
            default=1000,
            min=1,
            help="Maximum number of user metadata keys of one secret. Further ones are refused with 403.",
        ),
        cfg.IntOpt(
            "max_secrets_per_container",
            default=500,
            min=1,
            help="Maximum number of secrets in one container. Further ones are refused with 403.",
        ),
    ],
}


@attrs.frozen
class ObjectLimits:
    """Limits on the objects of one secret or container. Each field is the option of the same name in ``[api]``."""

    max_embedded_consumers: int = 100
    max_consumers_per_object: int = 10000
    max_consumers_per_registrant: int = 5000
    max_metadata_per_secret: int = 1000
    max_secrets_per_container: int = 500

    @classmethod
    def from_config(cls, conf: cfg.ConfigOpts) -> ObjectLimits:
        """Read the limits from ``[api]``."""
        return cls(**{field.name: conf.api[field.name] for field in attrs.fields(cls)})

"""Limits that several parts of the program enforce."""

from __future__ import annotations

import attrs
from oslo_config import cfg

_QUOTA = "A project's {} if it has no quota of its own; negative is unlimited."

OPTIONS = {
    "quotas": [
        cfg.IntOpt(f"quota_{resource}", default=-1, min=-(2**31), max=2**31 - 1, help=_QUOTA.format(resource))
        for resource in ("secrets", "orders", "containers", "consumers", "cas")
    ],
    "DEFAULT": [
        cfg.IntOpt(
            "max_allowed_secret_in_bytes", default=20000, min=1, help="Longest payload of a secret, in bytes as sent."
        ),
        cfg.IntOpt(
            "max_allowed_request_size_in_bytes",
            default=25000,
            min=1,
            help="Longest request body that is read, in bytes.",
        ),
        cfg.IntOpt("max_limit_paging", default=100, min=1, help="Most items on one page of a list."),
        cfg.IntOpt("default_limit_paging", default=10, min=1, help="Items on a page if the client does not say."),
    ],
    "api": [
        cfg.IntOpt(
            "max_embedded_consumers",
            default=100,
            min=1,
            help="Consumers that are shown with a secret or container, the oldest first; the list below the "
            "object, .../consumers, has all of them in pages.",
        ),
        cfg.IntOpt(
            "max_consumers_per_object",
            default=10000,
            min=1,
            help="Consumers that a secret or container may have; further ones are refused (403).",
        ),
        cfg.IntOpt(
            "max_consumers_per_registrant",
            default=5000,
            min=1,
            help="Consumers of one secret or container that one project may register, so that a project that "
            "may read the object cannot use up max_consumers_per_object alone; further ones are refused "
            "(403).",
        ),
        cfg.IntOpt(
            "max_metadata_per_secret",
            default=1000,
            min=1,
            help="Keys that the user metadata of a secret may have; further ones are refused (403).",
        ),
        cfg.IntOpt(
            "max_secrets_per_container",
            default=500,
            min=1,
            help="Secrets that a container may hold; further ones are refused (403).",
        ),
    ],
}


@attrs.frozen
class ObjectLimits:
    """Limits on what belongs to one secret or container. Each field is the option of the same name in ``[api]``."""

    max_embedded_consumers: int = 100
    max_consumers_per_object: int = 10000
    max_consumers_per_registrant: int = 5000
    max_metadata_per_secret: int = 1000
    max_secrets_per_container: int = 500

    @classmethod
    def from_config(cls, conf: cfg.ConfigOpts) -> ObjectLimits:
        """Read the limits from ``[api]``."""
        return cls(**{field.name: conf.api[field.name] for field in attrs.fields(cls)})

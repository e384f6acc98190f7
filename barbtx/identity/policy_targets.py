"""The attributes of objects that policy rules may use, built from stored data and never from a request."""

from __future__ import annotations

from barbtx.model.records import Container, Order, Secret

#: Every key that a target may have; the object and the caller determine which ones it has.
TARGET_KEYS = frozenset(
    {
        "enforce_new_defaults",
        "target.order.project_id",
        "target.order.creator_id",
        *(
            f"target.{kind}.{name}"
            for kind in ("secret", "container")
            for name in ("project_id", "creator_id", "read", "read_project_access")
        ),
    }
)

# By the first word of an operation's rule. The targets of other operations have no object.
_KINDS = {"secret": ("secret",), "container": ("container",), "consumer": ("secret", "container"), "order": ("order",)}


def kinds_of(rule: str) -> tuple[str, ...]:
    """Return the kinds of objects that an operation's rule is evaluated for; empty if it concerns no object."""
    return _KINDS.get(rule.partition(":")[0].partition("_")[0], ())


def keys_for(rule: str) -> frozenset[str]:
    """Return the keys that the targets of an operation's rule may have."""
    kinds = kinds_of(rule)
    return frozenset(key for key in TARGET_KEYS if not key.startswith("target.") or key.split(".")[1] in kinds)


def secret_target(secret: Secret) -> dict[str, object]:
    """Return the target for rules about one secret."""
    return _target("secret", secret)


def container_target(container: Container) -> dict[str, object]:
    """Return the target for rules about one container."""
    return _target("container", container)


def order_target(order: Order) -> dict[str, object]:
    """Return the target for rules about one order."""
    return {"target.order.project_id": order.project_id, "target.order.creator_id": order.creator_id}


def _target(kind: str, stored: Secret | Container) -> dict[str, object]:
    target: dict[str, object] = {
        f"target.{kind}.project_id": stored.project_id,
        f"target.{kind}.creator_id": stored.creator_id,
        f"target.{kind}.read_project_access": stored.access.project_access,
    }
    if stored.access.listed:
        target[f"target.{kind}.read"] = "read"
    return target

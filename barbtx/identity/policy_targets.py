"""What policy may know of an object. Built from what is stored, never from a request."""

from __future__ import annotations

from barbtx.model.records import Container, Order, Secret

#: All that a target may have; which of these it has depends on the object and the caller.
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

# By the first word of an operation's rule; others have a target without an object.
_KINDS = {"secret": ("secret",), "container": ("container",), "consumer": ("secret", "container"), "order": ("order",)}


def kinds_of(rule: str) -> tuple[str, ...]:
    """The kinds of objects that the rule of an operation is asked about; none if it is about no object."""
    return _KINDS.get(rule.partition(":")[0].partition("_")[0], ())


def keys_for(rule: str) -> frozenset[str]:
    """What the targets of an operation's rule may have."""
    kinds = kinds_of(rule)
    return frozenset(key for key in TARGET_KEYS if not key.startswith("target.") or key.split(".")[1] in kinds)


def secret_target(secret: Secret) -> dict[str, object]:
    """The target of rules about one secret."""
    return _target("secret", secret)


def container_target(container: Container) -> dict[str, object]:
    """The target of rules about one container."""
    return _target("container", container)


def order_target(order: Order) -> dict[str, object]:
    """The target of rules about one order."""
    return {"target.order.project_id": order.project_id, "target.order.creator_id": order.creator_id}


def _target(kind: str, found: Secret | Container) -> dict[str, object]:
    target: dict[str, object] = {
        f"target.{kind}.project_id": found.project_id,
        f"target.{kind}.creator_id": found.creator_id,
        f"target.{kind}.read_project_access": found.access.project_access,
    }
    if found.access.listed:
        target[f"target.{kind}.read"] = "read"
    return target

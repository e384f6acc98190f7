"""What policy may know of an object. Built from what is stored, never from a request."""

from __future__ import annotations

from barbtx.model.records import Container, Order, Secret

#: All that a target may have; which of these it has depends on the object and the caller.
TARGET_KEYS = frozenset({
    "enforce_new_defaults", "target.order.project_id", "target.order.creator_id",
    *(f"target.{kind}.{name}" for kind in ("secret", "container")
      for name in ("project_id", "creator_id", "read", "read_project_access")),
})


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

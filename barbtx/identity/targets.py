"""What policy may know of an object. Built from what is stored, never from a request."""

from __future__ import annotations

from barbtx.model.records import Order, Secret


def secret_target(secret: Secret) -> dict[str, object]:
    """The target of rules about one secret."""
    return {
        "target.secret.project_id": secret.project_id,
        "target.secret.creator_id": secret.creator_id,
        "target.secret.read_project_access": True,
    }


def order_target(order: Order) -> dict[str, object]:
    """The target of rules about one order."""
    return {"target.order.project_id": order.project_id, "target.order.creator_id": order.creator_id}

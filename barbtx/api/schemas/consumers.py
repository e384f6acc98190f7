"""Request bodies of consumers (contract, sections 5 and 8)."""

from __future__ import annotations

from barbtx.api.validation import Schema


def _text(max_length: int) -> dict[str, object]:
    return {"type": "string", "minLength": 1, "maxLength": max_length}


SECRET_CONSUMER = Schema(
    "Secret Consumer",
    {
        "type": "object",
        "required": ["service", "resource_type", "resource_id"],
        "properties": {"service": _text(255), "resource_type": _text(255), "resource_id": _text(36)},
    },
)

CONTAINER_CONSUMER = Schema(
    "Consumer",
    {
        "type": "object",
        "required": ["name", "URL"],
        "properties": {"name": _text(36), "URL": _text(255)},
    },
)

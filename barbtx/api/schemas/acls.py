"""Request bodies of ACLs (contract, section 6)."""

from __future__ import annotations

from barbtx.api.validation import Schema

ACL = Schema(
    "ACL",
    {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "read": {
                "type": "object",
                "additionalProperties": False,
                "properties": {
                    "users": {"type": "array", "items": {"type": "string", "maxLength": 255}},
                    "project-access": {"type": "boolean"},
                },
            },
        },
    },
)

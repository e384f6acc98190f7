"""Request bodies of project quotas (contract, section 11)."""

from __future__ import annotations

from barbtx.api.validation import Schema
from barbtx.model.repositories.quotas import RESOURCES

PROJECT_QUOTAS = Schema(
    "Project Quota",
    {
        "type": "object",
        "required": ["project_quotas"],
        "additionalProperties": False,
        "properties": {
            "project_quotas": {
                "type": "object",
                "additionalProperties": False,
                "properties": {
                    name: {"type": "integer", "minimum": -(2**31), "maximum": 2**31 - 1} for name in RESOURCES
                },
            }
        },
    },
)

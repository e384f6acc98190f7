"""Request bodies of transport keys (contract, section 10)."""

from __future__ import annotations

from barbtx.api.validation import Schema

TRANSPORT_KEY = Schema(
    "Transport Key",
    {
        "type": "object",
        "required": ["plugin_name", "transport_key"],
        "properties": {
            name: {"type": "string", "minLength": 1, "pattern": "^[^\\u0000]*$"}
            for name in ("plugin_name", "transport_key")
        },
    },
)

"""Request bodies of secrets' user metadata (contract, section 4)."""

from __future__ import annotations

from collections.abc import Mapping

from barbtx.api.validation import Schema
from barbtx.errors import SchemaMismatch

# Keys are path segments, so they must not be empty.
_KEY = {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[A-Za-z0-9_-]+$"}
_VALUE = {"type": "string", "maxLength": 255}

METADATA = Schema(
    "SecretMetadata",
    {
        "type": "object",
        "required": ["metadata"],
        "properties": {"metadata": {"type": "object", "propertyNames": _KEY, "additionalProperties": _VALUE}},
    },
)

METADATUM = Schema(
    "SecretMetadatum",
    {
        "type": "object",
        "required": ["key", "value"],
        "additionalProperties": False,
        "properties": {"key": _KEY, "value": _VALUE},
    },
)


def lower_keys(metadata: Mapping[str, str]) -> dict[str, str]:
    """Return metadata with keys in lower case, as they are stored.

    :raises SchemaMismatch: two keys differ only by case.
    """
    lowered = {key.lower(): value for key, value in metadata.items()}
    if len(lowered) != len(metadata):
        raise SchemaMismatch(METADATA.name, "two keys differ only in case", "metadata")
    return lowered

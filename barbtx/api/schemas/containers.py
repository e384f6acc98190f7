"""Request bodies of containers (contract, section 7)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from barbtx.api.validation import Schema
from barbtx.errors import BadRequest, SchemaMismatch
from barbtx.model.records import Entry

CONTAINER = Schema(
    "Container",
    {
        "type": "object",
        "required": ["type"],
        "properties": {
            "type": {"type": "string", "enum": ["generic", "rsa", "certificate"]},
            "name": {"type": ["string", "null"], "maxLength": 255},
            "secret_refs": {
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["secret_ref"],
                    "properties": {
                        "name": {"type": ["string", "null"], "maxLength": 255},
                        "secret_ref": {"type": "string", "minLength": 1},
                    },
                },
            },
        },
    },
)

CONTAINER_SECRET = Schema(
    "ContainerSecret",
    {
        "type": "object",
        "required": ["secret_ref"],
        "properties": {
            "name": {"type": "string", "maxLength": 255},
            "secret_ref": {"type": "string", "minLength": 1},
        },
    },
)

# Allowed and required reference names by container type.
_NAMES = {
    "rsa": ({"public_key", "private_key", "private_key_passphrase"}, {"public_key", "private_key"}),
    "certificate": ({"certificate", "private_key", "private_key_passphrase", "intermediates"}, {"certificate"}),
}


def read_entries(document: Mapping[str, Any], base_url: str) -> tuple[Entry, ...]:
    """Read the entries of a new container.

    :param base_url: the URL that references start with.
    :raises SchemaMismatch: names or secrets are repeated, a reference has another base URL, or the names do not fit the
        container's type.
    """
    refs = document.get("secret_refs", [])
    if not refs:
        return ()
    # A missing name counts as an empty one, so two of them are duplicates; null is different from an empty name.
    names = [ref.get("name", "") for ref in refs]
    if len(set(names)) != len(names):
        raise _mismatch("Duplicate reference names are not allowed")
    ids = [ref["secret_ref"].removesuffix("/").rpartition("/")[2] for ref in refs]
    if len(set(ids)) != len(ids):
        raise _mismatch("Duplicate secret ids are not allowed")
    for ref in refs:
        if not ref["secret_ref"].startswith(f"{base_url}/"):
            raise _mismatch("Secret_ref does not match the configured hostname, please try again")
    _check_names(document["type"], names)
    return tuple(Entry(ref.get("name"), secret_id) for ref, secret_id in zip(refs, ids, strict=True))


def _check_names(kind: str, names: list[str | None]) -> None:
    if kind not in _NAMES:
        return
    allowed, required = _NAMES[kind]
    if not set(names) <= allowed:
        raise _mismatch(f"only these reference names are allowed for {kind} type: {', '.join(sorted(allowed))}")
    if not required <= set(names):
        raise _mismatch(f"these reference names are required for {kind} type: {', '.join(sorted(required))}")


def read_entry(document: Mapping[str, Any]) -> Entry:
    """Read the entry that a request adds to a container or removes from it.

    :raises BadRequest: ``secret_ref`` is not a reference.
    """
    _, slash, secret_id = document["secret_ref"].rpartition("/")
    if not slash:
        raise BadRequest("secret_ref is not a reference to a secret.")
    return Entry(document.get("name"), secret_id)


def _mismatch(reason: str) -> SchemaMismatch:
    return SchemaMismatch(CONTAINER.name, reason, "secret_refs")

"""JSON Schemas of responses, for the OpenAPI document (contract, sections 1.7 to 12)."""

from __future__ import annotations

from typing import Any

from barbtx.model.repositories.quotas import RESOURCES

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
NULLABLE_TEXT: Schema = {"type": ["string", "null"]}
INTEGER: Schema = {"type": "integer"}


def strict_object(required: dict[str, Schema], optional: dict[str, Schema] | None = None) -> Schema:
    """Return the schema of an object that has no other properties."""
    return {
        "type": "object",
        "required": list(required),
        "properties": {**required, **(optional or {})},
        "additionalProperties": False,
    }


def array(items: Schema) -> Schema:
    """Return the schema of an array."""
    return {"type": "array", "items": items}


def page(name: str, items: Schema) -> Schema:
    """Return the schema of a page of a list.

    :param name: the property that holds the items.
    """
    return strict_object({name: array(items), "total": INTEGER}, {"next": TEXT, "previous": TEXT})


_LIFECYCLE = {"created": TEXT, "updated": TEXT, "status": {"enum": ["ACTIVE", "PENDING", "ERROR"]}}
_SECRET_CONSUMER = {"service": TEXT, "resource_type": TEXT, "resource_id": TEXT}
_CONTAINER_CONSUMER = {"name": TEXT, "URL": TEXT}

ERROR_BODY = strict_object({"code": INTEGER, "title": TEXT, "description": NULLABLE_TEXT})
VERSION: Schema = {"type": "object", "required": ["id", "status", "links"]}
VERSIONS: Schema = {"type": "object"}
SECRET_REF = strict_object({"secret_ref": TEXT}, {"transport_key_ref": TEXT})
SECRET = strict_object(
    {
        **_LIFECYCLE,
        "name": NULLABLE_TEXT,
        "secret_type": TEXT,
        "expiration": NULLABLE_TEXT,
        "algorithm": NULLABLE_TEXT,
        "bit_length": {"type": ["integer", "null"]},
        "mode": NULLABLE_TEXT,
        "creator_id": NULLABLE_TEXT,
        "secret_ref": TEXT,
    },
    {
        "content_types": strict_object({"default": TEXT}),
        "consumers": array(strict_object(_SECRET_CONSUMER)),
        "transport_key_ref": TEXT,
    },
)
SECRETS = page("secrets", SECRET)
METADATA = strict_object({"metadata": {"type": "object", "additionalProperties": TEXT}})
METADATA_REF = strict_object({"metadata_ref": TEXT})
METADATUM = strict_object({"key": TEXT, "value": TEXT})
ACL = strict_object(
    {
        "read": strict_object(
            {"project-access": {"type": "boolean"}}, {"users": array(TEXT), "created": TEXT, "updated": TEXT}
        )
    }
)
ACL_REF = strict_object({"acl_ref": TEXT})
NULL: Schema = {"type": "null"}
CONTAINER_REF = strict_object({"container_ref": TEXT})
CONTAINER = strict_object(
    {
        **_LIFECYCLE,
        "name": NULLABLE_TEXT,
        "type": TEXT,
        "creator_id": NULLABLE_TEXT,
        "secret_refs": array(strict_object({"name": NULLABLE_TEXT, "secret_ref": TEXT})),
        "consumers": array(strict_object(_CONTAINER_CONSUMER)),
        "container_ref": TEXT,
    }
)
CONTAINERS = page("containers", CONTAINER)
SECRET_CONSUMER = strict_object({**_SECRET_CONSUMER, **_LIFECYCLE})
SECRET_CONSUMERS = page("consumers", SECRET_CONSUMER)
CONTAINER_CONSUMER = strict_object({**_CONTAINER_CONSUMER, **_LIFECYCLE})
CONTAINER_CONSUMERS = page("consumers", CONTAINER_CONSUMER)
ORDER_REF = strict_object({"order_ref": TEXT})
ORDER = strict_object(
    {**_LIFECYCLE, "type": TEXT, "meta": {"type": "object"}, "order_ref": TEXT},
    {
        "creator_id": TEXT,
        "sub_status": TEXT,
        "sub_status_message": TEXT,
        "error_status_code": TEXT,
        "error_reason": TEXT,
        "secret_ref": TEXT,
        "container_ref": TEXT,
    },
)
ORDERS = page("orders", ORDER)
QUOTAS = strict_object({"quotas": strict_object(dict.fromkeys(RESOURCES, INTEGER))})
_OWN_QUOTAS = strict_object({name: {"type": ["integer", "null"]} for name in RESOURCES})
PROJECT_QUOTAS = strict_object({"project_quotas": _OWN_QUOTAS})
PROJECTS_QUOTAS = page("project_quotas", strict_object({"project_id": TEXT, "project_quotas": _OWN_QUOTAS}))
TRANSPORT_KEY_REF = strict_object({"transport_key_ref": TEXT})
TRANSPORT_KEY = strict_object(
    {
        "id": TEXT,
        "plugin_name": TEXT,
        "transport_key": TEXT,
        "status": TEXT,
        "created_at": TEXT,
        "updated_at": TEXT,
        "deleted_at": NULLABLE_TEXT,
        "deleted": {"type": "boolean"},
    }
)
TRANSPORT_KEYS = page("transport_keys", TEXT)
SECRET_STORE = strict_object(
    {
        **_LIFECYCLE,
        "name": TEXT,
        "global_default": {"type": "boolean"},
        "secret_store_plugin": TEXT,
        "crypto_plugin": NULLABLE_TEXT,
        "secret_store_ref": TEXT,
    }
)
SECRET_STORES = strict_object({"secret_stores": array(SECRET_STORE)})

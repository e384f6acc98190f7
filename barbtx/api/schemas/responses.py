"""What answers look like, for the description of the service. Source: the contract, sections 1.7 to 12."""

from __future__ import annotations

from typing import Any

from barbtx.model.repositories.quotas import RESOURCES

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
NULLABLE_TEXT: Schema = {"type": ["string", "null"]}
WHOLE: Schema = {"type": "integer"}
ANYTHING: Schema = {}


def thing(required: dict[str, Schema], optional: dict[str, Schema] | None = None) -> Schema:
    """An object with these properties and no others."""
    return {
        "type": "object",
        "required": list(required),
        "properties": {**required, **(optional or {})},
        "additionalProperties": False,
    }


def items(of: Schema) -> Schema:
    return {"type": "array", "items": of}


def page(name: str, of: Schema) -> Schema:
    """A page of a list."""
    return thing({name: items(of), "total": WHOLE}, {"next": TEXT, "previous": TEXT})


_LIFE = {"created": TEXT, "updated": TEXT, "status": {"enum": ["ACTIVE", "PENDING", "ERROR"]}}
_SECRET_CONSUMER = {"service": TEXT, "resource_type": TEXT, "resource_id": TEXT}
_CONTAINER_CONSUMER = {"name": TEXT, "URL": TEXT}

ERROR_BODY = thing({"code": WHOLE, "title": TEXT, "description": NULLABLE_TEXT})
VERSION: Schema = {"type": "object", "required": ["id", "status", "links"]}
VERSIONS: Schema = {"type": "object"}
SECRET_REF = thing({"secret_ref": TEXT}, {"transport_key_ref": TEXT})
SECRET = thing(
    {
        **_LIFE,
        "name": NULLABLE_TEXT,
        "secret_type": TEXT,
        "expiration": NULLABLE_TEXT,
        "algorithm": NULLABLE_TEXT,
        "bit_length": {"type": ["integer", "null"]},
        "mode": NULLABLE_TEXT,
        "creator_id": NULLABLE_TEXT,
        "secret_ref": TEXT,
    },
    {"content_types": thing({"default": TEXT}), "consumers": items(thing(_SECRET_CONSUMER)), "transport_key_ref": TEXT},
)
SECRETS = page("secrets", SECRET)
METADATA = thing({"metadata": {"type": "object", "additionalProperties": TEXT}})
METADATA_REF = thing({"metadata_ref": TEXT})
METADATUM = thing({"key": TEXT, "value": TEXT})
ACL = thing(
    {"read": thing({"project-access": {"type": "boolean"}}, {"users": items(TEXT), "created": TEXT, "updated": TEXT})}
)
ACL_REF = thing({"acl_ref": TEXT})
NULL: Schema = {"type": "null"}
CONTAINER_REF = thing({"container_ref": TEXT})
CONTAINER = thing(
    {
        **_LIFE,
        "name": NULLABLE_TEXT,
        "type": TEXT,
        "creator_id": NULLABLE_TEXT,
        "secret_refs": items(thing({"name": NULLABLE_TEXT, "secret_ref": TEXT})),
        "consumers": items(thing(_CONTAINER_CONSUMER)),
        "container_ref": TEXT,
    }
)
CONTAINERS = page("containers", CONTAINER)
SECRET_CONSUMER = thing({**_SECRET_CONSUMER, **_LIFE})
SECRET_CONSUMERS = page("consumers", SECRET_CONSUMER)
CONTAINER_CONSUMER = thing({**_CONTAINER_CONSUMER, **_LIFE})
CONTAINER_CONSUMERS = page("consumers", CONTAINER_CONSUMER)
ORDER_REF = thing({"order_ref": TEXT})
ORDER = thing(
    {**_LIFE, "type": TEXT, "meta": {"type": "object"}, "order_ref": TEXT},
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
QUOTAS = thing({"quotas": thing(dict.fromkeys(RESOURCES, WHOLE))})
_OWN_QUOTAS = thing({name: {"type": ["integer", "null"]} for name in RESOURCES})
PROJECT_QUOTAS = thing({"project_quotas": _OWN_QUOTAS})
PROJECTS_QUOTAS = page("project_quotas", thing({"project_id": TEXT, "project_quotas": _OWN_QUOTAS}))
TRANSPORT_KEY_REF = thing({"transport_key_ref": TEXT})
TRANSPORT_KEY = thing(
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
SECRET_STORE = thing(
    {
        **_LIFE,
        "name": TEXT,
        "global_default": {"type": "boolean"},
        "secret_store_plugin": TEXT,
        "crypto_plugin": NULLABLE_TEXT,
        "secret_store_ref": TEXT,
    }
)
SECRET_STORES = thing({"secret_stores": items(SECRET_STORE)})

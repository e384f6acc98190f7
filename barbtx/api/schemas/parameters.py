"""Descriptions of the parameters of requests, for the OpenAPI document. They are CommonMark."""

from __future__ import annotations

from collections.abc import Mapping

PATH_PARAMETERS: Mapping[str, str] = {
    "consumer_id": "Id of the consumer.",
    "container_id": "Id of the container, the last part of its reference.",
    "key": "Key of the metadata item, in lower case.",
    "key_id": "Id of the transport key, the last part of its reference.",
    "order_id": "Id of the order, the last part of its reference.",
    "project_id": "Id of the project in Keystone.",
    "secret_id": "Id of the secret, the last part of its reference.",
    "store_id": "Id of the secret store, the last part of its reference.",
}

_TIME = (
    "Selects secrets by {}: one condition, or several that are separated by commas and must all hold. A condition is "
    "an ISO 8601 time, or one with a prefix: `gt:` (later), `gte:` (later or equal), `lt:` (earlier), `lte:` (earlier "
    "or equal)."
)

QUERY_PARAMETERS: Mapping[str, str] = {
    "acl_only": "`true` lists the secrets of all projects whose ACL names the caller's user id, instead of the secrets "
    "of the caller's project. Any other value is ignored, and so is the parameter if the caller has no user id.",
    "alg": "Selects secrets by `algorithm`, without regard to case; `%` and `_` are wildcards.",
    "bits": "Selects secrets by `bit_length`. Anything but a positive integer is ignored.",
    "build": "If present, with or without a value, the response has the release of the reference service with which "
    "this service is compatible.",
    "created": _TIME.format("the time of their creation"),
    "expiration": _TIME.format("the time of their expiration")
    + " Secrets without an expiration are left out; secrets that have expired are never listed.",
    "force": "`true` deletes a secret even if it has consumers; with `false`, the default, that is refused. "
    "Microversions before 1.2 ignore the parameter and delete the secret.",
    "limit": "Maximum number of items in the page. Unless the service is configured otherwise, the default is 10 and "
    "the maximum 100; a greater value is reduced to the maximum.",
    "meta": "Selects orders whose `meta` has this text as a key or as a whole string value, without regard to case; "
    "`%` and `_` are wildcards.",
    "mode": "Selects secrets by `mode`, without regard to case; `%` and `_` are wildcards.",
    "name": "Selects objects by `name`, without regard to case; `%` and `_` are wildcards.",
    "offset": "Number of items before the page (default: 0).",
    "plugin_name": "Selects transport keys by `plugin_name`.",
    "secret_type": "Selects secrets by `secret_type`.",
    "sort": "Keys, separated by commas, each of which may be followed by `:asc` (default) or `:desc`. The keys are "
    "`algorithm`, `bit_length`, `created`, `expiration`, `mode`, `name`, `secret_type`, `status` and `updated`. "
    "Secrets that compare equal, and all secrets if there is no `sort`, are listed oldest first.",
    "trans_wrapped_session_key": "A session key, wrapped with the transport key `transport_key_id`: the payload in the "
    "response is wrapped with the session key.",
    "transport_key_id": "Id of the transport key with which the payload or the session key is wrapped.",
    "transport_key_needed": "`true`: the response has a `transport_key_ref`. Any other value is ignored.",
    "type": "Selects containers by `type`.",
    "updated": _TIME.format("the time of their last change"),
}

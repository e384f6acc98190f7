"""What repositories give out and take: frozen data without a session behind it."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Generic, TypeVar

import attrs

T = TypeVar("T")

ACTIVE = "ACTIVE"
PENDING = "PENDING"
ERROR = "ERROR"


@attrs.frozen
class KEKMeta:
    """A project's key encryption key as its crypto plugin wrapped it; ``plugin_meta`` is the plugin's own text."""

    id: str
    plugin_name: str
    kek_label: str
    algorithm: str
    bit_length: int
    mode: str
    plugin_meta: str = attrs.field(repr=False)


@attrs.frozen
class EncryptedDatum:
    """A payload as a crypto plugin encrypted it, and the key it needs."""

    kek: KEKMeta
    cypher_text: bytes = attrs.field(repr=False)
    kek_meta_extended: str | None = None


@attrs.frozen
class StoredPayload:
    """Where a secret's payload went.

    :ivar plugin: full class name of the secret store that has it.
    :ivar content_type: media type of the payload, without parameters.
    :ivar metadata: what the store wants to be given again on reading and deleting; at most 255 characters a value.
    :ivar datum: the ciphertext, if the store leaves it to the database.
    """

    plugin: str
    content_type: str
    metadata: Mapping[str, str]
    datum: EncryptedDatum | None = None


@attrs.frozen
class Secret:
    """A secret's metadata. ``project_id`` is the project's external id, ``payload`` where the payload is, if any."""

    id: str
    project_id: str
    name: str | None
    secret_type: str
    expiration: datetime.datetime | None
    algorithm: str | None
    bit_length: int | None
    mode: str | None
    creator_id: str | None
    created: datetime.datetime
    updated: datetime.datetime
    status: str = ACTIVE
    content_type: str | None = None
    payload: StoredPayload | None = None


@attrs.frozen
class NewSecret:
    """A secret to be stored; ``payload`` is None in the first of two steps."""

    id: str
    project_id: str
    name: str | None = None
    secret_type: str = "opaque"
    expiration: datetime.datetime | None = None
    algorithm: str | None = None
    bit_length: int | None = None
    mode: str | None = None
    creator_id: str | None = None
    payload: StoredPayload | None = None


@attrs.frozen
class Order:
    """An order. ``meta`` is the JSON text as it is shown."""

    id: str
    project_id: str
    type: str
    meta: str
    creator_id: str | None
    status: str
    created: datetime.datetime
    updated: datetime.datetime
    sub_status: str | None = None
    sub_status_message: str | None = None
    error_status_code: str | None = None
    error_reason: str | None = None
    secret_id: str | None = None


@attrs.frozen
class Task:
    """A call of a task method that is due."""

    order_id: str
    method: str
    kwargs: Mapping[str, str | None]


@attrs.frozen
class Lease:
    """A worker's claim on an order; ``attempt`` counts from 1."""

    order: Order
    token: str
    attempt: int


@attrs.frozen
class Page(Generic[T]):
    """Some of the items that match, and how many match in all."""

    items: tuple[T, ...]
    total: int

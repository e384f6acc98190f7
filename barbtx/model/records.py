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
    """A project's key encryption key as its crypto plugin wrapped it; ``plugin_meta`` is the plugin's own text.

    :ivar master_key_id: names the master key that wraps it; None if the plugin does not name its master keys.
    """

    id: str
    plugin_name: str
    kek_label: str
    algorithm: str
    bit_length: int
    mode: str
    plugin_meta: str = attrs.field(repr=False)
    master_key_id: str | None = None


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
class Access:
    """What an object's ACL means to one caller.

    :ivar project_access: whether the object's project may read it.
    :ivar listed: whether the caller is among the users named.
    """

    project_access: bool = True
    listed: bool = False


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
    access: Access = Access()
    consumers: tuple[Mapping[str, str], ...] = ()


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
    container_id: str | None = None


@attrs.frozen
class Entry:
    """A secret in a container, under a name or none."""

    name: str | None
    secret_id: str


@attrs.frozen
class NewContainer:
    """A container to be stored; its secrets must be the project's."""

    id: str
    project_id: str
    type: str
    name: str | None = None
    creator_id: str | None = None
    entries: tuple[Entry, ...] = ()


@attrs.frozen
class Container:
    """A container with what is in it and who uses it. ``project_id`` is the project's external id."""

    id: str
    project_id: str
    name: str | None
    type: str
    creator_id: str | None
    created: datetime.datetime
    updated: datetime.datetime
    status: str = ACTIVE
    access: Access = Access()
    entries: tuple[Entry, ...] = ()
    consumers: tuple[Mapping[str, str], ...] = ()


@attrs.frozen
class Consumer:
    """Who uses an object; ``fields`` is what they said of themselves."""

    fields: Mapping[str, str]
    created: datetime.datetime
    updated: datetime.datetime
    status: str


@attrs.frozen
class Acl:
    """Who may read an object."""

    project_access: bool
    users: tuple[str, ...]
    created: datetime.datetime
    updated: datetime.datetime


@attrs.frozen
class TransportKey:
    """A key for wrapping payloads; ``plugin_name`` is the full class name of the store that can unwrap them."""

    id: str
    plugin_name: str
    transport_key: str
    status: str
    created: datetime.datetime
    updated: datetime.datetime


@attrs.frozen
class SecretStore:
    """A configured backend; plugins under the names that the configuration gives them."""

    id: str
    store_plugin: str
    crypto_plugin: str | None
    global_default: bool
    name: str
    status: str
    created: datetime.datetime
    updated: datetime.datetime


@attrs.frozen
class Created:
    """What a request created.

    :ivar collection: its collection in the API: ``secrets``, ``containers`` or ``orders``.
    :ivar transport_key_id: the transport key that the answer names, if it names one.
    """

    collection: str
    id: str
    transport_key_id: str | None = None


@attrs.frozen
class GeneratedObjects:
    """What an order made: one secret or, with a container, several."""

    secrets: tuple[NewSecret, ...]
    container: NewContainer | None = None


#: The lanes in which orders are processed: what takes milliseconds never waits behind what takes seconds.
SYMMETRIC, ASYMMETRIC = "symmetric", "asymmetric"


def lane_of(order_type: str) -> str:
    """The lane of a type of orders."""
    return ASYMMETRIC if order_type == "asymmetric" else SYMMETRIC


@attrs.frozen
class Task:
    """A call of a task method that is due."""

    order_id: str
    method: str
    kwargs: Mapping[str, str | None]
    lane: str = SYMMETRIC


@attrs.frozen
class Lease:
    """A worker's claim on an order; ``attempt`` counts from 1.

    :ivar request_id: of the API request that the order came with.
    :ivar project_key: internal id of the order's project.
    """

    order: Order
    token: str
    attempt: int
    passphrase: StoredPayload | None = None
    request_id: str | None = None
    project_key: str = ""


@attrs.frozen
class Removal:
    """A project that Keystone is said to have deleted.

    :ivar project_id: Keystone's.
    :ivar due: when it is removed; None until Keystone has confirmed that it is gone.
    :ivar kept_until: set once everything is removed: until when nothing can be added all the same.
    :ivar attempts: how often the present step has failed.
    :ivar problem: why it was put off the last time.
    """

    project_id: str
    requested: datetime.datetime
    due: datetime.datetime | None
    kept_until: datetime.datetime | None
    retry_at: datetime.datetime
    attempts: int
    problem: str | None
    leased_until: datetime.datetime | None


@attrs.frozen
class RemovalClaim:
    """A worker's claim on the next step of a removal.

    :ivar attempt: one more than the step has failed so far.
    :ivar confirmed: whether Keystone has said that the project is gone, so that the step is to remove it.
    :ivar age: seconds since the step became due.
    """

    project_id: str
    token: str
    attempt: int
    confirmed: bool
    age: float


@attrs.frozen
class Page(Generic[T]):
    """Some of the items that match, and how many match in all."""

    items: tuple[T, ...]
    total: int

"""The frozen records that repositories return and accept. They do not depend on a session.

Times are naive datetimes in UTC.
"""

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
    """A project key (KEK), wrapped by a crypto plugin.

    :ivar plugin_name: full class name of the plugin.
    :ivar plugin_meta: the wrapped key, in the plugin's own format.
    :ivar master_key_id: id of the master key (MKEK) that wraps it; None if the plugin does not name its master keys.
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
    """The ciphertext of a payload, and the project key that decrypts it.

    :ivar kek_meta_extended: data of the plugin that decryption requires in addition to the key.
    """

    kek: KEKMeta
    cypher_text: bytes = attrs.field(repr=False)
    kek_meta_extended: str | None = None


@attrs.frozen
class StoredPayload:
    """The location of a secret's payload.

    :ivar plugin: full class name of the secret store that has it.
    :ivar content_type: media type of the payload, without parameters.
    :ivar metadata: data that the store needs to read or delete the payload; values have at most 255 characters.
    :ivar datum: the ciphertext, if the store keeps it in the database.
    """

    plugin: str
    content_type: str
    metadata: Mapping[str, str]
    datum: EncryptedDatum | None = None


@attrs.frozen
class Access:
    """A caller's access to an object by its ACL.

    :ivar project_access: whether every member of the object's project may read it.
    :ivar listed: whether the ACL names the caller.
    """

    project_access: bool = True
    listed: bool = False


@attrs.frozen
class Secret:
    """A secret's metadata.

    :ivar project_id: external id of its project.
    :ivar payload: the location of its payload; None if it has none, or if the location was not read.
    :ivar consumers: the oldest of its consumers, if they were read.
    """

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
    """A secret to be stored. ``payload`` is None if the client sends the payload in a second request."""

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
    """An order. ``project_id`` is the external id of its project, ``meta`` JSON as clients see it."""

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
    """A secret in a container, with an optional name."""

    name: str | None
    secret_id: str


@attrs.frozen
class NewContainer:
    """A container to be stored. Its secrets must belong to its project."""

    id: str
    project_id: str
    type: str
    name: str | None = None
    creator_id: str | None = None
    entries: tuple[Entry, ...] = ()


@attrs.frozen
class Container:
    """A container with its secrets and the oldest of its consumers, if these were read.

    :ivar project_id: external id of its project.
    """

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
    """A consumer of a secret or container. ``fields`` are the fields that identify it."""

    fields: Mapping[str, str]
    created: datetime.datetime
    updated: datetime.datetime
    status: str


@attrs.frozen
class Acl:
    """An access control list: who may read a secret or container.

    :ivar project_access: whether every member of the object's project may read it.
    :ivar users: ids of further users who may.
    """

    project_access: bool
    users: tuple[str, ...]
    created: datetime.datetime
    updated: datetime.datetime


@attrs.frozen
class TransportKey:
    """A key for wrapping payloads. ``plugin_name`` is the full class name of the store that can unwrap them."""

    id: str
    plugin_name: str
    transport_key: str
    status: str
    created: datetime.datetime
    updated: datetime.datetime


@attrs.frozen
class SecretStore:
    """A configured backend. Its plugins have their configured names."""

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
    """The object that a request created.

    :ivar collection: its collection in the API: ``secrets``, ``containers`` or ``orders``.
    :ivar transport_key_id: the transport key that the response names, if any.
    """

    collection: str
    id: str
    transport_key_id: str | None = None


@attrs.frozen
class GeneratedObjects:
    """The objects that an order generated: one secret, or several in a container."""

    secrets: tuple[NewSecret, ...]
    container: NewContainer | None = None


#: The lanes in which orders are processed: orders that take milliseconds never wait for orders that take seconds.
SYMMETRIC, ASYMMETRIC = "symmetric", "asymmetric"


def lane_of(order_type: str) -> str:
    """The lane in which orders of a type are processed."""
    return ASYMMETRIC if order_type == "asymmetric" else SYMMETRIC


@attrs.frozen
class Task:
    """A task of an order: the queue method that processes it, and its arguments."""

    order_id: str
    method: str
    kwargs: Mapping[str, str | None]
    lane: str = SYMMETRIC


@attrs.frozen
class Lease:
    """A worker's lease on an order.

    :ivar attempt: number of the attempt, from 1.
    :ivar passphrase: the location of the order's passphrase, if it has one.
    :ivar request_id: id of the API request that created the order.
    :ivar project_key: primary key of the order's project.
    """

    order: Order
    token: str
    attempt: int
    passphrase: StoredPayload | None = None
    request_id: str | None = None
    project_key: str = ""


@attrs.frozen
class Removal:
    """The removal of a project that is reported as deleted in Keystone.

    :ivar project_id: Keystone's id.
    :ivar due: when its objects are removed; None until Keystone confirms the deletion.
    :ivar kept_until: the project stays closed until then; None until everything is removed.
    :ivar attempts: failed attempts at the current step.
    :ivar problem: why the last attempt was postponed or failed.
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
    """A worker's lease on the next step of a removal.

    :ivar attempt: number of the attempt at the step, from 1.
    :ivar confirmed: whether Keystone has confirmed the deletion, so that the step is the removal itself.
    :ivar age: seconds since the step became due.
    """

    project_id: str
    token: str
    attempt: int
    confirmed: bool
    age: float


@attrs.frozen
class Page(Generic[T]):
    """A page of a list, and the total number of items on all pages."""

    items: tuple[T, ...]
    total: int

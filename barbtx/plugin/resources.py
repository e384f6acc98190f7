"""Operations on payloads and keys for controllers and tasks: each chooses the store, calls it and records its name."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import TypeVar

import attrs
from twisted.logger import Logger

from barbtx.errors import NotSupported
from barbtx.model.records import Entry, GeneratedObjects, NewContainer, NewSecret, Secret, StoredPayload, TransportKey
from barbtx.model.repositories.keks import KEKGone
from barbtx.model.repositories.secrets import HasPayload
from barbtx.plugin.interface.domains import Domain
from barbtx.plugin.interface.results import resolve
from barbtx.plugin.interface.secret_store import (
    ISecretStore,
    KeySpec,
    PairIds,
    SecretDTO,
    StorageReceipt,
    Wrapping,
)
from barbtx.plugin.manager import StoreManager, full_name

log = Logger()

T = TypeVar("T")


async def retry_on_stale_key(stores: StoreManager, project_id: str, write: Callable[[], Awaitable[T]]) -> T:
    """Encrypt payloads and write their rows; retry once if the project key that a store had cached no longer exists.

    :param project_id: external id.
    :param write: encrypts and writes; called again if it raises :class:`KEKGone`, in which case it has stored nothing.
    :raises KEKGone: the second call raised it too.
    """
    try:
        return await write()
    except KEKGone:
        stores.forget_project(project_id)
        return await write()


async def store_secret(
    stores: StoreManager,
    secret: NewSecret | Secret,
    payload: bytes,
    content_type: str,
    transport_key: TransportKey | None = None,
    domain: Domain = Domain.PAYLOAD,
) -> StoredPayload:
    """Store the payload of a secret. The caller then writes the secret's row within :func:`delete_orphans_on_error`.

    :param content_type: media type, without parameters.
    :param transport_key: the key that the client wrapped the payload for; its store receives the payload.
    :param domain: the kind of plaintext.
    :raises NotSupported: no store accepts it.
    """
    spec = KeySpec(secret.algorithm, secret.bit_length, secret.mode)
    if transport_key is None:
        store = await stores.for_new_secret(secret.project_id, spec)
    else:
        store = await _unwrapping_store(stores, transport_key)
    dto = SecretDTO(
        secret.id,
        secret.project_id,
        secret.secret_type,
        payload,
        spec,
        content_type,
        None if transport_key is None else transport_key.transport_key,
        domain,
    )
    return _stored_payload(store, content_type, await resolve(store.store_secret(dto)))


async def get_secret(
    stores: StoreManager, secret: Secret, session_key: str | None = None, transport_key: TransportKey | None = None
) -> bytes:
    """Return the payload of a secret, which must have been read with its ``payload``.

    :param session_key: the session key, wrapped for the transport key, with which the store wraps the payload; given
        together with the transport key, or not at all.
    :raises PluginNotEnabled: the store that has the payload is not enabled in this process.
    :raises NotSupported: the transport key belongs to another store than the payload.
    """
    payload = secret.payload
    if payload is None:
        raise LookupError("the secret has no payload")
    store = stores.by_name(payload.plugin)
    receipt = StorageReceipt(payload.metadata, payload.datum)
    if transport_key is None:
        return await resolve(store.get_secret(secret.id, secret.project_id, receipt))
    if session_key is None:
        raise ValueError("a transport key is given without a session key")
    if await _unwrapping_store(stores, transport_key) is not store:
        raise NotSupported("The transport key is not one of the secret store that has this secret")
    wrapping = Wrapping(session_key, transport_key.transport_key)
    return await resolve(store.get_secret(secret.id, secret.project_id, receipt, wrapping))


async def current_transport_key(stores: StoreManager, secret: NewSecret | Secret) -> tuple[str, str]:
    """Return the current transport key of the store that has, or would receive, the payload of a secret.

    :return: the full class name of the store, and the key.
    :raises NotSupported: the store has no transport key.
    """
    payload = secret.payload
    if payload is not None:
        store = stores.by_name(payload.plugin)
    else:
        spec = KeySpec(secret.algorithm, secret.bit_length, secret.mode)
        store = await stores.for_new_secret(secret.project_id, spec)
    key = await resolve(store.get_transport_key())
    if key is None:
        raise NotSupported("The secret store has no transport key")
    return full_name(store), key


async def _unwrapping_store(stores: StoreManager, transport_key: TransportKey) -> ISecretStore:
    """Return the store of a transport key.

    :raises NotSupported: it is not enabled, or does not unwrap payloads.
    """
    store = stores.find(transport_key.plugin_name)
    if store is None or await resolve(store.get_transport_key()) is None:
        raise NotSupported("The secret store of this transport key is not enabled, or wraps no payloads")
    return store


async def delete_secret(stores: StoreManager, secret: NewSecret | Secret) -> None:
    """Delete the payload of a secret, if it has one. The caller deletes the secret's row afterwards."""
    if secret.payload is not None:
        await delete_payload(stores, secret.payload)


async def delete_payload(stores: StoreManager, payload: StoredPayload) -> None:
    """Delete a payload.

    :raises PluginNotEnabled: the store that has it is not enabled in this process.
    """
    await resolve(stores.by_name(payload.plugin).delete_secret(StorageReceipt(payload.metadata, payload.datum)))


async def delete_orphans(stores: StoreManager, payloads: Iterable[StoredPayload | None]) -> None:
    """Delete payloads that no row refers to. Never raises: a payload that cannot be deleted is logged.

    :param payloads: entries that are None are skipped.
    """
    for payload in payloads:
        if payload is None:
            continue
        try:
            await delete_payload(stores, payload)
        except Exception:
            log.failure(
                "an orphaned payload could not be deleted from {store}: {metadata}",
                store=payload.plugin,
                metadata=dict(payload.metadata),
            )


@asynccontextmanager
async def delete_orphans_on_error(stores: StoreManager, *payloads: StoredPayload | None) -> AsyncIterator[None]:
    """Delete stored payloads if the enclosed write of the rows that refer to them fails.

    Every writer of payloads uses this context manager. An exception means that nothing was written, unless its
    ``outcome_unknown`` is true (:class:`~barbtx.errors.BarbtxError`): then the payloads are kept, because a row without
    a payload is worse than a payload without a row. A payload with the receipt that :class:`HasPayload` names is kept
    too. The exception propagates unchanged, even if a payload cannot be deleted.
    """
    try:
        yield
    except Exception as problem:
        if not getattr(problem, "outcome_unknown", False):
            in_use = problem.payload if isinstance(problem, HasPayload) else None
            await delete_orphans(stores, (payload for payload in payloads if not _is_same(payload, in_use)))
        raise


def _is_same(one: StoredPayload | None, other: StoredPayload | None) -> bool:
    """Return whether two payloads are the same object in the same store."""
    return (
        one is not None
        and other is not None
        and (one.plugin, dict(one.metadata)) == (other.plugin, dict(other.metadata))
    )


async def generate_secret(stores: StoreManager, secret: NewSecret, content_type: str) -> NewSecret:
    """Generate a symmetric key with the algorithm, length and mode of a secret; the caller writes the secret's row.

    :return: the secret with its payload.
    :raises NotSupported: no store generates such keys.
    """
    spec = KeySpec(secret.algorithm, secret.bit_length, secret.mode)
    store = await stores.for_new_key(secret.project_id, spec)
    receipt = await resolve(store.generate_symmetric_key(secret.id, secret.project_id, spec))
    return attrs.evolve(secret, payload=_stored_payload(store, content_type, receipt))


async def generate_asymmetric_secret(
    stores: StoreManager, template: NewSecret, passphrase: str | None, content_type: str
) -> GeneratedObjects:
    """Generate a key pair; the caller writes the rows of its secrets and of their container.

    :param template: the fields that the secrets have in common; its id becomes the id of the container.
    :raises NotSupported: no store generates such keys.
    """
    ids = PairIds(*(str(uuid.uuid4()) for _ in range(3)))
    spec = KeySpec(template.algorithm, template.bit_length, template.mode, passphrase)
    store = await stores.for_new_key(template.project_id, spec)
    if template.algorithm is None:
        raise NotSupported("A key pair is generated only with an algorithm")
    receipts = await resolve(store.generate_asymmetric_key(ids, template.project_id, spec))
    parts = [
        ("private_key", "private", ids.private, receipts.private),
        ("public_key", "public", ids.public, receipts.public),
    ]
    if receipts.passphrase is not None:
        parts.append(("private_key_passphrase", "passphrase", ids.passphrase, receipts.passphrase))
    secrets = tuple(
        attrs.evolve(
            template, id=secret_id, secret_type=secret_type, payload=_stored_payload(store, content_type, receipt)
        )
        for _, secret_type, secret_id, receipt in parts
    )
    entries = tuple(Entry(name, secret_id) for name, _, secret_id, _ in parts)
    container = NewContainer(
        template.id, template.project_id, template.algorithm.lower(), template.name, template.creator_id, entries
    )
    return GeneratedObjects(secrets, container)


async def store_passphrase(stores: StoreManager, order_id: str, project_id: str, passphrase: str) -> StoredPayload:
    """Store the passphrase of an order until the order is processed."""
    owner = NewSecret(order_id, project_id, secret_type="passphrase")
    return await store_secret(stores, owner, passphrase.encode(), "text/plain", domain=Domain.ORDER_PASSPHRASE)


async def get_passphrase(stores: StoreManager, order_id: str, project_id: str, payload: StoredPayload) -> str:
    """Return the passphrase that :func:`store_passphrase` stored."""
    store = stores.by_name(payload.plugin)
    receipt = StorageReceipt(payload.metadata, payload.datum, Domain.ORDER_PASSPHRASE)
    return (await resolve(store.get_secret(order_id, project_id, receipt))).decode()


def _stored_payload(store: ISecretStore, content_type: str, receipt: StorageReceipt) -> StoredPayload:
    return StoredPayload(full_name(store), content_type, receipt.metadata, receipt.datum)

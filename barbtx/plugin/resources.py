"""What controllers and tasks ask of the plugins; here a store is chosen, and remembered with the secret."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import attrs
from twisted.internet.defer import maybeDeferred
from twisted.logger import Logger

from barbtx.errors import NotSupported
from barbtx.model.records import Entry, GeneratedObjects, NewContainer, NewSecret, Secret, StoredPayload, TransportKey
from barbtx.model.repositories.keks import KEKGone
from barbtx.model.repositories.secrets import HasPayload
from barbtx.plugin.interface.domains import Domain
from barbtx.plugin.interface.secret_store import KeySpec, PairIds, SecretDTO, StorageReceipt, Wrapping
from barbtx.plugin.manager import StoreManager, full_name

log = Logger()

T = TypeVar("T")


async def with_current_key(stores: StoreManager, project_id: str, write: Callable[[], Awaitable[T]]) -> T:
    """Have payloads encrypted and their rows written; once more if the key that a store remembered is gone by then.

    :param write: does both; it is called a second time after it raised :class:`KEKGone`, when nothing was stored.
    :raises KEKGone: the key is gone again.
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
    """Have a payload kept for a secret, whose row the caller writes afterwards, in :func:`forgotten_if_refused`.

    :param content_type: media type, without parameters.
    :param transport_key: what the client wrapped the payload for; its store is the one that gets it.
    :param domain: what kind of plaintext it is.
    :raises NotSupported: no store takes it.
    """
    spec = KeySpec(secret.algorithm, secret.bit_length, secret.mode)
    if transport_key is None:
        store = await stores.to_store(secret.project_id, spec)
    else:
        store = await _unwrapping_store(stores, transport_key)
    dto = SecretDTO(
        secret.id,
        secret.project_id,
        secret.secret_type,
        payload,
        spec,
        content_type,
        transport_key and transport_key.transport_key,
        domain,
    )
    return _receipt(store, content_type, await maybeDeferred(store.store_secret, dto))


async def get_secret(
    stores: StoreManager, secret: Secret, session_key: str | None = None, transport_key: TransportKey | None = None
) -> bytes:
    """A secret's payload, decrypted. The secret must have been read with its payload.

    :param session_key: under which the store shall wrap it, itself wrapped for the transport key.
    :raises NotEnabled: the store that has it is not enabled here, or not any more.
    :raises NotSupported: the store that has it is not the transport key's.
    """
    payload = secret.payload
    store = stores.by_name(payload.plugin)
    kept = StorageReceipt(payload.metadata, payload.datum)
    if transport_key is None:
        return await maybeDeferred(store.get_secret, secret.id, secret.project_id, kept)
    if await _unwrapping_store(stores, transport_key) is not store:
        raise NotSupported("The transport key is not one of the secret store that has this secret")
    wrapping = Wrapping(session_key, transport_key.transport_key)
    return await maybeDeferred(store.get_secret, secret.id, secret.project_id, kept, wrapping)


async def current_transport_key(stores: StoreManager, secret: NewSecret | Secret) -> tuple[str, str]:
    """The plugin name and the current transport key of the store that has, or would get, a secret's payload.

    :raises NotSupported: it has none.
    """
    payload = secret.payload
    if payload is not None:
        store = stores.by_name(payload.plugin)
    else:
        spec = KeySpec(secret.algorithm, secret.bit_length, secret.mode)
        store = await stores.to_store(secret.project_id, spec)
    key = await maybeDeferred(store.get_transport_key)
    if key is None:
        raise NotSupported("The secret store has no transport key")
    return full_name(store), key


async def _unwrapping_store(stores: StoreManager, transport_key: TransportKey) -> Any:
    """:raises NotSupported: the store that a transport key is for is not enabled, or unwraps nothing."""
    store = stores.find(transport_key.plugin_name)
    if store is None or await maybeDeferred(store.get_transport_key) is None:
        raise NotSupported("The secret store of this transport key is not enabled, or wraps no payloads")
    return store


async def delete_secret(stores: StoreManager, secret: NewSecret | Secret) -> None:
    """Have the store forget a secret's payload, if it has one; the caller deletes the row afterwards."""
    if secret.payload is not None:
        await delete_payload(stores, secret.payload)


async def delete_payload(stores: StoreManager, payload: StoredPayload) -> None:
    """Have the store forget a payload."""
    await maybeDeferred(stores.by_name(payload.plugin).delete_secret, StorageReceipt(payload.metadata, payload.datum))


async def forget_payloads(stores: StoreManager, payloads: Iterable[StoredPayload | None]) -> None:
    """Have stores forget payloads that no row refers to. Never raises: what a store could not delete is logged.

    :param payloads: None among them is skipped.
    """
    for payload in payloads:
        if payload is None:
            continue
        try:
            await delete_payload(stores, payload)
        except Exception:
            log.failure(
                "a payload that nothing refers to could not be deleted from {store}: {metadata}",
                store=payload.plugin,
                metadata=dict(payload.metadata),
            )


@asynccontextmanager
async def forgotten_if_refused(stores: StoreManager, *payloads: StoredPayload | None) -> AsyncIterator[None]:
    """Around the write that makes rows refer to stored payloads: if nothing was written, the stores forget them.

    Every writer of payloads uses it. Any exception means that nothing was written, unless its ``outcome_unknown`` is
    true (:class:`~barbtx.errors.BarbtxError`): then the payloads stay, because a row without its payload would be worse
    than a payload without its row. So does one whose receipt is that of :class:`HasPayload`. The
    exception goes on unchanged, whatever becomes of the deletion.
    """
    try:
        yield
    except Exception as problem:
        if not getattr(problem, "outcome_unknown", False):
            in_use = problem.payload if isinstance(problem, HasPayload) else None
            await forget_payloads(stores, (payload for payload in payloads if not _is_same(payload, in_use)))
        raise


def _is_same(one: StoredPayload | None, other: StoredPayload | None) -> bool:
    """Whether two payloads are the same in their store."""
    return (
        one is not None
        and other is not None
        and (one.plugin, dict(one.metadata)) == (other.plugin, dict(other.metadata))
    )


async def generate_secret(stores: StoreManager, secret: NewSecret, content_type: str) -> NewSecret:
    """Have a symmetric key made for a secret, by its algorithm, length and mode; the caller writes the row.

    :raises NotSupported: no store makes such keys.
    """
    spec = KeySpec(secret.algorithm, secret.bit_length, secret.mode)
    store = await stores.to_generate(secret.project_id, spec)
    kept = await maybeDeferred(store.generate_symmetric_key, secret.id, secret.project_id, spec)
    return attrs.evolve(secret, payload=_receipt(store, content_type, kept))


async def generate_asymmetric_secret(
    stores: StoreManager, wanted: NewSecret, passphrase: str | None, content_type: str
) -> GeneratedObjects:
    """Have a key pair made; the caller writes its secrets and the container that holds them.

    :param wanted: what the secrets have in common; its id is the container's.
    :raises NotSupported: no store makes such keys.
    """
    ids = PairIds(*(str(uuid.uuid4()) for _ in range(3)))
    spec = KeySpec(wanted.algorithm, wanted.bit_length, wanted.mode, passphrase)
    store = await stores.to_generate(wanted.project_id, spec)
    kept = await maybeDeferred(store.generate_asymmetric_key, ids, wanted.project_id, spec)
    parts = [("private_key", "private", ids.private, kept.private), ("public_key", "public", ids.public, kept.public)]
    if kept.passphrase is not None:
        parts.append(("private_key_passphrase", "passphrase", ids.passphrase, kept.passphrase))
    secrets = tuple(
        attrs.evolve(wanted, id=secret_id, secret_type=kind, payload=_receipt(store, content_type, part))
        for _, kind, secret_id, part in parts
    )
    entries = tuple(Entry(name, secret_id) for name, _, secret_id, _ in parts)
    container = NewContainer(
        wanted.id, wanted.project_id, wanted.algorithm.lower(), wanted.name, wanted.creator_id, entries
    )
    return GeneratedObjects(secrets, container)


async def store_passphrase(stores: StoreManager, order_id: str, project_id: str, passphrase: str) -> StoredPayload:
    """Have the passphrase of an order kept until the order is done."""
    owner = NewSecret(order_id, project_id, secret_type="passphrase")
    return await store_secret(stores, owner, passphrase.encode(), "text/plain", domain=Domain.ORDER_PASSPHRASE)


async def get_passphrase(stores: StoreManager, order_id: str, project_id: str, payload: StoredPayload) -> str:
    """The passphrase that :func:`store_passphrase` had kept."""
    store = stores.by_name(payload.plugin)
    kept = StorageReceipt(payload.metadata, payload.datum, Domain.ORDER_PASSPHRASE)
    return (await maybeDeferred(store.get_secret, order_id, project_id, kept)).decode()


def _receipt(store: Any, content_type: str, kept: StorageReceipt) -> StoredPayload:
    return StoredPayload(full_name(store), content_type, kept.metadata, kept.datum)

"""What controllers and tasks ask of the plugins; here a store is chosen, and remembered with the secret."""

from __future__ import annotations

import uuid
from typing import Any

import attrs
from twisted.internet.defer import maybeDeferred

from barbtx.model.records import Entry, Made, NewContainer, NewSecret, Secret, StoredPayload
from barbtx.plugin.interface.secret_store import Kept, KeySpec, PairIds, SecretDTO
from barbtx.plugin.manager import StoreManager, full_name


async def store_secret(stores: StoreManager, secret: NewSecret | Secret, payload: bytes,
                       content_type: str) -> StoredPayload:
    """Have a payload kept for a secret, whose row the caller writes afterwards.

    :param content_type: media type, without parameters.
    :raises NotSupported: no store takes it.
    """
    spec = KeySpec(secret.algorithm, secret.bit_length, secret.mode)
    store = await stores.to_store(secret.project_id, spec)
    dto = SecretDTO(secret.id, secret.project_id, secret.secret_type, payload, spec, content_type)
    return _receipt(store, content_type, await maybeDeferred(store.store_secret, dto))


async def get_secret(stores: StoreManager, secret: Secret) -> bytes:
    """A secret's payload, decrypted. The secret must have been read with its payload.

    :raises LookupError: the store that has it is not enabled any more.
    """
    payload = secret.payload
    store = stores.by_name(payload.plugin)
    return await maybeDeferred(store.get_secret, secret.id, secret.project_id, Kept(payload.metadata, payload.datum))


async def delete_secret(stores: StoreManager, secret: Secret) -> None:
    """Have the store forget a secret's payload, if it has one; the caller deletes the row afterwards."""
    if secret.payload is not None:
        store = stores.by_name(secret.payload.plugin)
        await maybeDeferred(store.delete_secret, Kept(secret.payload.metadata, secret.payload.datum))


async def generate_secret(stores: StoreManager, secret: NewSecret, content_type: str) -> NewSecret:
    """Have a symmetric key made for a secret, by its algorithm, length and mode; the caller writes the row.

    :raises NotSupported: no store makes such keys.
    """
    spec = KeySpec(secret.algorithm, secret.bit_length, secret.mode)
    store = await stores.to_generate(secret.project_id, spec)
    kept = await maybeDeferred(store.generate_symmetric_key, secret.id, secret.project_id, spec)
    return attrs.evolve(secret, payload=_receipt(store, content_type, kept))


async def generate_asymmetric_secret(stores: StoreManager, wanted: NewSecret, passphrase: str | None,
                                     content_type: str) -> Made:
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
        for _, kind, secret_id, part in parts)
    entries = tuple(Entry(name, secret_id) for name, _, secret_id, _ in parts)
    container = NewContainer(wanted.id, wanted.project_id, wanted.algorithm.lower(), wanted.name, wanted.creator_id,
                             entries)
    return Made(secrets, container)


async def keep_passphrase(stores: StoreManager, order_id: str, project_id: str, passphrase: str) -> StoredPayload:
    """Have the passphrase of an order kept until the order is done."""
    owner = NewSecret(order_id, project_id, secret_type="passphrase")
    return await store_secret(stores, owner, passphrase.encode(), "text/plain")


async def get_passphrase(stores: StoreManager, order_id: str, project_id: str, payload: StoredPayload) -> str:
    """The passphrase that :func:`keep_passphrase` had kept."""
    store = stores.by_name(payload.plugin)
    kept = Kept(payload.metadata, payload.datum)
    return (await maybeDeferred(store.get_secret, order_id, project_id, kept)).decode()


def _receipt(store: Any, content_type: str, kept: Kept) -> StoredPayload:
    return StoredPayload(full_name(store), content_type, kept.metadata, kept.datum)

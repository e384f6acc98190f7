"""One domain for each kind of plaintext: what was sealed as one kind does not open as another."""

from __future__ import annotations

import base64
import os
import struct
import uuid
from collections.abc import Sequence

import attrs
import pytest
import pytest_twisted
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import maybeDeferred
from twisted.internet.task import Clock

from barbtx.config import load
from barbtx.model.records import KEKMeta, NewSecret, Secret, StoredPayload
from barbtx.plugin import resources
from barbtx.plugin.crypto import simple_crypto
from barbtx.plugin.crypto.envelope import PASSPHRASE_VERSION_1, VERSION, VERSION_1
from barbtx.plugin.interface.crypto import DecryptDTO, DecryptionFailed, EncryptDTO
from barbtx.plugin.interface.domains import Domain
from barbtx.plugin.manager import PluginContext, StoreManager, full_name
from barbtx.plugin.stores.store_crypto import StoreCrypto

MASTER = os.urandom(32)
PROJECT_KEY = bytes(range(32))


def seal_version_1(key: bytes, key_id: bytes, plaintext: bytes, context: Sequence[str]) -> bytes:
    """An envelope as releases before the domains made it; see ``envelope.py``."""
    header, nonce = b"\1" + key_id, os.urandom(12)
    lengths = b"".join(struct.pack(">I", len(text.encode())) + text.encode() for text in context)
    return header + nonce + AESGCM(key).encrypt(nonce, plaintext, header + lengths)


def plugin() -> simple_crypto.SimpleCrypto:
    conf = load()
    conf.set_override("kek", [base64.urlsafe_b64encode(MASTER).decode()], group="simple_crypto_plugin")
    return simple_crypto.from_config(PluginContext(conf, Clock(), None, maybeDeferred))


CRYPTO = plugin()


def old_kek(project: str = "p") -> KEKMeta:
    """A project key as an earlier release wrapped it."""
    kek_id = str(uuid.uuid4())
    wrapped = seal_version_1(MASTER, CRYPTO.masters[0].id, PROJECT_KEY, ("barbtx project key", kek_id, project))
    return KEKMeta(kek_id, full_name(CRYPTO), "label", "aes", 256, "gcm", base64.b64encode(wrapped).decode())


def opens(sealed: bytes, secret_id: str, domain: Domain, kek: KEKMeta) -> bytes | None:
    try:
        return CRYPTO.decrypt(DecryptDTO(sealed, secret_id, domain=domain), kek, "p")
    except DecryptionFailed:
        return None


@given(st.binary(max_size=50), st.sampled_from(Domain), st.sampled_from(Domain))
def test_what_is_sealed_in_one_domain_opens_in_that_one_only(plaintext: bytes, one: Domain, two: Domain) -> None:
    kek = old_kek()
    sealed = CRYPTO.encrypt(EncryptDTO(plaintext, "id", one), kek, "p").cypher_text
    assert sealed[0] == VERSION
    assert opens(sealed, "id", two, kek) == (plaintext if one is two else None)


@given(st.sampled_from(Domain), st.sampled_from(Domain), st.integers(0, 255))
def test_no_other_version_byte_opens_an_envelope_in_another_domain(one: Domain, two: Domain, version: int) -> None:
    kek = old_kek()
    sealed = CRYPTO.encrypt(EncryptDTO(b"plain", "id", one), kek, "p").cypher_text
    relabelled = bytes([version]) + sealed[1:]
    assert opens(relabelled, "id", two, kek) == (b"plain" if one is two and version == VERSION else None)


def test_a_project_key_opens_as_nothing_else_and_nothing_else_as_a_project_key() -> None:
    """Sealed under the same key and with the same ids, it is the domain that tells them apart."""
    bound = CRYPTO.bind_kek_metadata(KEKMeta("11111111-1111-4111-8111-111111111111", "p", "l", "", 0, "", ""), "p")
    master = simple_crypto._Key(CRYPTO.masters[0].id, CRYPTO.masters[0].cipher)
    crypto = attrs.evolve(CRYPTO, cache={(bound.id, "p"): master})
    for domain in Domain:
        with pytest.raises(DecryptionFailed):
            crypto.decrypt(DecryptDTO(base64.b64decode(bound.plugin_meta), bound.id, domain=domain), bound, "p")
        sealed = crypto.encrypt(EncryptDTO(bytes(32), bound.id, domain), bound, "p").cypher_text
        with pytest.raises(DecryptionFailed):
            crypto.check_kek(attrs.evolve(bound, plugin_meta=base64.b64encode(sealed).decode()), "p")
    crypto.check_kek(bound, "p")


@pytest.mark.parametrize(
    ("version", "domain", "expected"),
    [
        (VERSION_1, Domain.PAYLOAD, b"old"),
        (VERSION_1, Domain.ORDER_PASSPHRASE, b"old"),
        (PASSPHRASE_VERSION_1, Domain.ORDER_PASSPHRASE, b"old"),
        (PASSPHRASE_VERSION_1, Domain.PAYLOAD, None),
        (0, Domain.PAYLOAD, None),
        (3, Domain.ORDER_PASSPHRASE, None),
    ],
)
def test_envelopes_of_an_earlier_release_open_as_what_they_are(
    version: int, domain: Domain, expected: bytes | None
) -> None:
    kek = old_kek()
    sealed = seal_version_1(PROJECT_KEY, uuid.UUID(kek.id).bytes, b"old", ("barbtx payload", "id", "p"))
    assert opens(bytes([version]) + sealed[1:], "id", domain, kek) == expected
    assert opens(bytes([version]) + sealed[1:], "other", domain, kek) is None


class OneKey:
    """The repository of project keys, with one; nothing here is about how they are kept."""

    async def get_active(self, project_id: str, plugin_name: str) -> KEKMeta:
        return old_kek()


def as_secret(payload: StoredPayload, secret_id: str) -> Secret:
    return Secret(secret_id, "p", None, "opaque", None, None, None, None, None, None, None, payload=payload)


@pytest_twisted.ensureDeferred
async def test_an_orders_passphrase_and_a_payload_do_not_open_in_each_others_place() -> None:
    stores = StoreManager((StoreCrypto((CRYPTO,), OneKey(), {}, {}),), (), None)
    passphrase = await resources.store_passphrase(stores, "id", "p", "open sesame")
    assert await resources.get_passphrase(stores, "id", "p", passphrase) == "open sesame"
    with pytest.raises(DecryptionFailed):
        await resources.get_secret(stores, as_secret(passphrase, "id"))
    payload = await resources.store_secret(stores, NewSecret("id", "p"), b"a payload", "text/plain")
    assert await resources.get_secret(stores, as_secret(payload, "id")) == b"a payload"
    with pytest.raises(DecryptionFailed):
        await resources.get_passphrase(stores, "id", "p", payload)

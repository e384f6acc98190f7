"""Envelope encryption: what opens, and everything that must not."""

from __future__ import annotations

import base64
import os
import uuid

import attrs
import pytest
import pytest_twisted
from cryptography.hazmat.primitives.asymmetric import dsa, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import (
    load_der_private_key,
    load_der_public_key,
    load_pem_private_key,
    load_pem_public_key,
)
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import maybeDeferred
from twisted.internet.task import Clock
from zope.interface.verify import verifyObject

from barbtx.config import load
from barbtx.errors import ConfigurationError
from barbtx.model.records import KEKMeta
from barbtx.plugin.crypto import simple_crypto
from barbtx.plugin.crypto.envelope import open_sealed, seal
from barbtx.plugin.interface.crypto import (
    DecryptDTO,
    DecryptionFailed,
    EncryptDTO,
    GenerateDTO,
    GeneratePairDTO,
    ICryptoPlugin,
    IMasterKeys,
    MasterKeyUnavailable,
    SupportType,
)
from barbtx.plugin.manager import PluginContext


def plugin(*keys: str) -> simple_crypto.SimpleCrypto:
    conf = load()
    conf.set_override("kek", list(keys), group="simple_crypto_plugin")
    return simple_crypto.from_config(PluginContext(conf, Clock(), None, maybeDeferred))


def new_kek(crypto: simple_crypto.SimpleCrypto, project: str = "p") -> KEKMeta:
    return crypto.bind_kek_metadata(KEKMeta(str(uuid.uuid4()), "plugin", "label", "", 0, "", ""), project)


KEY = simple_crypto.generate_master_key()


def test_it_keeps_to_the_interface() -> None:
    assert verifyObject(ICryptoPlugin, plugin(KEY)) and verifyObject(IMasterKeys, plugin(KEY))


@given(st.binary(max_size=300), st.text(max_size=40), st.text(max_size=40))
def test_what_was_sealed_opens_in_the_same_context_only(plaintext: bytes, one: str, two: str) -> None:
    key, key_id = AESGCM(bytes(32)), bytes(16)
    sealed = seal(key, key_id, plaintext, (one, two))
    assert open_sealed(key, key_id, sealed, (one, two)) == plaintext
    for other in ((one + two, ""), (one,), (one, two, ""), (one, two + "x")):
        if other != (one, two):
            with pytest.raises(DecryptionFailed):
                open_sealed(key, key_id, sealed, other)


def test_any_changed_bit_is_noticed() -> None:
    crypto = plugin(KEY)
    kek = new_kek(crypto)
    sealed = crypto.encrypt(EncryptDTO(b"payload", "s"), kek, "p").cypher_text
    for position in range(len(sealed) * 8):
        changed = bytearray(sealed)
        changed[position // 8] ^= 1 << position % 8
        with pytest.raises(DecryptionFailed):
            crypto.decrypt(DecryptDTO(bytes(changed), "s"), kek, "p")


def test_a_ciphertext_does_not_open_as_another_secrets_or_projects() -> None:
    crypto = plugin(KEY)
    kek = new_kek(crypto)
    sealed = crypto.encrypt(EncryptDTO(b"payload", "s"), kek, "p").cypher_text
    assert crypto.decrypt(DecryptDTO(sealed, "s"), kek, "p") == b"payload"
    for secret, project in (("other", "p"), ("s", "other")):
        with pytest.raises(DecryptionFailed):
            crypto.decrypt(DecryptDTO(sealed, secret), kek, project)


def test_a_project_key_does_not_unwrap_for_another_project_or_row() -> None:
    crypto = plugin(KEY)
    kek = new_kek(crypto)
    crypto.check_kek(kek, "p")
    with pytest.raises(DecryptionFailed):
        crypto.check_kek(kek, "other")
    with pytest.raises(DecryptionFailed):
        crypto.check_kek(attrs.evolve(kek, id=str(uuid.uuid4())), "p")


def test_an_old_master_key_still_opens_and_a_foreign_one_does_not() -> None:
    new = simple_crypto.generate_master_key()
    kek = new_kek(plugin(KEY))
    plugin(new, KEY).check_kek(kek, "p")
    with pytest.raises(MasterKeyUnavailable) as caught:
        plugin(new).check_kek(kek, "p")
    assert caught.value.key_id == plugin(KEY).current_master_key_id() == kek.master_key_id


@pytest.mark.parametrize("sealed", [b"", b"\x01", os.urandom(16), b"\x02" + os.urandom(60)], ids=len)
def test_what_is_no_envelope_fails_in_the_same_way(sealed: bytes) -> None:
    crypto = plugin(KEY)
    with pytest.raises(DecryptionFailed):
        crypto.decrypt(DecryptDTO(sealed, "s"), new_kek(crypto), "p")


@pytest.mark.parametrize("bits", [64, 128, 192, 256])
def test_generated_keys_have_the_length_that_was_asked_for(bits: int) -> None:
    crypto = plugin(KEY)
    kek = new_kek(crypto)
    made = crypto.generate_symmetric(GenerateDTO("aes", bits, None, "s"), kek, "p")
    assert len(crypto.decrypt(DecryptDTO(made.cypher_text, "s"), kek, "p")) * 8 == bits


@pytest.mark.parametrize("passphrase", [None, "", "open sesame"])
@pytest.mark.parametrize(("algorithm", "kind"), [("RSA", rsa.RSAPrivateKey), ("dsa", dsa.DSAPrivateKey)])
@pytest_twisted.ensureDeferred
async def test_generated_pairs_fit_together(algorithm: str, kind: type, passphrase: str | None) -> None:
    crypto = plugin(KEY)
    kek = new_kek(crypto)
    dto = GeneratePairDTO(algorithm, 1024, passphrase, "private", "public", "passphrase")
    parts = dict(zip(("private", "public", "passphrase"), await crypto.generate_asymmetric(dto, kek, "p"), strict=True))
    opened = {
        name: crypto.decrypt(DecryptDTO(part.cypher_text, name), kek, "p")
        for name, part in parts.items()
        if part is not None
    }
    pem = algorithm == "RSA"
    password = passphrase.encode() if passphrase else None
    private = (load_pem_private_key if pem else load_der_private_key)(opened["private"], password)
    public = (load_pem_public_key if pem else load_der_public_key)(opened["public"])
    assert isinstance(private, kind) and private.key_size == 1024
    assert private.public_key().public_numbers() == public.public_numbers()
    assert opened.get("passphrase") == password


@pytest.mark.parametrize(
    ("algorithm", "bits", "mode", "supported"),
    [
        ("AES", 256, None, True),
        ("aes", 512, None, False),
        ("aes", 512, "XTS", True),
        ("aes", 64, "xts", False),
        ("hmacsha512", 128, "cbc", True),
        ("rsa", 2048, None, False),
        ("", 128, None, False),
    ],
)
def test_it_supports_the_keys_of_the_contract(algorithm: str, bits: int, mode: str | None, supported: bool) -> None:
    assert plugin(KEY).supports(SupportType.SYMMETRIC_KEY_GENERATION, algorithm, bits, mode) is supported


@pytest.mark.parametrize("key", ["", "short", base64.urlsafe_b64encode(bytes(31)).decode(), "é" * 43])
def test_a_malformed_master_key_stops_the_start_without_being_shown(key: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        plugin(KEY, key)
    assert "number 2" in str(caught.value)
    assert not key or key not in str(caught.value)


def test_no_master_key_stops_the_start() -> None:
    with pytest.raises(ConfigurationError, match="no master key"):
        plugin()


def test_a_key_file_that_others_may_read_stops_the_start(tmp_path) -> None:
    path = tmp_path / "mkek"
    path.write_text(KEY)
    path.chmod(0o640)
    conf = load([], [f"simple_crypto_plugin.kek_file={path}"])
    with pytest.raises(ConfigurationError, match="chmod 600"):
        simple_crypto.from_config(PluginContext(conf, Clock(), None, maybeDeferred))


def test_keys_and_payloads_are_not_in_any_repr() -> None:
    crypto = plugin(KEY)
    kek = new_kek(crypto)
    crypto.encrypt(EncryptDTO(b"payload", "s"), kek, "p")
    assert KEY not in repr(crypto) and "payload'" not in repr(EncryptDTO(b"payload", "s"))
    assert kek.plugin_meta not in repr(kek)

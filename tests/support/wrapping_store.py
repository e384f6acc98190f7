"""A secret store as a third party would write it: it keeps payloads itself, and wraps and unwraps them.

Its methods return plain values. Its wrapping is a toy, XOR with the key: it shows who wraps what and when, not how.
"""

from __future__ import annotations

import os
from pathlib import Path

from zope.interface import implementer

from barbtx.errors import ServiceUnavailable
from barbtx.plugin.interface.secret_store import ISecretStore, KeySpec, SecretDTO, StorageReceipt, Wrapping
from barbtx.plugin.manager import PluginContext

TRANSPORT_KEY = "transport key of the wrapping store"


def wrap(content: bytes, key: str) -> bytes:
    """Wrap, or unwrap."""
    return bytes(byte ^ key.encode()[n % len(key)] for n, byte in enumerate(content))


@implementer(ISecretStore)
class WrappingStore:
    """Generates keys if there is a file ``generates`` beside its directory; is unreachable while there is one ``down``.

    :param directory: the directory with a file for each payload, so that tests can see them.
    """

    def __init__(self, directory: Path) -> None:
        directory.mkdir(exist_ok=True)
        self._directory = directory

    def get_plugin_name(self) -> str:
        return "Wrapping store"

    def store_secret_supports(self, key_spec: KeySpec) -> bool:
        return True

    def generate_supports(self, key_spec: KeySpec) -> bool:
        return (self._directory.parent / "generates").exists()

    def get_transport_key(self) -> str:
        return TRANSPORT_KEY

    def store_secret(self, secret: SecretDTO) -> StorageReceipt:
        content = wrap(secret.secret, secret.transport_key) if secret.transport_key else secret.secret
        path = self._directory / secret.secret_id
        while path.exists():
            # Another payload for the same secret, perhaps one that is being written now.
            path = path.with_name(f"{path.name}+")
        path.write_bytes(content)
        return StorageReceipt({"key_id": path.name})

    def get_secret(
        self, secret_id: str, project_id: str, receipt: StorageReceipt, wrapping: Wrapping | None = None
    ) -> bytes:
        content = (self._directory / receipt.metadata["key_id"]).read_bytes()
        if wrapping is None:
            return content
        assert wrapping.transport_key == TRANSPORT_KEY
        return wrap(content, wrapping.session_key)

    def delete_secret(self, receipt: StorageReceipt) -> None:
        if (self._directory.parent / "down").exists():
            raise ServiceUnavailable("The wrapping store is out of reach.")
        (self._directory / receipt.metadata["key_id"]).unlink(missing_ok=True)

    def generate_symmetric_key(self, secret_id: str, project_id: str, key_spec: KeySpec) -> StorageReceipt:
        if (self._directory.parent / "down").exists():
            raise ServiceUnavailable("The wrapping store is out of reach.")
        (self._directory / secret_id).write_bytes(os.urandom(key_spec.bit_length // 8))
        return StorageReceipt({"key_id": secret_id})

    def generate_asymmetric_key(self, ids: object, project_id: str, key_spec: KeySpec) -> StorageReceipt:
        raise NotImplementedError("it makes no pairs")


def from_config(context: PluginContext) -> WrappingStore:
    return WrappingStore(Path(__file__).parent / "payloads")

"""What an earlier release sealed is read after the upgrade, each kind as what it is."""

from __future__ import annotations

import base64
import datetime
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
import pytest_twisted
import sqlalchemy
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from sqlalchemy import Connection, text

from barbtx.cmd.manage import main as manage
from barbtx.model.engine import make_engine
from barbtx.plugin.crypto import simple_crypto
from tests.conftest import unique
from tests.support.servers import PostgreSQL
from tests.support.service import Api, Deployment
from tests.unit.test_domains import seal_version_1

BEFORE = "0003"
LONG_AGO = datetime.datetime(2026, 1, 1)
CRYPTO, STORE = "barbtx.plugin.crypto.simple_crypto.SimpleCrypto", "barbtx.plugin.stores.store_crypto.StoreCrypto"
_COPIED = "project_id, secret_type, status, content_type, store_plugin, store_metadata, created_at, updated_at"
_PASSPHRASE = "SELECT cypher_text FROM order_passphrases WHERE order_id = :id"
META = '{"algorithm": "rsa", "bit_length": 1024}'


class OldRelease:
    """Writes rows as an earlier release did, with one project.

    :param master: the master key in the form of the configuration.
    :param plugin: the class name of the crypto plugin that the rows are said to be of.
    """

    def __init__(self, connection: Connection, master: str, plugin: str = CRYPTO) -> None:
        self._connection = connection
        self._key, self._kek, self.project = os.urandom(32), str(uuid.uuid4()), unique()
        key = base64.urlsafe_b64decode(master)
        (plugin_key,) = simple_crypto._master_keys([master])
        wrapped = seal_version_1(key, plugin_key.id, self._key, ("barbtx project key", self._kek, self.project))
        self._row = str(uuid.uuid4())
        self._insert("projects", id=self._row, external_id=self.project, created_at=LONG_AGO)
        self._insert(
            "kek_data",
            id=self._kek,
            project_id=self._row,
            plugin_name=plugin,
            kek_label="l",
            active=True,
            algorithm="aes",
            bit_length=256,
            mode="gcm",
            plugin_meta=base64.b64encode(wrapped).decode(),
            created_at=LONG_AGO,
        )

    def _insert(self, table: str, **columns: object) -> None:
        self._connection.execute(
            text(f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({', '.join(':' + name for name in columns)})"),
            columns,
        )

    def _seal(self, plaintext: bytes, object_id: str) -> bytes:
        return seal_version_1(
            self._key, uuid.UUID(self._kek).bytes, plaintext, ("barbtx payload", object_id, self.project)
        )

    def secret(self, payload: bytes, secret_id: str | None = None) -> str:
        """Store a secret and return its id."""
        secret_id = secret_id or str(uuid.uuid4())
        self._insert(
            "secrets",
            id=secret_id,
            project_id=self._row,
            secret_type="opaque",
            status="ACTIVE",
            content_type="text/plain",
            store_plugin=STORE,
            store_metadata="{}",
            created_at=LONG_AGO,
            updated_at=LONG_AGO,
        )
        self._insert(
            "encrypted_data", secret_id=secret_id, kek_id=self._kek, cypher_text=self._seal(payload, secret_id)
        )
        return secret_id

    def order(self, passphrase: bytes) -> str:
        """Leave an order with a passphrase for somebody to make, and return its id."""
        order_id = str(uuid.uuid4())
        self._insert(
            "orders",
            id=order_id,
            project_id=self._row,
            type="asymmetric",
            meta=META,
            status="PENDING",
            created_at=LONG_AGO,
            updated_at=LONG_AGO,
        )
        self._insert(
            "order_passphrases",
            order_id=order_id,
            store_plugin=STORE,
            store_metadata="{}",
            kek_id=self._kek,
            cypher_text=self._seal(passphrase, order_id),
        )
        self._insert(
            "order_retry_tasks",
            order_id=order_id,
            retry_task="process_type_order",
            retry_at=LONG_AGO,
            retry_kwargs=f'{{"order_id": "{order_id}", "project_id": "{self.project}", "request_id": null}}',
            retry_count=0,
            created_at=LONG_AGO,
        )
        return order_id

    def key(self) -> None:
        """Remember an Idempotency-Key."""
        self._insert(
            "idempotency_keys", project_id=self._row, digest="d", fingerprint="f", answer="{}", created_at=LONG_AGO
        )


def connect(url: str) -> sqlalchemy.Engine:
    return make_engine(url, 1, 10.0)


def version_bytes(connection: Connection, table: str) -> list[int]:
    return [bytes(sealed)[0] for sealed in connection.scalars(text(f"SELECT cypher_text FROM {table}"))]


def test_passphrases_are_marked_and_nothing_else_is(database_url: str) -> None:
    assert manage(["db", "upgrade", "-d", database_url, "-v", BEFORE]) == 0
    engine = connect(database_url)
    with engine.begin() as connection:
        old = OldRelease(connection, simple_crypto.generate_master_key())
        order, _ = old.order(b"one"), old.order(b"two")
        old.secret(b"payload")
        old.key()
        connection.execute(
            text("UPDATE order_passphrases SET kek_id = NULL, cypher_text = NULL WHERE order_id = :id"),
            {"id": old.order(b"kept by its store")},
        )
        # Whatever the first byte means there.
        OldRelease(connection, simple_crypto.generate_master_key(), "their.Plugin").order(b"of another plugin")
        sealed = connection.scalar(text(_PASSPHRASE), {"id": order})
    assert manage(["db", "upgrade", "-d", database_url]) == 0
    with engine.begin() as connection:
        query = "order_passphrases WHERE cypher_text IS NOT NULL"
        assert sorted(version_bytes(connection, query)) == [1, 0x81, 0x81]
        assert version_bytes(connection, "encrypted_data") == [1]
        marked = connection.scalar(text(_PASSPHRASE), {"id": order})
        assert bytes(marked)[1:] == bytes(sealed)[1:]
        assert connection.scalar(text("SELECT count(*) FROM idempotency_keys")) == 0
    engine.dispose()


@attrs.frozen
class Upgraded:
    """A database that an earlier release wrote, and its deployment with this release."""

    deployment: Deployment
    engine: sqlalchemy.Engine
    project: str
    secret: str
    order: str
    moved: str

    def api(self, **settings: object) -> Api:
        return self.deployment.api(**settings).of(self.project)


@pytest.fixture(params=["sqlite", "postgresql"])
def upgraded(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Upgraded]:
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path}/barbtx.sqlite"
    else:
        server: PostgreSQL = request.getfixturevalue("postgresql")
        url = server.new_database(unique())
    assert manage(["db", "upgrade", "-d", url, "-v", BEFORE]) == 0
    assert manage(["simple_crypto", "gen_mkek", str(tmp_path / "mkek")]) == 0
    engine = connect(url)
    with engine.begin() as connection:
        old = OldRelease(connection, (tmp_path / "mkek").read_text().strip())
        ids = old.secret(b"an old payload"), old.order(b"open sesame"), old.order(b"not for you")
    deployment = Deployment(tmp_path, url)
    yield Upgraded(deployment, engine, old.project, *ids)
    deployment.stop()
    engine.dispose()


async def payload(api: Api, secret_id: str) -> bytes | int:
    reply = await api.get(f"/v1/secrets/{secret_id}/payload")
    return reply.content if reply.status == 200 else reply.status


@pytest_twisted.ensureDeferred
async def test_old_payloads_are_read_and_old_orders_made(upgraded: Upgraded) -> None:
    api = upgraded.api(**{"retry_scheduler.initial_delay_seconds": 0.1})
    assert await payload(api, upgraded.secret) == b"an old payload"
    order = await api.finished(f"{api.url}/v1/orders/{upgraded.order}", 60)
    assert order["status"] == "ACTIVE", order
    container = (await api.get(order["container_ref"])).json
    parts = {part["name"]: part["secret_ref"].rpartition("/")[2] for part in container["secret_refs"]}
    assert await payload(api, parts["private_key_passphrase"]) == b"open sesame"
    load_pem_private_key(await payload(api, parts["private_key"]), b"open sesame")
    # What is stored now is sealed under the same project key, in the new form.
    assert await payload(api, (await api.store("new")).rpartition("/")[2]) == b"new"
    with upgraded.engine.begin() as connection:
        assert sorted(version_bytes(connection, "encrypted_data"))[:2] == [1, 2]


@pytest.mark.parametrize("release", ["an earlier", "this"])
@pytest_twisted.ensureDeferred
async def test_a_passphrase_moved_to_a_secret_with_its_orders_id_does_not_open(
    upgraded: Upgraded, release: str
) -> None:
    # Orders stay PENDING: whoever takes them is not there.
    api = upgraded.api(**{"queue.enable": "true", "transport_url": "rabbit://127.0.0.1:1/"})
    order, right = upgraded.moved, b"not for you"
    if release == "this":
        reply = await api.post(
            "/v1/orders",
            {"type": "asymmetric", "meta": {"algorithm": "rsa", "bit_length": 1024, "passphrase": right.decode()}},
        )
        order = reply.json["order_ref"].rpartition("/")[2]
    ref = await api.store("to be replaced")
    with upgraded.engine.begin() as connection:
        values = {"order": order, "old": ref.rpartition("/")[2]}
        connection.execute(
            text(
                f"INSERT INTO secrets (id, {_COPIED}) SELECT CAST(:order AS VARCHAR(36)), {_COPIED} FROM secrets "
                "WHERE id = :old"
            ),
            values,
        )
        connection.execute(
            text(
                "INSERT INTO encrypted_data (secret_id, kek_id, cypher_text, kek_meta_extended) "
                "SELECT order_id, kek_id, cypher_text, kek_meta_extended FROM order_passphrases WHERE order_id = :order"
            ),
            values,
        )
    assert await payload(api, order) == 500
    assert await payload(api, values["old"]) == b"to be replaced"
    assert right.decode() not in api.process.read_log()

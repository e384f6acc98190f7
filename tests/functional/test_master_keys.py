"""Master keys: which ones a process needs, and what happens where one is missing."""

from __future__ import annotations

import itertools
import signal
import uuid
from pathlib import Path

import attrs
import pytest
import pytest_twisted
from sqlalchemy import insert, select, text
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.task import Clock

from barbtx.cmd.manage import main as manage
from barbtx.errors import ConfigurationError
from barbtx.model.database import Database
from barbtx.model.engine import make_engine
from barbtx.model.models import KEK, Project
from barbtx.model.records import KEKMeta
from barbtx.model.repositories.keks import KEKRepo
from barbtx.plugin.crypto.simple_crypto import SimpleCrypto, generate_master_key
from barbtx.plugin.manager import full_name
from barbtx.plugin.stores.master_keys import check_master_keys
from tests.functional.conftest import NOW
from tests.functional.test_boot import refused
from tests.support.servers import wait_until
from tests.support.service import Api, Deployment
from tests.unit.test_simple_crypto import plugin

KEYS = [generate_master_key() for _ in range(4)]
IDS = [plugin(key).current_master_key_id() for key in KEYS]


def holder(*numbers: int) -> SimpleCrypto:
    """A plugin with some of the keys."""
    return plugin(*(KEYS[number] for number in numbers))


def new_kek(crypto: SimpleCrypto, project: str) -> KEKMeta:
    kek_id = str(uuid.uuid4())
    return crypto.bind_kek_metadata(KEKMeta(kek_id, full_name(crypto), kek_id, "", 0, "", ""), project)


@pytest.fixture
def keks(database: Database, clock: Clock) -> KEKRepo:
    return KEKRepo(database, clock)


async def missing_ids(keks: KEKRepo, crypto: SimpleCrypto) -> set[str]:
    """The master keys that a start with this plugin would be refused for."""
    try:
        await check_master_keys(keks, [crypto])
    except ConfigurationError as problem:
        refusal = str(problem)
    else:
        return set()
    found = {key_id for key_id in IDS if key_id in refusal}
    assert found, refusal
    return found


@pytest_twisted.ensureDeferred
async def test_a_start_needs_exactly_the_keys_in_use_and_names_those_it_lacks(keks: KEKRepo) -> None:
    canary = None
    for used in range(4):
        # Before the first project key the canary decides.
        for number in range(used):
            project = f"{used}-{number}"
            await keks.add_active(project, new_kek(holder(number), project))
        for size in (1, 2, 3, 4):
            for configured in itertools.combinations((3, 1, 0, 2), size):
                needed = set(range(used))
                lacking = needed - set(configured)
                if not used and canary is not None:
                    lacking = {canary} - set(configured)
                assert await missing_ids(keks, holder(*configured)) == {IDS[number] for number in lacking}, configured
                if not lacking:
                    canary = configured[0]
                assert (await keks.canary(full_name(holder(0)))).master_key_id == IDS[canary]


@pytest_twisted.ensureDeferred
async def test_the_order_of_keys_and_keys_given_twice_do_not_matter(keks: KEKRepo) -> None:
    for number in (0, 1):
        await keks.add_active(f"p{number}", new_kek(holder(number), f"p{number}"))
    for configured in ((0, 1), (1, 0), (1, 1, 0, 1), (0, 2, 1)):
        assert await missing_ids(keks, holder(*configured)) == set()


@pytest_twisted.ensureDeferred
async def test_of_two_first_processes_with_different_keys_one_may_start(keks: KEKRepo) -> None:
    outcomes = await DeferredList(
        [Deferred.fromCoroutine(check_master_keys(keks, [holder(number)])) for number in (0, 1)], consumeErrors=True
    )
    assert sorted(passed for passed, _ in outcomes) == [False, True]
    (failure,) = [failure for passed, failure in outcomes if not passed]
    assert failure.check(ConfigurationError)
    winner = [passed for passed, _ in outcomes].index(True)
    assert IDS[winner] in failure.getErrorMessage()
    assert await missing_ids(keks, holder(winner)) == set()


@pytest_twisted.ensureDeferred
async def test_who_loses_the_race_for_the_canary_gets_the_winners(
    keks: KEKRepo, database: Database, clock: Clock
) -> None:
    first, second = new_kek(holder(0), "c"), new_kek(holder(1), "c")
    assert await keks.add_canary(first) == first == await keks.add_canary(second)
    await keks.replace_canary(second, second)
    assert await keks.canary(first.plugin_name) == first
    await keks.replace_canary(first, second)
    assert await keks.canary(first.plugin_name) == second


@pytest_twisted.ensureDeferred
async def test_a_plugin_that_does_not_name_its_keys_is_tried_on_the_oldest_and_the_newest(
    keks: KEKRepo, clock: Clock
) -> None:
    for number in (0, 1, 2):
        await keks.add_active(f"p{number}", attrs.evolve(new_kek(holder(number), f"p{number}"), master_key_id=None))
        clock.advance(1)
    assert {project for project, _ in await keks.samples(full_name(holder(0)))} == {"p0", "p2"}
    assert await missing_ids(keks, holder(1)) == {IDS[0], IDS[2]}
    assert await keks.canary(full_name(holder(0))) is None


@pytest_twisted.ensureDeferred
async def test_a_key_id_that_was_changed_in_the_row_is_corruption(keks: KEKRepo) -> None:
    await keks.add_active("p", attrs.evolve(new_kek(holder(0), "p"), master_key_id=IDS[1]))
    with pytest.raises(ConfigurationError, match="was the row changed"):
        await check_master_keys(keks, [holder(0, 1)])


def test_the_migration_names_the_master_keys_of_what_is_there(database_url: str) -> None:
    assert manage(["db", "upgrade", "-d", database_url, "-v", "0003"]) == 0
    engine = make_engine(database_url, 1, 10)
    made = {}
    # Only the columns that there were: the models are ahead of this schema.
    columns = [column.name for column in KEK.__table__.columns if column.name != "master_key_id"]
    with engine.begin() as connection:
        for number in range(300):
            crypto, project = holder(number % 3), f"p{number}"
            kek = new_kek(crypto, project)
            made[kek.id] = IDS[number % 3]
            connection.execute(insert(Project).values(id=project, external_id=project, created_at=NOW))
            values = {**attrs.asdict(kek), "project_id": project, "active": True, "created_at": NOW}
            connection.execute(
                text(f"INSERT INTO kek_data ({', '.join(columns)}) VALUES ({', '.join(f':{c}' for c in columns)})"),
                {name: values[name] for name in columns},
            )
        connection.execute(insert(Project).values(id="x", external_id="x", created_at=NOW))
        for plugin_name, meta in (("another.Plugin", values["plugin_meta"]), (full_name(holder(0)), "no envelope")):
            kek_id = str(uuid.uuid4())
            made[kek_id] = None
            connection.execute(
                text(f"INSERT INTO kek_data ({', '.join(columns)}) VALUES ({', '.join(f':{c}' for c in columns)})"),
                {
                    **{name: values[name] for name in columns},
                    "id": kek_id,
                    "project_id": "x",
                    "plugin_name": plugin_name,
                    "plugin_meta": meta,
                },
            )
    engine.dispose()
    assert manage(["db", "upgrade", "-d", database_url]) == 0
    engine = make_engine(database_url, 1, 10)
    with engine.connect() as connection:
        assert dict(connection.execute(select(KEK.id, KEK.master_key_id)).all()) == made
    engine.dispose()


class Nodes:
    """API processes over one SQLite database, each with a key file of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.deployment = Deployment(
            directory,
            f"sqlite:///{directory}/barbtx.sqlite",
            **{
                "retry_scheduler.initial_delay_seconds": 0.2,
                "retry_scheduler.periodic_interval_max_seconds": 0.3,
                "queue.missing_key_seconds": 0.5,
                "queue.max_attempts": 2,
                "queue.local_wait_seconds": 0.1,
                # A key that was unwrapped before is not to hide what master keys there are now.
                "simple_crypto_plugin.pkek_cache_ttl": 0,
            },
        )

    def keys(self, *numbers: int) -> Path:
        path = self.directory / f"mkek-{uuid.uuid4()}"
        path.touch(0o600)
        path.write_text("\n".join(KEYS[number] for number in numbers))
        return path

    def start(self, keys: Path) -> Api:
        return self.deployment.api(**{"simple_crypto_plugin.kek_file": keys})

    def refused(self, keys: Path) -> str:
        settings = {**self.deployment.settings, "simple_crypto_plugin.kek_file": keys}
        return refused("barbtx", *[f"{name}={value}" for name, value in settings.items()])


@pytest.fixture
def nodes(tmp_path: Path):
    nodes = Nodes(tmp_path)
    yield nodes
    nodes.deployment.stop()


@pytest_twisted.ensureDeferred
async def test_a_node_that_lacks_a_key_answers_503_and_leaves_orders_to_one_that_has_it(nodes: Nodes) -> None:
    behind = nodes.start(nodes.keys(0))
    ahead = nodes.start(nodes.keys(1, 0))
    ref = (await ahead.of("q").store("under the new key")).removeprefix(ahead.url)
    old = behind.of("p")
    assert (await old.get(await old.store("old"))).status == 200
    ahead.process.stop()

    lacking = behind.of("q")
    assert (await lacking.get(ref)).status == 200
    for reply in [await lacking.get(f"{ref}/payload") for _ in range(5)] + [
        await lacking.post("/v1/secrets", {"payload": "x", "payload_content_type": "text/plain"}),
        await lacking.post(
            "/v1/orders",
            {
                "type": "asymmetric",
                "meta": {
                    "algorithm": "rsa",
                    "bit_length": 1024,
                    "passphrase": "p",
                    "payload_content_type": "text/plain",
                },
            },
        ),
    ]:
        assert reply.status == 503 and int(reply.headers["retry-after"]) > 0, reply
    order = await lacking.order()
    wait_until(lambda: behind.process.read_log().count("failed with status 503") > 5, 60, "it was not tried again")
    assert (await lacking.get(order)).json["status"] == "PENDING"

    printed = behind.process.read_log()
    assert printed.count("is missing") == 1 and f"the master key {IDS[1]} is missing" in printed
    assert "Traceback" not in printed
    ahead = nodes.start(nodes.keys(1, 0))
    assert (await ahead.of("q").finished(order.replace(behind.url, ahead.url)))["status"] == "ACTIVE"
    assert (await ahead.of("q").get(f"{ref}/payload")).content == b"under the new key"


@pytest_twisted.ensureDeferred
async def test_keys_that_are_added_to_the_file_are_there_after_a_sighup_and_bad_files_change_nothing(
    nodes: Nodes,
) -> None:
    keys = nodes.keys(0)
    behind = nodes.start(keys)
    ahead = nodes.start(nodes.keys(1, 0))
    refs = {project: (await ahead.of(project).store(project)).removeprefix(ahead.url) for project in ("q", "r")}
    ahead.process.stop()
    assert (await behind.of("q").get(f"{refs['q']}/payload")).status == 503

    async def after(content: str, mode: int, said: str) -> str:
        seen = behind.process.read_log().count(said)
        keys.write_text(content)
        keys.chmod(mode)
        behind.process.process.send_signal(signal.SIGHUP)
        wait_until(lambda: behind.process.read_log().count(said) > seen, 60, said)
        return behind.process.read_log()

    async def readable() -> bool:
        return all(
            [
                (await behind.of(project).get(f"{ref}/payload")).content == project.encode()
                for project, ref in refs.items()
            ]
        )

    in_force = "the list of master keys was reloaded and is in effect"
    refusal = "the list of master keys was refused, and the previous one stays in effect"
    printed = await after(f"{KEYS[0]}\n{KEYS[1]}", 0o600, in_force)
    assert await readable()
    for content, mode in (
        ("", 0o600),
        ("nonsense", 0o600),
        (KEYS[0], 0o600),
        (KEYS[2], 0o600),
        (f"{KEYS[0]}\n{KEYS[1]}", 0o644),
    ):
        printed = await after(content, mode, refusal)
        assert await readable()
    assert not any(key in printed for key in KEYS) and "Traceback" not in printed
    await after(f"{KEYS[1]}\n{KEYS[0]}", 0o600, in_force)
    assert (await behind.of("s").get(await behind.of("s").store("new"))).status == 200
    assert behind.process.stop() == 0


@pytest_twisted.ensureDeferred
async def test_a_start_without_a_key_in_use_is_refused_and_names_all_that_are_missing(nodes: Nodes) -> None:
    for number in (0, 1, 2):
        # Each start has the next key in front.
        api = nodes.start(nodes.keys(*range(number, -1, -1)))
        await api.of(f"p{number}").store()
        api.process.stop()
    for configured in ((2, 0), (2,), (1,), (3,)):
        printed = nodes.refused(nodes.keys(*configured))
        named = {number for number in range(4) if IDS[number] in printed}
        assert named == {0, 1, 2} - set(configured)
        assert "cannot unwrap" in printed and "Traceback" not in printed
    nodes.start(nodes.keys(0, 1, 2)).process.stop()


def test_an_empty_database_belongs_to_the_first_key(nodes: Nodes) -> None:
    nodes.start(nodes.keys(0))
    assert IDS[0] in nodes.refused(nodes.keys(1))
    nodes.start(nodes.keys(0, 1))

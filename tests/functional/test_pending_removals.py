"""Removals as the database keeps them: who has one in hand, when its next step is due, and what it forbids."""

from __future__ import annotations

import datetime
import uuid
from collections.abc import Callable
from typing import Any

import attrs
import pytest
import pytest_twisted
from sqlalchemy import func, select
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import Clock

from barbtx.errors import NotFound, ProjectClosed
from barbtx.model import models
from barbtx.model.database import Database
from barbtx.model.records import (
    EncryptedDatum,
    Entry,
    GeneratedObjects,
    KEKMeta,
    NewContainer,
    NewSecret,
    Removal,
    RemovalClaim,
    StoredPayload,
    Task,
)
from barbtx.model.repositories.acls import AclRepo
from barbtx.model.repositories.consumers import CONTAINER_CONSUMERS, SECRET_CONSUMERS, ConsumerRepo
from barbtx.model.repositories.containers import ContainerRepo
from barbtx.model.repositories.keks import KEKGone, KEKRepo
from barbtx.model.repositories.orders import OrderRepo
from barbtx.model.repositories.pending_removals import (
    PendingRemovalRepo,
    RemovalLost,
    TooManyRemovals,
    cancel_removal,
    list_removals,
    retry_removal,
)
from barbtx.model.repositories.project_removal import ProjectRemovalRepo
from barbtx.model.repositories.quotas import QuotaRepo
from barbtx.model.repositories.secret_stores import ConfiguredStore, SecretStoreRepo
from barbtx.model.repositories.secrets import SecretRepo
from barbtx.model.repositories.user_metadata import UserMetadataRepo
from tests.functional.conftest import NOW

KEPT = 1000.0
GRACE = 100.0
CONSUMER = {"service": "s", "resource_type": "t", "resource_id": "r"}


@pytest.fixture
def removals(database: Database, clock: Clock) -> PendingRemovalRepo:
    return PendingRemovalRepo(database, clock, lease_seconds=30, max_attempts=3, longest_wait=60, max_unconfirmed=5)


@pytest.fixture
def steps(database: Database, clock: Clock) -> ProjectRemovalRepo:
    return ProjectRemovalRepo(database, clock, KEPT)


def shown(database: Database) -> Deferred[list[Removal]]:
    return database.interact(list_removals)


async def closed(removals: PendingRemovalRepo, project: str = "p", grace: float = GRACE) -> datetime.datetime:
    """Have the removal of a project confirmed; when it is due."""
    await removals.request(project)
    return await removals.confirm(await removals.claim(), grace)


async def removed(removals: PendingRemovalRepo, steps: ProjectRemovalRepo) -> None:
    """Remove what is due."""
    claim = await removals.claim()
    await steps.remove_secrets(claim, [secret.id for secret in await steps.secrets(claim.project_id, "", 100)])
    while await steps.remove_rest(claim, 100) is not None:
        pass


@pytest_twisted.ensureDeferred
async def test_a_removal_goes_from_note_to_confirmation_to_its_day_to_oblivion(
    database: Database, clock: Clock, removals: PendingRemovalRepo, steps: ProjectRemovalRepo
) -> None:
    assert await removals.seconds_to_next() is None and await removals.claim() is None
    await removals.request("p")
    assert await removals.seconds_to_next() == 0
    first = await removals.claim()
    assert (first.project_id, first.attempt, first.confirmed) == ("p", 1, False)
    assert await removals.confirm(first, GRACE) == NOW + datetime.timedelta(seconds=GRACE)
    assert await removals.seconds_to_next() == GRACE and await removals.claim() is None
    clock.advance(GRACE)
    second = await removals.claim()
    assert (second.attempt, second.confirmed, second.age) == (1, True, 0)
    while await steps.remove_rest(second, 1) is not None:
        pass
    assert await removals.seconds_to_next() is None and await removals.claim() is None
    (done,) = await shown(database)
    assert done.kept_until == NOW + datetime.timedelta(seconds=GRACE + KEPT)
    assert (await removals.request("p")).kept_until == done.kept_until
    clock.advance(KEPT)
    await removals.request("q")
    assert [removal.project_id for removal in await shown(database)] == ["q"]
    assert (await removals.request("p")).kept_until is None


@pytest_twisted.ensureDeferred
async def test_a_step_belongs_to_one_worker_until_its_lease_ends(
    database: Database, clock: Clock, removals: PendingRemovalRepo
) -> None:
    await removals.request("p")
    claims = [claim for claim in await gatherResults([removals.claim() for _ in range(8)]) if claim]
    assert len(claims) == 1 and await removals.seconds_to_next() == 30
    clock.advance(20)
    await removals.renew(claims[0])
    clock.advance(20)
    assert await removals.claim() is None
    clock.advance(11)
    second = await removals.claim()
    assert second.attempt == 1, "that a worker died, or was slow, is no failure of the removal"
    for lost in (
        removals.renew,
        removals.withdraw,
        lambda claim: removals.confirm(claim, 1),
        lambda claim: removals.reschedule(claim, 1, None, counts=True),
    ):
        with pytest.raises(RemovalLost):
            await lost(claims[0])
    await removals.withdraw(second)
    assert await shown(database) == []


@pytest_twisted.ensureDeferred
async def test_only_failures_of_its_own_are_counted_and_after_some_it_waits_for_somebody(
    database: Database, clock: Clock, removals: PendingRemovalRepo
) -> None:
    due = await closed(removals)
    clock.advance(GRACE)
    for _ in range(10):
        await removals.reschedule(await removals.claim(), 5, "out of reach", counts=False)
        assert await removals.claim() is None
        clock.advance(5)
    for _ in range(3):
        await removals.reschedule(await removals.claim(), 5, "r" * 300, counts=True)
        clock.advance(5)
    assert await removals.claim() is None and await removals.seconds_to_next() is None
    (failed,) = await shown(database)
    assert (failed.attempts, failed.problem, failed.due) == (3, "r" * 255, due)
    for again in (
        lambda: removals.request("p"),
        lambda: database.interact(lambda session: retry_removal(session, "p", NOW)),
    ):
        await again()
        assert (await removals.claim()).attempt == 1
        clock.advance(31)
        for _ in range(2):
            await removals.reschedule(await removals.claim(), 0, "x", counts=True)


@pytest_twisted.ensureDeferred
async def test_an_operator_can_cancel_at_any_time_and_a_worker_notices(
    database: Database, clock: Clock, removals: PendingRemovalRepo, steps: ProjectRemovalRepo
) -> None:
    secrets = SecretRepo(database, clock)
    await secrets.create(NewSecret(str(uuid.uuid4()), "p"))
    await closed(removals)
    clock.advance(GRACE)
    claim = await removals.claim()
    assert (await database.interact(lambda session: cancel_removal(session, "p"))).due is not None
    for step in (
        lambda: steps.check(claim),
        lambda: steps.remove_secrets(claim, []),
        lambda: steps.remove_rest(claim, 10),
        lambda: removals.renew(claim),
    ):
        with pytest.raises(RemovalLost):
            await step()
    assert (await secrets.list_page("p", (), (), 10, 0)).total == 1
    for command in (cancel_removal, lambda session, project: retry_removal(session, project, NOW)):
        with pytest.raises(NotFound):
            await database.interact(lambda session, command=command: command(session, "p"))


@pytest_twisted.ensureDeferred
async def test_a_retry_does_not_shorten_the_grace(database: Database, removals: PendingRemovalRepo) -> None:
    await closed(removals)
    await database.interact(lambda session: retry_removal(session, "p", NOW))
    await removals.request("p")
    assert await removals.claim() is None and await removals.seconds_to_next() == GRACE


@pytest_twisted.ensureDeferred
async def test_a_flood_of_notifications_waits_in_the_queue(removals: PendingRemovalRepo, clock: Clock) -> None:
    for n in range(5):
        await removals.request(f"p{n}")
    with pytest.raises(TooManyRemovals):
        await removals.request("one more")
    await removals.request("p0")
    await removals.confirm(await removals.claim(), GRACE)
    await removals.request("one more")


@pytest_twisted.ensureDeferred
async def test_many_who_note_the_same_note_it_once(database: Database, removals: PendingRemovalRepo) -> None:
    await gatherResults([removals.request("p") for _ in range(8)])
    assert len(await shown(database)) == 1


@pytest_twisted.ensureDeferred
async def test_a_clock_that_is_set_back_holds_no_removal_up(clock: Clock, removals: PendingRemovalRepo) -> None:
    await removals.request("p")
    held = await removals.claim()
    clock.rightNow -= 3600
    claim = await removals.claim()
    assert claim is not None and claim.token != held.token
    await removals.reschedule(claim, 30, None, counts=False)
    clock.rightNow -= 3600
    assert await removals.claim() is not None


@attrs.frozen
class World:
    """What project p has: a secret, another with a payload, a container, an order, a key."""

    database: Database
    clock: Clock
    secret: str
    container: str
    kek: KEKMeta

    def payload(self) -> StoredPayload:
        return StoredPayload("store", "text/plain", {}, EncryptedDatum(self.kek, b"cipher"))

    def consumers(self, kind: Any) -> ConsumerRepo:
        return ConsumerRepo(self.database, self.clock, kind, -1)

    @property
    def containers(self) -> ContainerRepo:
        return ContainerRepo(self.database, self.clock, -1)


async def world_of(database: Database, clock: Clock) -> World:
    kek = await KEKRepo(database, clock).add_active(
        "p", KEKMeta(str(uuid.uuid4()), "plugin", "l", "aes", 256, "gcm", "w")
    )
    world = World(database, clock, str(uuid.uuid4()), str(uuid.uuid4()), kek)
    await SecretRepo(database, clock).create(NewSecret(world.secret, "p"))
    await world.containers.create(NewContainer(world.container, "p", "generic", "c"))
    await UserMetadataRepo(database, clock).add(world.secret, "old", "v")
    await SecretStoreRepo(database, clock).sync([ConfiguredStore("a", None, True, "a")])
    return world


def task(order_id: str) -> Task:
    return Task(order_id, "process_type_order", {"order_id": order_id, "project_id": "p", "request_id": None})


async def _prefer(world: World) -> None:
    repo = SecretStoreRepo(world.database, world.clock)
    await repo.prefer("p", (await repo.list_all())[0].id)


async def _link(world: World) -> None:
    await world.containers.add_secret(await world.containers.get(world.container, None), "p", Entry("n", world.secret))


def _order(world: World, **how: Any) -> Any:
    order_id = str(uuid.uuid4())
    return OrderRepo(world.database, world.clock).create(order_id, "p", "key", "{}", "u", task(order_id), 5, **how)


#: Everything that adds something to project p.
WRITES: dict[str, Callable[[World], Any]] = {
    "a secret": lambda w: SecretRepo(w.database, w.clock).create(NewSecret(str(uuid.uuid4()), "p")),
    "a secret with payload": lambda w: SecretRepo(w.database, w.clock).create(
        NewSecret(str(uuid.uuid4()), "p", payload=w.payload())
    ),
    "a payload": lambda w: SecretRepo(w.database, w.clock).add_payload(w.secret, w.payload()),
    "a container": lambda w: w.containers.create(NewContainer(str(uuid.uuid4()), "p", "generic")),
    "a secret in a container": _link,
    "an order": _order,
    "an order with passphrase": lambda w: _order(w, passphrase=w.payload()),
    "a consumer of a secret": lambda w: w.consumers(SECRET_CONSUMERS).add(w.secret, "p", CONSUMER),
    "another project's consumer": lambda w: w.consumers(SECRET_CONSUMERS).add(w.secret, "other", CONSUMER),
    "a consumer of a container": lambda w: w.consumers(CONTAINER_CONSUMERS).add(
        w.container, "p", {"name": "n", "URL": "http://u"}
    ),
    "a secret's ACL": lambda w: AclRepo(w.database, w.clock, models.Secret).replace(w.secret, True, ["u"]),
    "a change of an ACL": lambda w: AclRepo(w.database, w.clock, models.Secret).merge(w.secret, None, ["u"]),
    "a container's ACL": lambda w: AclRepo(w.database, w.clock, models.Container).replace(w.container, False, []),
    "metadata": lambda w: UserMetadataRepo(w.database, w.clock).replace(w.secret, {"k": "v"}),
    "a metadatum": lambda w: UserMetadataRepo(w.database, w.clock).add(w.secret, "k", "v"),
    "a changed metadatum": lambda w: UserMetadataRepo(w.database, w.clock).change(w.secret, "old", "new"),
    "quotas": lambda w: QuotaRepo(w.database, w.clock, {}).merge("p", {"secrets": 5}),
    "a preferred store": _prefer,
    "a key": lambda w: KEKRepo(w.database, w.clock).add_active(
        "p", KEKMeta(str(uuid.uuid4()), "another plugin", "l", "aes", 256, "gcm", "w")
    ),
}


async def run(write: Callable[[World], Any], world: World) -> None:
    await write(world)


def contents(database: Database) -> Deferred[dict[str, int]]:
    return database.interact(
        lambda session: {
            name: session.scalar(select(func.count()).select_from(table))
            for name, table in models.Base.metadata.tables.items()
        },
        write=False,
    )


@pytest_twisted.ensureDeferred
async def test_nothing_is_added_to_a_project_that_is_to_be_removed_unless_that_is_cancelled(
    database: Database, clock: Clock, removals: PendingRemovalRepo
) -> None:
    world = await world_of(database, clock)
    await closed(removals)
    before = await contents(database)
    for what, write in WRITES.items():
        with pytest.raises(ProjectClosed):
            await run(write, world)
        assert await contents(database) == before, what
    await database.interact(lambda session: cancel_removal(session, "p"))
    await write_all(world)


async def write_all(world: World) -> None:
    """All writes that do not stand in each other's way."""
    for what, write in WRITES.items():
        if what not in ("metadata", "another project's consumer"):
            await run(write, world)


@pytest_twisted.ensureDeferred
async def test_what_is_only_said_and_not_confirmed_forbids_nothing(
    database: Database, clock: Clock, removals: PendingRemovalRepo
) -> None:
    world = await world_of(database, clock)
    await removals.request("p")
    await write_all(world)


@pytest_twisted.ensureDeferred
async def test_reading_and_deleting_go_on(database: Database, clock: Clock, removals: PendingRemovalRepo) -> None:
    world = await world_of(database, clock)
    secrets, acls = SecretRepo(database, clock), AclRepo(database, clock, models.Secret)
    await _link(world)
    await acls.replace(world.secret, False, ["u"])
    await world.consumers(SECRET_CONSUMERS).add(world.secret, "p", CONSUMER)
    await closed(removals)
    assert (await secrets.get(world.secret, "u")).access.listed
    assert (await secrets.list_page("p", (), (), 10, 0)).total == 1
    await acls.remove(world.secret)
    await world.consumers(SECRET_CONSUMERS).remove(world.secret, "p", "p", CONSUMER)
    await UserMetadataRepo(database, clock).remove(world.secret, "old")
    container = await world.containers.get(world.container, None)
    await world.containers.remove_secret(container, "p", Entry("n", world.secret))
    await secrets.delete(world.secret)
    await world.containers.delete(world.container)


@pytest_twisted.ensureDeferred
async def test_what_an_order_makes_is_not_stored_and_the_order_goes_on_after_a_cancellation(
    database: Database, clock: Clock, removals: PendingRemovalRepo
) -> None:
    world = await world_of(database, clock)
    orders, made = OrderRepo(database, clock), NewSecret(str(uuid.uuid4()), "p", payload=world.payload())
    first, second = str(uuid.uuid4()), str(uuid.uuid4())
    for order_id in (first, second):
        await orders.create(order_id, "p", "key", "{}", "u", task(order_id), 5)
    lease = await orders.claim(first, "p", 30)
    await closed(removals)
    assert await orders.claim(second, "p", 30) is None
    with pytest.raises(ProjectClosed):
        await orders.complete(lease, GeneratedObjects((made,)), "s", "m")
    await orders.release(lease)
    assert (await orders.get(first, "p")).status == "PENDING"
    await database.interact(lambda session: cancel_removal(session, "p"))
    for order_id in (first, second):
        lease = await orders.claim(order_id, "p", 30)
        await orders.complete(lease, GeneratedObjects((attrs.evolve(made, id=str(uuid.uuid4())),)), "s", "m")


@pytest_twisted.ensureDeferred
async def test_nothing_brings_a_removed_project_back_for_a_while(
    database: Database, clock: Clock, removals: PendingRemovalRepo, steps: ProjectRemovalRepo
) -> None:
    world = await world_of(database, clock)
    await closed(removals, grace=0)
    await removed(removals, steps)
    after = await contents(database)
    assert after["projects"] == after["secrets"] == after["kek_data"] == after["containers"] == 0
    for what, write in WRITES.items():
        if what != "a secret in a container":
            with pytest.raises((ProjectClosed, NotFound)):
                await run(write, world)
            assert await contents(database) == after, what
    clock.advance(KEPT)
    for what in ("a secret with payload", "an order with passphrase"):
        with pytest.raises(KEKGone):
            await run(WRITES[what], world)
    assert await contents(database) == after
    for what in ("a secret", "a container", "an order", "quotas", "a key", "a preferred store"):
        await run(WRITES[what], world)


@pytest.mark.parametrize("database_url", ["postgresql", "mariadb"], indirect=True)
@pytest_twisted.ensureDeferred
async def test_writes_and_a_removal_at_the_same_time_leave_all_or_nothing(
    database: Database, clock: Clock, removals: PendingRemovalRepo, steps: ProjectRemovalRepo
) -> None:
    outcomes: list[str] = []

    def write(project: str) -> Deferred[Any]:
        return (
            SecretRepo(database, clock)
            .create(NewSecret(str(uuid.uuid4()), project))
            .addCallbacks(
                lambda _: outcomes.append("stored"),
                lambda failure: outcomes.append(failure.trap(ProjectClosed).__name__),
            )
        )

    async def remove(project: str) -> None:
        await removals.request(project)
        claim: RemovalClaim = await removals.claim()
        await removals.confirm(claim, 0)
        claim = await removals.claim()
        while True:
            found = [secret.id for secret in await steps.secrets(project, "", 100)]
            await steps.remove_secrets(claim, found)
            if await steps.remove_rest(claim, 100) is None:
                return

    for n in range(5):
        project = f"p{n}"
        await gatherResults(
            [
                *(write(project) for _ in range(4)),
                Deferred.fromCoroutine(remove(project)),
                *(write(project) for _ in range(20)),
            ]
        )
        assert (await SecretRepo(database, clock).list_page(project, (), (), 10, 0)).total == 0
        await write(project)
        assert outcomes[-1] == "ProjectClosed"
    assert (await contents(database))["projects"] == 0

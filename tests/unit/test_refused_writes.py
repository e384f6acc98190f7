"""Payloads whose write is refused are taken back; those whose fate is unknown stay."""

from __future__ import annotations

from pathlib import Path

import attrs
import pytest
import pytest_twisted
from sqlalchemy.exc import IntegrityError
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock

from barbtx.errors import (
    BadRequest,
    Conflict,
    NotFound,
    ProjectClosed,
    QuotaReached,
    ServiceUnavailable,
    TooManyRequests,
    to_error_response,
)
from barbtx.model.database_failures import CancelledInCommit, DatabaseUnavailable
from barbtx.model.records import GeneratedObjects, Lease, NewSecret, Order, StoredPayload
from barbtx.model.repositories.idempotency import DuplicateKey
from barbtx.model.repositories.orders import LeaseLost
from barbtx.model.repositories.secrets import HasPayload
from barbtx.plugin import resources
from barbtx.plugin.interface.crypto import MasterKeyUnavailable
from barbtx.plugin.manager import PluginNotEnabled, StoreManager
from barbtx.tasks.base import TaskSuperseded
from barbtx.tasks.leases import Leases
from barbtx.tasks.outage_retry import OutageRetry
from barbtx.tasks.type_order import BeginTypeOrder
from tests.support.wrapping_store import WrappingStore

DEFINITE = [
    QuotaReached(),
    Conflict("x"),
    NotFound("x"),
    BadRequest("x"),
    TooManyRequests("x"),
    DuplicateKey(),
    LeaseLost(),
    IntegrityError("statement", {}, Exception()),
    CancelledError(),
    KeyError("x"),
    LookupError("x"),
    HasPayload(None),
    ServiceUnavailable("x"),
    DatabaseUnavailable("no free connection"),
    TimeoutError(),
]
UNKNOWN = [DatabaseUnavailable("connection lost", outcome_unknown=True), CancelledInCommit()]
ALL = [(error, False) for error in DEFINITE] + [(error, True) for error in UNKNOWN]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "payloads"


@pytest.fixture
def stores(directory: Path) -> StoreManager:
    return StoreManager((WrappingStore(directory),), (), None)


async def stored(stores: StoreManager, secret_id: str = "s") -> StoredPayload:
    return await resources.store_secret(stores, NewSecret(secret_id, "p"), b"payload", "text/plain")


@pytest.mark.parametrize(("error", "stays"), ALL, ids=lambda value: type(value).__name__)
@pytest_twisted.ensureDeferred
async def test_a_payload_is_forgotten_unless_the_outcome_is_unknown(
    stores: StoreManager, directory: Path, error: Exception, stays: bool
) -> None:
    payloads = [await stored(stores, secret_id) for secret_id in ("one", "two")]
    with pytest.raises(type(error)) as caught:
        async with resources.delete_orphans_on_error(stores, *payloads, None):
            raise error
    assert caught.value is error
    assert len(list(directory.iterdir())) == (2 if stays else 0)


@pytest_twisted.ensureDeferred
async def test_a_payload_that_was_written_stays(stores: StoreManager, directory: Path) -> None:
    async with resources.delete_orphans_on_error(stores, await stored(stores)):
        pass
    assert len(list(directory.iterdir())) == 1


@pytest_twisted.ensureDeferred
async def test_a_store_that_cannot_delete_does_not_hide_what_was_refused(
    stores: StoreManager, directory: Path, tmp_path: Path
) -> None:
    first, second = await stored(stores, "first"), await stored(stores, "second")
    unknown = attrs.evolve(first, plugin="no.such.Store")
    (directory / "first").unlink()
    (directory / "first").mkdir()
    with pytest.raises(QuotaReached):
        async with resources.delete_orphans_on_error(stores, unknown, first, second):
            raise QuotaReached
    assert [path.name for path in directory.iterdir()] == ["first"]


@pytest_twisted.ensureDeferred
async def test_what_a_secret_has_already_is_not_forgotten(stores: StoreManager, directory: Path) -> None:
    """Should a store give the same receipt twice, it is the winner's payload too."""
    payload, other = await stored(stores, "winner"), await stored(stores, "loser")
    with pytest.raises(Conflict):
        async with resources.delete_orphans_on_error(stores, payload, other):
            raise HasPayload(attrs.evolve(payload, content_type="application/octet-stream"))
    assert [path.name for path in directory.iterdir()] == ["winner"]


class Outcomes:
    """The repository of orders, whose answers a test decides: nothing else makes a commit's outcome unknown at will.

    :param errors: of one try to complete an order after the other; None is success.
    """

    def __init__(self, *errors: Exception | None) -> None:
        self.errors = list(errors)
        self.retried = self.released = False

    async def complete(self, *arguments: object) -> None:
        error = self.errors.pop(0)
        if error is not None:
            raise error

    async def release(self, *arguments: object) -> None:
        self.released = True

    async def retry(self, *arguments: object, counts: bool = True) -> None:
        self.retried, self.counted = True, counts


ORDER = Order("o", "p", "key", "{}", None, "PENDING", None, None)


async def finish(stores: StoreManager, orders: Outcomes, clock: Clock | None = None, outage_limit: float = 0.0) -> None:
    made = GeneratedObjects(
        tuple([NewSecret(part, "p", payload=await stored(stores, part)) for part in ("private", "public")])
    )
    lease = Lease(ORDER, "token", 1, await stored(stores, "passphrase"))
    clock = clock or Clock()
    task = BeginTypeOrder(orders, stores, Leases(orders, clock), OutageRetry(clock, outage_limit))
    await task.handle_success(lease, made, "o", "p")


@pytest.mark.parametrize(("error", "stays"), ALL, ids=lambda value: type(value).__name__)
@pytest_twisted.ensureDeferred
async def test_a_worker_takes_back_what_it_could_not_write(
    stores: StoreManager, directory: Path, error: Exception, stays: bool
) -> None:
    with pytest.raises(TaskSuperseded if isinstance(error, LeaseLost) else type(error)):
        await finish(stores, Outcomes(error))
    left = {path.name for path in directory.iterdir()}
    # The passphrase is needed for another attempt.
    assert left == ({"private", "public", "passphrase"} if stays else {"passphrase"})


@pytest.mark.parametrize(
    "error",
    [CancelledError(), KeyError("x"), IntegrityError("statement", {}, Exception()), BadRequest("x"), RuntimeError("x")],
    ids=lambda value: type(value).__name__,
)
def test_what_may_have_been_written_at_an_earlier_try_stays_whatever_ends_the_last(
    stores: StoreManager, directory: Path, error: Exception
) -> None:
    clock = Clock()
    orders = Outcomes(DatabaseUnavailable("connection lost", outcome_unknown=True), ServiceUnavailable("x"), error)
    finishing = Deferred.fromCoroutine(finish(stores, orders, clock, 60.0))
    clock.pump([1.0] * 10)
    assert finishing.result.check(type(error)) and finishing.addErrback(lambda _: None)
    assert {path.name for path in directory.iterdir()} == {"private", "public", "passphrase"}


def test_what_a_project_took_no_more_was_not_written_at_an_earlier_try(stores: StoreManager, directory: Path) -> None:
    clock = Clock()
    orders = Outcomes(DatabaseUnavailable("connection lost", outcome_unknown=True), ProjectClosed())
    finishing = Deferred.fromCoroutine(finish(stores, orders, clock, 60.0))
    clock.pump([1.0] * 10)
    assert finishing.result is None and orders.released
    assert {path.name for path in directory.iterdir()} == {"passphrase"}


@pytest.mark.parametrize(
    "lacked", [PluginNotEnabled("a store"), MasterKeyUnavailable("an id")], ids=lambda value: type(value).__name__
)
@pytest_twisted.ensureDeferred
async def test_an_order_waits_for_a_worker_that_has_what_it_needs(
    stores: StoreManager, directory: Path, lacked: Exception
) -> None:
    orders, clock = Outcomes(), Clock()
    task = BeginTypeOrder(orders, stores, Leases(orders, clock), OutageRetry(clock, 0.0))
    lease = Lease(ORDER, "token", 10, await stored(stores, "passphrase"))
    await task.handle_error(lease, to_error_response(lacked, "Process TypeOrder"), lacked)
    assert orders.retried and not orders.counted and [path.name for path in directory.iterdir()] == ["passphrase"]


@pytest_twisted.ensureDeferred
async def test_of_an_order_that_is_done_the_passphrase_is_forgotten(stores: StoreManager, directory: Path) -> None:
    await finish(stores, Outcomes(None))
    assert {path.name for path in directory.iterdir()} == {"private", "public"}

"""What every process of barbtx stands on: database, repositories, secret stores; and the checks before it serves."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

import attrs
from oslo_config import cfg
from twisted.application.service import MultiService, Service
from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger

from barbtx.errors import ConfigurationError, ServiceUnavailable
from barbtx.identity.keystone.projects import ProjectDirectory
from barbtx.model.database import Database
from barbtx.model.migration import check_schema
from barbtx.model.repositories.containers import ContainerRepo
from barbtx.model.repositories.keks import KEKRepo
from barbtx.model.repositories.orders import OrderRepo
from barbtx.model.repositories.pending_removals import PendingRemovalRepo
from barbtx.model.repositories.project_removal import ProjectRemovalRepo
from barbtx.model.repositories.quotas import RESOURCES, QuotaRepo
from barbtx.model.repositories.secret_stores import SecretStoreRepo
from barbtx.model.repositories.secrets import SecretRepo
from barbtx.plugin.interface.crypto import DecryptionFailed
from barbtx.plugin.manager import PluginContext, StoreManager
from barbtx.queue.server import Tasks
from barbtx.tasks.project_removal import RemoveProject, StepRemoval
from barbtx.tasks.type_order import BeginTypeOrder, Leases
from barbtx.times import Clock, WallClock

log = Logger()

_CHECK_AGAIN_SECONDS = 2.0


@attrs.frozen
class Foundation:
    """:ivar reactor: by whose monotonic time everything waits.
    :ivar clock: the time of day, for what is written down.
    """

    conf: cfg.ConfigOpts
    reactor: Any
    clock: Clock
    database: Database
    secrets: SecretRepo
    orders: OrderRepo
    containers: ContainerRepo
    quotas: QuotaRepo
    stores: StoreManager

    @classmethod
    def from_config(cls, reactor: Any, conf: cfg.ConfigOpts, clock: Clock = WallClock()) -> Foundation:
        """Make everything; nothing is connected yet.

        :raises ConfigurationError: something is not as it should be.
        """
        database = Database.from_config(reactor, conf)
        context = PluginContext(
            conf, reactor, KEKRepo(database, clock),
            lambda work, *arguments: deferToThreadPool(reactor, reactor.getThreadPool(), work, *arguments))
        quotas = {name: getattr(conf.quotas, f"quota_{name}") for name in RESOURCES}
        return cls(
            conf, reactor, clock, database,
            SecretRepo(database, clock, quotas["secrets"]),
            OrderRepo(database, clock, quotas["orders"]),
            ContainerRepo(database, clock, quotas["containers"]),
            QuotaRepo(database, clock, quotas),
            StoreManager.from_config(context, SecretStoreRepo(database, clock)),
        )

    def tasks(self) -> Tasks:
        """The task methods, as the configuration wants them to work."""
        queue, leases = self.conf.queue, Leases(self.orders)
        return Tasks(lambda: BeginTypeOrder(self.orders, self.stores, self.reactor, leases, queue.lease_seconds,
                                            queue.max_attempts, queue.retry_seconds), leases)

    def removals(self) -> PendingRemovalRepo:
        """Which projects are to be removed."""
        options = self.conf.keystone_notifications
        return PendingRemovalRepo(self.database, self.clock, self.conf.queue.lease_seconds, options.max_attempts,
                                  options.retry_seconds_max, options.max_unconfirmed)

    def step_removal(self) -> StepRemoval:
        """The task that removes projects, step by step.

        :raises ConfigurationError: Keystone cannot be asked as configured.
        """
        options = self.conf.keystone_notifications
        # As long as an API process may remember a token, and a little longer.
        closed = max(options.closed_seconds, self.conf.keystone_authtoken.token_cache_time + 60)
        remove = RemoveProject(ProjectRemovalRepo(self.database, self.clock, closed), self.stores, options.batch_size)
        directory = ProjectDirectory.from_config(self.reactor, self.clock, self.conf)
        return StepRemoval(self.reactor, self.removals(), directory, remove, options.grace_seconds,
                           options.retry_seconds_max)

    async def check(self) -> None:
        """Make sure that database and keys belong to this release and configuration.

        :raises ConfigurationError: they do not; serving would do harm.
        :raises ServiceUnavailable: the database is down, so that nothing can be said yet.
        """
        await self.database.interact(check_schema, write=False)
        if self.stores.backends:
            await self.stores.choices.sync([backend.configured for backend in self.stores.backends])
        for store in self.stores.stores:
            try:
                await maybeDeferred(getattr(store, "check", lambda: None))
            except DecryptionFailed:
                raise ConfigurationError(
                    "the configured master key does not open the project keys in this database; "
                    "is it another database's, or is an old master key missing?"
                ) from None


class DatabaseService(Service):
    """Runs the database's threads."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def startService(self) -> None:
        super().startService()
        self._database.start()

    def stopService(self) -> None:
        super().stopService()
        self._database.stop()


class Stack(MultiService):
    """Services that stand on each other: each stops completely before the one below it does."""

    def stopService(self) -> Deferred[None]:
        Service.stopService(self)
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        for service in reversed(list(self)):
            try:
                await maybeDeferred(service.stopService)
            except Exception:
                log.failure("{service} did not stop as it should", service=type(service).__name__)


class CheckedStart(Service):
    """Starts a service once the checks allow it, and ends the process if they never will.

    A database that is down is no reason not to start: requests are answered with 503 until it is there. It is then
    checked, and nothing is served before that is done.
    """

    def __init__(self, foundation: Foundation, service: Service, refuse: Callable[[str], None]) -> None:
        self._foundation = foundation
        self._service = service
        self._refuse = refuse
        self._checking: Deferred[None] | None = None

    def startService(self) -> None:
        super().startService()
        self._checking = Deferred.fromCoroutine(self._check())
        self._checking.addErrback(lambda failure: failure.trap(CancelledError))

    def stopService(self) -> Deferred[None]:
        super().stopService()
        self._checking.cancel()
        return maybeDeferred(self._service.stopService) if self._service.running else None

    async def _check(self) -> None:
        while True:
            try:
                await self._foundation.check()
                break
            except ServiceUnavailable as problem:
                if not self._service.running:
                    log.warn("starting although the database cannot be reached: {reason}", reason=problem.description)
                    self._service.startService()
                await deferLater(self._foundation.reactor, _CHECK_AGAIN_SECONDS, lambda: None)
            except ConfigurationError as problem:
                self._refuse(str(problem))
                return
        if not self._service.running:
            self._service.startService()


class Abandon(Service):
    """Ends the process, once all else has stopped, if threads are still at work whose outcome nobody waits for.

    :param abandoned: whether there may be such threads.
    """

    def __init__(self, abandoned: Callable[[], bool]) -> None:
        self._abandoned = abandoned

    def stopService(self) -> None:
        super().stopService()
        if self._abandoned():
            log.info("stopping without waiting for what was given back")
            sys.stdout.flush()
            os._exit(0)


def refuse_start(reactor: Any, reason: str) -> None:
    """Say what is wrong and stop in good order, with an exit status that tells of it."""
    log.critical("barbtx: {reason}", reason=reason)
    reactor.addSystemEventTrigger("after", "shutdown", os._exit, 1)
    reactor.stop()

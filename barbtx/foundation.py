"""What every process of barbtx stands on: database, repositories, secret stores; and the checks before it serves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import attrs
from oslo_config import cfg
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.threads import deferToThreadPool

from barbtx import activity
from barbtx.identity.keystone.projects import ProjectDirectory
from barbtx.limits import ObjectLimits
from barbtx.model.database import Database
from barbtx.model.database_time import database_time
from barbtx.model.migration import check_schema
from barbtx.model.repositories.containers import ContainerRepo
from barbtx.model.repositories.keks import KEKRepo
from barbtx.model.repositories.orders import OrderRepo
from barbtx.model.repositories.pending_removals import PendingRemovalRepo
from barbtx.model.repositories.project_removal import ProjectRemovalRepo
from barbtx.model.repositories.quotas import RESOURCES, QuotaRepo
from barbtx.model.repositories.secret_stores import SecretStoreRepo
from barbtx.model.repositories.secrets import SecretRepo
from barbtx.plugin.manager import PluginContext, StoreManager
from barbtx.queue.server import Tasks
from barbtx.reload import Reload
from barbtx.tasks.leases import Leases
from barbtx.tasks.patience import Patience
from barbtx.tasks.project_removal import RemoveProject, StepRemoval
from barbtx.tasks.type_order import BeginTypeOrder
from barbtx.times import Clock, WallClock

# As many threads as a reactor has by itself.
_OTHER_THREADS = 10


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
    read: Callable[[], cfg.ConfigOpts]

    @classmethod
    def from_config(cls, reactor: Any, conf: cfg.ConfigOpts, clock: Clock = WallClock(),
                    read: Callable[[], cfg.ConfigOpts] | None = None) -> Foundation:
        """Make everything; nothing is connected yet.

        :param read: reads the configuration again, for a reload; if not given, it stays as it is.
        :raises ConfigurationError: something is not as it should be.
        """
        database = Database.from_config(reactor, conf)
        context = PluginContext(
            conf, reactor, KEKRepo(database, clock), partial(_in_thread, reactor))
        limits = ObjectLimits.from_config(conf)
        quotas = {name: getattr(conf.quotas, f"quota_{name}") for name in RESOURCES}
        return cls(
            conf, reactor, clock, database,
            SecretRepo(database, clock, quotas["secrets"], limits),
            OrderRepo(database, clock, quotas["orders"], database_time),
            ContainerRepo(database, clock, quotas["containers"], limits),
            QuotaRepo(database, clock, quotas),
            StoreManager.from_config(context, SecretStoreRepo(database, clock)),
            read or (lambda: conf),
        )

    def tasks(self) -> Tasks:
        """The task methods, as the configuration wants them to work."""
        queue = self.conf.queue
        # Threads that make key pairs are busy for long; those that everything else uses must not be among them.
        self.reactor.suggestThreadPoolSize(_OTHER_THREADS + queue.asymmetric_workers)
        leases = Leases(self.orders, self.reactor, queue.lease_seconds)
        patience = Patience(self.reactor, queue.outage_seconds)
        return Tasks(lambda: BeginTypeOrder(self.orders, self.stores, leases, patience, queue.max_attempts,
                                            queue.retry_seconds, queue.missing_key_seconds), leases, patience)

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
            await maybeDeferred(getattr(store, "check", lambda: None))

    async def reload_master_keys(self, conf: cfg.ConfigOpts) -> None:
        """Read the master keys again; all stores get the new ones, or none does.

        :raises ConfigurationError: they cannot be read, or one that is in use is missing.
        :raises ServiceUnavailable: the database is down, so that they cannot be checked.
        """
        prepared = [await store.prepare_reload(conf, partial(_in_thread, self.reactor))
                    for store in self.stores.stores if hasattr(store, "prepare_reload")]
        for use in prepared:
            use()

    def reload(self, *others: Callable[[], Any]) -> Reload:
        """What SIGHUP does in every process.

        :param others: further parts, which reload themselves.
        """
        return Reload(self.conf, partial(_in_thread, self.reactor, self.read),
                      {"the list of master keys": self.reload_master_keys}, frozenset({"simple_crypto_plugin"}), others)

    def gauges(self) -> dict[str, Callable[[], Mapping[str, object]]]:
        """What goes on in database and stores, for the report."""
        found: dict[str, Callable[[], Mapping[str, object]]] = {"database": self.database.gauges}
        for store in self.stores.stores:
            if hasattr(store, "gauges"):
                found[f"store {store.get_plugin_name()}"] = store.gauges
        return found


def _in_thread(reactor: Any, work: Callable[..., Any], *arguments: object) -> Deferred[Any]:
    return deferToThreadPool(reactor, reactor.getThreadPool(), activity.carry(work), *arguments)

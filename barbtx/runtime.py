"""What every process of barbtx stands on: database, repositories, secret stores; and the checks before it serves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import attrs
from oslo_config import cfg
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThreadPool

from barbtx import activity
from barbtx.identity.keystone.projects import ProjectDirectory
from barbtx.model.database import Database
from barbtx.model.migration import check_schema
from barbtx.model.repositories.project_removal import ProjectRemovalRepo
from barbtx.model.repositories.registry import Repositories
from barbtx.plugin.interface.optional import IReloadable, IStartupCheck, IStatusSource
from barbtx.plugin.interface.results import resolve
from barbtx.plugin.manager import PluginContext, StoreManager
from barbtx.queue.server import Tasks
from barbtx.reload import Reload
from barbtx.tasks.leases import Leases
from barbtx.tasks.outage_retry import OutageRetry
from barbtx.tasks.project_removal import AdvanceRemoval, RemoveProject
from barbtx.tasks.type_order import BeginTypeOrder
from barbtx.times import Clock, WallClock

# As many threads as a reactor has by itself.
_OTHER_THREADS = 10


@attrs.frozen
class Runtime:
    """:ivar reactor: by whose monotonic time everything waits.
    :ivar clock: the time of day, for what is written down.
    """

    conf: cfg.ConfigOpts
    reactor: Any
    clock: Clock
    database: Database
    repositories: Repositories
    stores: StoreManager
    read: Callable[[], cfg.ConfigOpts]

    @classmethod
    def from_config(
        cls,
        reactor: Any,
        conf: cfg.ConfigOpts,
        clock: Clock = WallClock(),
        read: Callable[[], cfg.ConfigOpts] | None = None,
    ) -> Runtime:
        """Make everything; nothing is connected yet.

        :param read: reads the configuration again, for a reload; if not given, it stays as it is.
        :raises ConfigurationError: something is not as it should be.
        """
        database = Database.from_config(reactor, conf)
        repositories = Repositories.from_config(database, clock, conf)
        context = PluginContext(conf, reactor, repositories.keks, partial(_in_thread, reactor))
        stores = StoreManager.from_config(context, repositories.secret_stores)
        return cls(conf, reactor, clock, database, repositories, stores, read or (lambda: conf))

    def tasks(self) -> Tasks:
        """The task methods, as the configuration wants them to work."""
        queue = self.conf.queue
        # Threads that make key pairs are busy for long; those that everything else uses must not be among them.
        self.reactor.suggestThreadPoolSize(_OTHER_THREADS + queue.asymmetric_workers)
        leases = Leases(self.repositories.orders, self.reactor, queue.lease_seconds)
        outage_retry = OutageRetry(self.reactor, queue.outage_seconds)
        return Tasks(
            lambda: BeginTypeOrder(
                self.repositories.orders,
                self.stores,
                leases,
                outage_retry,
                queue.max_attempts,
                queue.retry_seconds,
                queue.missing_key_seconds,
            ),
            leases,
            outage_retry,
        )

    def advance_removal(self) -> AdvanceRemoval:
        """The task that removes projects, step by step.

        :raises ConfigurationError: Keystone cannot be asked as configured.
        """
        options = self.conf.keystone_notifications
        # As long as an API process may remember a token, and a little longer.
        closed = max(options.closed_seconds, self.conf.keystone_authtoken.token_cache_time + 60)
        remove = RemoveProject(ProjectRemovalRepo(self.database, self.clock, closed), self.stores, options.batch_size)
        directory = ProjectDirectory.from_config(self.reactor, self.clock, self.conf)
        return AdvanceRemoval(
            self.reactor,
            self.repositories.pending_removals,
            directory,
            remove,
            options.grace_seconds,
            options.retry_seconds_max,
        )

    async def check(self) -> None:
        """Make sure that database and keys belong to this release and configuration.

        :raises ConfigurationError: they do not; serving would do harm.
        :raises ServiceUnavailable: the database is down, so that nothing can be said yet.
        """
        await self.database.interact(check_schema, write=False)
        if self.stores.backends:
            await self.stores.choices.sync([backend.configured for backend in self.stores.backends])
        for store in self.stores.stores:
            if IStartupCheck.providedBy(store):
                await resolve(store.check())

    async def reload_master_keys(self, conf: cfg.ConfigOpts) -> None:
        """Read the master keys again; all stores get the new ones, or none does.

        :raises ConfigurationError: they cannot be read, or one that is in use is missing.
        :raises ServiceUnavailable: the database is down, so that they cannot be checked.
        """
        prepared = [
            await resolve(store.prepare_reload(conf, partial(_in_thread, self.reactor)))
            for store in self.stores.stores
            if IReloadable.providedBy(store)
        ]
        for use in prepared:
            use()

    def reload(self, *others: Callable[[], Any]) -> Reload:
        """What SIGHUP does in every process.

        :param others: further parts, which reload themselves.
        """
        return Reload(
            self.conf,
            partial(_in_thread, self.reactor, self.read),
            {"the list of master keys": self.reload_master_keys},
            frozenset({"simple_crypto_plugin"}),
            others,
        )

    def gauges(self) -> dict[str, Callable[[], Mapping[str, object]]]:
        """What goes on in database and stores, for the report."""
        found: dict[str, Callable[[], Mapping[str, object]]] = {"database": self.database.gauges}
        for store in self.stores.stores:
            if IStatusSource.providedBy(store):
                found[f"store {store.get_plugin_name()}"] = store.gauges
        return found


def _in_thread(reactor: Any, work: Callable[..., Any], *arguments: object) -> Deferred[Any]:
    return deferToThreadPool(reactor, reactor.getThreadPool(), activity.bind(work), *arguments)

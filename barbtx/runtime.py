"""The objects that every process needs: database, repositories, secret stores, and the startup check."""

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
from barbtx.reactor import IReactor
from barbtx.reload import Reload
from barbtx.tasks.leases import Leases
from barbtx.tasks.outage_retry import OutageRetry
from barbtx.tasks.project_removal import AdvanceRemoval, RemoveProject
from barbtx.tasks.type_order import BeginTypeOrder
from barbtx.times import Clock, WallClock

# The default size of the reactor's thread pool.
_OTHER_THREADS = 10

#: Sections whose options a reload applies without a restart.
RELOADABLE = frozenset({"simple_crypto_plugin"})


@attrs.frozen
class Runtime:
    """The objects that API processes and workers share.

    :ivar reactor: provides the monotonic clock for timers, and threads.
    :ivar clock: the wall clock, for times that are stored.
    :ivar read: reads the configuration again, for a reload. It blocks.
    """

    conf: cfg.ConfigOpts
    reactor: IReactor
    clock: Clock
    database: Database
    repositories: Repositories
    stores: StoreManager
    read: Callable[[], cfg.ConfigOpts]

    @classmethod
    def from_config(
        cls,
        reactor: IReactor,
        conf: cfg.ConfigOpts,
        clock: Clock | None = None,
        read: Callable[[], cfg.ConfigOpts] | None = None,
    ) -> Runtime:
        """Make all objects, without connecting to anything.

        :param clock: the wall clock of the machine if None.
        :param read: reads the configuration again, for a reload; by default it does not change.
        :raises ConfigurationError: the configuration is not valid.
        """
        clock = clock or WallClock()
        database = Database.from_config(reactor, conf)
        repositories = Repositories.from_config(database, clock, conf)
        context = PluginContext(conf, reactor, repositories.keks, partial(in_thread, reactor))
        stores = StoreManager.from_config(context, repositories.secret_stores)
        return cls(conf, reactor, clock, database, repositories, stores, read or (lambda: conf))

    def tasks(self) -> Tasks:
        """Make the task methods with the configured limits, and size the thread pool for them."""
        queue = self.conf.queue
        # Threads that generate key pairs are busy for seconds; everything else needs threads beside them.
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
        """Make the task that removes projects step by step.

        :raises ConfigurationError: the options for requests to Keystone are not valid.
        """
        options = self.conf.keystone_notifications
        # A little longer than API processes may cache a token of the project.
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
        """Check that the database schema and the master keys match this release and configuration.

        :raises ConfigurationError: they do not match, and serving requests could damage data.
        :raises ServiceUnavailable: the database is down; the check must be repeated.
        """
        await self.database.interact(check_schema, write=False)
        if self.stores.backends:
            await self.stores.choices.sync([backend.configured for backend in self.stores.backends])
        for store in self.stores.stores:
            if IStartupCheck.providedBy(store):
                await resolve(store.check())

    async def reload_master_keys(self, conf: cfg.ConfigOpts) -> None:
        """Reload the master keys of all stores; if one store refuses them, none of the stores changes its keys.

        :raises ConfigurationError: the keys cannot be read, or a key that is in use is missing.
        :raises ServiceUnavailable: the database is down, so the keys cannot be checked.
        """
        prepared = [
            await resolve(store.prepare_reload(conf, partial(in_thread, self.reactor)))
            for store in self.stores.stores
            if IReloadable.providedBy(store)
        ]
        for use in prepared:
            use()

    def reload(self, *others: Callable[[], Any]) -> Reload:
        """Make the reload that SIGHUP triggers.

        :param others: functions that reload further parts of a process.
        """
        return Reload(
            self.conf,
            partial(in_thread, self.reactor, self.read),
            {"the list of master keys": self.reload_master_keys},
            RELOADABLE,
            others,
        )

    def gauges(self) -> dict[str, Callable[[], Mapping[str, object]]]:
        """Return the functions that report the state of the database and the stores, by the name of the part."""
        found: dict[str, Callable[[], Mapping[str, object]]] = {"database": self.database.gauges}
        for store in self.stores.stores:
            if IStatusSource.providedBy(store):
                found[f"store {store.get_plugin_name()}"] = store.gauges
        return found


def in_thread(reactor: IReactor, work: Callable[..., Any], *arguments: object) -> Deferred[Any]:
    """Call a function that blocks in a thread of the reactor's pool."""
    return deferToThreadPool(reactor, reactor.getThreadPool(), activity.bind(work), *arguments)

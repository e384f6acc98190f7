"""Finds all problems of a configuration at once, where a startup would stop at the first one."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from oslo_config import cfg
from sqlalchemy import create_engine
from twisted.python.threadpool import ThreadPool

from barbtx.errors import ConfigurationError
from barbtx.model.admission import Admission
from barbtx.model.database import Database
from barbtx.model.repositories.registry import Repositories
from barbtx.plugin.manager import PluginContext, StoreManager
from barbtx.queue.amqp.connection import Brokers
from barbtx.reactor import IReactor
from barbtx.times import WallClock

#: Makes a part of a process from the configuration, and raises :exc:`ConfigurationError` if it cannot be made.
Part = Callable[[IReactor, cfg.ConfigOpts], object]


def _make_stores(reactor: IReactor, conf: cfg.ConfigOpts) -> None:
    # The repositories are never used; a database without threads stands in for one whose options may be invalid.
    database = Database(reactor, create_engine("sqlite://"), ThreadPool(0, 1), Admission(1, 1), 1.0, 0)
    repositories = Repositories.from_config(database, WallClock(), conf)
    context = PluginContext(conf, reactor, repositories.keks, lambda work, *arguments: work(*arguments))
    StoreManager.from_config(context, repositories.secret_stores)


def _make_brokers(reactor: IReactor, conf: cfg.ConfigOpts) -> None:
    if conf.queue.enable or conf.keystone_notifications.enable:
        Brokers.from_config(conf)


_PARTS: tuple[Part, ...] = (Database.from_config, _make_stores, _make_brokers)


def find_problems(reactor: IReactor, conf: cfg.ConfigOpts, parts: Iterable[Part] = ()) -> list[str]:
    """Make each part independently of the others, and return one line for each problem.

    :param parts: parts that only some processes have.
    """
    problems: list[str] = []
    for make in (*_PARTS, *parts):
        try:
            make(reactor, conf)
        except ConfigurationError as problem:
            problems += problem.problems
        except Exception:
            # A programming error, which the startup itself reports, or a consequence of another problem.
            continue
    return problems

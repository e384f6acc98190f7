"""Finds all problems of a configuration at once, where a startup would stop at the first one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from oslo_config import cfg

from barbtx.errors import ConfigurationError
from barbtx.model.database import Database
from barbtx.plugin.manager import PluginContext, StoreManager
from barbtx.queue.amqp.connection import Brokers

#: Makes something from the configuration, to see whether it can be made.
Part = Callable[[Any, cfg.ConfigOpts], object]


def _make_stores(reactor: Any, conf: cfg.ConfigOpts) -> None:
    StoreManager.from_config(PluginContext(conf, reactor, None, lambda work, *arguments: work(*arguments)), None)


def _make_brokers(reactor: Any, conf: cfg.ConfigOpts) -> None:
    if conf.queue.enable or conf.keystone_notifications.enable:
        Brokers.from_config(conf)


_PARTS: tuple[Part, ...] = (Database.from_config, _make_stores, _make_brokers)


def find_problems(reactor: Any, conf: cfg.ConfigOpts, parts: Iterable[Part] = ()) -> list[str]:
    """Make each part on its own; a line for everything that is wrong with one.

    :param parts: those that only some processes have.
    """
    problems: list[str] = []
    for make in (*_PARTS, *parts):
        try:
            make(reactor, conf)
        except ConfigurationError as problem:
            problems += problem.problems
        except Exception:
            # An error of the program, or what follows from another problem: the start itself shows the former.
            continue
    return problems

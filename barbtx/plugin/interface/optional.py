"""Optional interfaces of secret stores and crypto plugins.

A plugin declares the ones that it has with :func:`zope.interface.implementer`, beside its main interface. A method of
the same name without the declaration is never called.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from oslo_config.cfg import ConfigOpts
from zope.interface import Interface

from barbtx.plugin.interface.results import MaybeAwaitable


class IStartupCheck(Interface):
    """A secret store that makes sure, before the process serves, that it can do its work."""

    def check() -> MaybeAwaitable[None]:
        """Check that the store matches the database and the configuration. Repeated until it succeeds or refuses.

        :raises ConfigurationError: it does not match; the process does not start.
        :raises ServiceUnavailable: a dependency is down; the process tries again.
        """


class IReloadable(Interface):
    """A secret store that reads its master keys again on SIGHUP."""

    def prepare_reload(
        conf: ConfigOpts, in_thread: Callable[..., Awaitable[Any]]
    ) -> MaybeAwaitable[Callable[[], None]]:
        """Read the configured master keys again and check them, without using them yet.

        :param conf: the configuration as it is now.
        :param in_thread: calls a blocking function with arguments in a thread.
        :return: a function that puts the new keys into use. It must not fail; it is called only if all stores succeed.
        :raises ConfigurationError: the keys cannot be read, or a key that is in use is missing.
        """


class IProjectCache(Interface):
    """A secret store that caches data of projects, such as their keys."""

    def forget_project(project_id: str) -> None:
        """Drop everything that is cached for a project, because its rows in the database have changed.

        :param project_id: external id.
        """


class IStatusSource(Interface):
    """A secret store or crypto plugin that contributes to the status report."""

    def gauges() -> Mapping[str, object]:
        """Current figures by name, such as the sizes of caches. Nothing secret; must not block."""

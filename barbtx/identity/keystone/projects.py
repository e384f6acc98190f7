"""Whether Keystone has a project. What is believed here destroys data, so that only a clear answer counts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import attrs
from oslo_config import cfg

from barbtx.errors import ServiceUnavailable
from barbtx.identity.keystone.session import KeystoneSession
from barbtx.times import Clock

_GONE = frozenset({404, 410})


class ProjectStateUnknown(ServiceUnavailable):
    """Keystone does not say whether it has the project; the description is for operators."""


@attrs.frozen
class ProjectDirectory:
    """:ivar own: by which the service knows its own project.
    :ivar session: with which projects are asked about.
    """

    own: KeystoneSession
    session: KeystoneSession

    @classmethod
    def from_config(cls, reactor: Any, clock: Clock, conf: cfg.ConfigOpts) -> ProjectDirectory:
        """:raises ConfigurationError: an option is missing, or a file cannot be used."""
        own = KeystoneSession.from_config(reactor, clock, conf)
        if not conf.keystone_notifications.system_scope:
            return cls(own, own)
        return cls(own, KeystoneSession.from_config(reactor, clock, conf, system=True))

    async def exists(self, project_id: str) -> bool:
        """Whether Keystone has a project, enabled or not.

        :raises Undecided: it may not be asked, or gives an answer that a healthy Keystone would not give.
        :raises ServiceUnavailable: it cannot be reached.
        """
        found = await self._look_up(project_id)
        if not found:
            # Something that answers 404 to everything is no Keystone, or not the right path to it.
            own_id = await self.own.project_id()
            if own_id is None or own_id == project_id or not await self._look_up(own_id):
                raise ProjectStateUnknown(
                    "Keystone does not find the project of [keystone_authtoken] either: is auth_url right?"
                )
        return found

    async def _look_up(self, project_id: str) -> bool:
        status, document = await self.session.get(f"/projects/{quote(project_id, safe='')}")
        if status == 200 and _field(document, "project", "id") == project_id:
            return True
        if status in _GONE and _field(document, "error", "code") == status:
            return False
        if status == 403:
            raise ProjectStateUnknown(
                "Keystone answers 403: the user of [keystone_authtoken] may not read projects; it needs "
                "the role reader on the system, and [keystone_notifications] system_scope, or admin"
            )
        raise ProjectStateUnknown(f"Keystone answers {status}, and not in a form that says whether it has the project")


def _field(document: Mapping[str, Any], *names: str) -> Any:
    for name in names:
        document = document.get(name) if isinstance(document, Mapping) else None
    return document

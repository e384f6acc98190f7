"""Looks up whether Keystone has a project. Data is deleted because of the result, so only a clear response counts."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import quote

import attrs
from oslo_config import cfg

from barbtx.errors import ServiceUnavailable
from barbtx.identity.keystone.session import KeystoneSession
from barbtx.reactor import IReactor
from barbtx.times import Clock

_GONE = frozenset({404, 410})


class ProjectStateUnknown(ServiceUnavailable):
    """It is not known whether Keystone has the project. The description is for operators."""


@attrs.frozen
class ProjectDirectory:
    """Keystone's projects.

    :ivar own: the session whose token is for the service's own project.
    :ivar session: the session that reads projects; the same, or one whose token is for the system.
    """

    own: KeystoneSession
    session: KeystoneSession

    @classmethod
    def from_config(cls, reactor: IReactor, clock: Clock, conf: cfg.ConfigOpts) -> ProjectDirectory:
        """Make a directory; no request is sent yet.

        :raises ConfigurationError: an option is missing, or a file cannot be used.
        """
        own = KeystoneSession.from_config(reactor, clock, conf)
        if not conf.keystone_notifications.system_scope:
            return cls(own, own)
        return cls(own, KeystoneSession.from_config(reactor, clock, conf, system=True))

    async def exists(self, project_id: str) -> bool:
        """Return whether Keystone has a project, enabled or not.

        :raises ProjectStateUnknown: Keystone denies access to the project, or its response is not valid.
        :raises ServiceUnavailable: Keystone cannot be reached.
        """
        found = await self._look_up(project_id)
        if not found:
            # A server that responds with 404 to everything is not Keystone, or auth_url has the wrong path.
            own_id = await self.own.project_id()
            if own_id is None or own_id == project_id or not await self._look_up(own_id):
                raise ProjectStateUnknown(
                    "Keystone does not find the project of [keystone_authtoken] either: is auth_url correct?"
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
                "Keystone responds with 403: the user of [keystone_authtoken] may not read projects; it needs "
                "the role reader on the system, and [keystone_notifications] system_scope, or admin"
            )
        raise ProjectStateUnknown(f"the response of Keystone is not valid: status {status}")


def _field(document: object, *names: str) -> object:
    """Return a value of nested objects; None if it is missing."""
    for name in names:
        document = document.get(name) if isinstance(document, Mapping) else None
    return document

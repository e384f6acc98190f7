"""Removing what belonged to a project that Keystone has deleted."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
from twisted.logger import Logger

from barbtx.errors import ServiceUnavailable
from barbtx.model.records import StoredPayload
from barbtx.model.repositories.project_removal import ProjectRemovalRepo
from barbtx.plugin import resources
from barbtx.plugin.manager import StoreManager

log = Logger()

# A project into which somebody stores as fast as it is removed is not gone yet.
_STALLED = 10


class NotRemoved(Exception):
    """Something is left; the text says of what kind."""


@attrs.frozen
class RemoveProject:
    """Leaves nothing of a project, in the secret stores either. Repeated or interrupted, it does no harm.

    :ivar batch: how many objects are removed in one transaction, at most.
    """

    projects: ProjectRemovalRepo
    stores: StoreManager
    batch: int = 100

    async def run(self, project_id: str) -> int:
        """Remove a project; how many secrets it had.

        :param project_id: external id.
        :raises ServiceUnavailable: a store or the database is out of reach; what is left can be removed by another run.
        :raises NotRemoved: a store failed to delete some payloads. Their secrets stay, and all else is gone but the project.
        """
        removed, stalled = 0, 0
        while stalled < _STALLED:
            removed += await self._remove_secrets(project_id)
            await self._forget_passphrases(project_id)
            while rest := await self.projects.remove_rest(project_id, self.batch):
                stalled = 0
            if rest is None:
                return removed
            # Something came to it in the meantime.
            stalled += 1
        raise NotRemoved("it is still in use")

    async def _remove_secrets(self, project_id: str) -> int:
        removed, failed, after = 0, 0, ""
        while secrets := await self.projects.secrets(project_id, after, self.batch):
            after = secrets[-1].id
            # The stores first: a payload whose row is gone would never be found again.
            gone = await self._forget([(secret.id, secret.payload) for secret in secrets])
            while not await self.projects.remove_secrets(gone):
                # Many consumers are removed in several transactions.
                pass
            removed, failed = removed + len(gone), failed + len(secrets) - len(gone)
        if failed:
            raise NotRemoved(f"{failed} secrets could not be deleted from their stores")
        return removed

    async def _forget_passphrases(self, project_id: str) -> None:
        after = ""
        while kept := await self.projects.passphrases(project_id, after, self.batch):
            after = kept[-1][0]
            if len(await self._forget(kept)) < len(kept):
                raise NotRemoved("passphrases of orders could not be deleted from their stores")

    async def _forget(self, payloads: Sequence[tuple[str, StoredPayload | None]]) -> list[str]:
        """Have stores forget payloads; the ids of those that they did."""
        gone = []
        for id, payload in payloads:
            try:
                if payload is not None:
                    await resources.delete_payload(self.stores, payload)
            except ServiceUnavailable:
                raise
            except Exception:
                log.failure("the payload of {id} could not be deleted from its store", id=id)
            else:
                gone.append(id)
        return gone

"""Removing what belonged to a project that Keystone has deleted."""

from __future__ import annotations

import attrs
from twisted.logger import Logger

from barbtx.model.repositories.project_removal import ProjectRemovalRepo
from barbtx.plugin import resources
from barbtx.plugin.manager import StoreManager

log = Logger()


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
        :raises Exception: a store or the database failed; what is left stays, to be removed by another run.
        """
        removed = 0
        while True:
            secrets = await self.projects.secrets(project_id, self.batch)
            if secrets:
                # The stores first: a payload whose row is gone would never be found again.
                for secret in secrets:
                    await resources.delete_secret(self.stores, secret)
                await self.projects.remove_secrets([secret.id for secret in secrets])
                removed += len(secrets)
            elif await self.projects.remove_rest(project_id, self.batch):
                return removed

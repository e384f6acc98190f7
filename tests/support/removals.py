"""Removals of projects that tests carry out themselves."""

from __future__ import annotations

from twisted.internet.task import Clock

from barbtx.model.database import Database
from barbtx.model.records import RemovalClaim
from barbtx.model.repositories.pending_removals import PendingRemovalRepo
from barbtx.model.repositories.project_removal import ProjectRemovalRepo


async def claim_removal(database: Database, clock: Clock, project_id: str) -> tuple[ProjectRemovalRepo, RemovalClaim]:
    """A removal that is confirmed, due and in the test's hand, and the steps to carry it out."""
    removals = PendingRemovalRepo(database, clock, 600.0, 10, 60.0, 10)
    await removals.request(project_id)
    await removals.confirm(await removals.claim(), 0.0)
    return ProjectRemovalRepo(database, clock, 0.0), await removals.claim()

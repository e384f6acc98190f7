"""The task that removes the objects of a project that was deleted in Keystone."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
from twisted.internet.defer import CancelledError
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from barbtx.errors import ServiceUnavailable
from barbtx.identity.keystone.projects import ProjectDirectory
from barbtx.model.records import RemovalClaim, StoredPayload
from barbtx.model.repositories.pending_removals import PendingRemovalRepo, RemovalLost
from barbtx.model.repositories.project_removal import ProjectRemovalRepo
from barbtx.plugin import resources
from barbtx.plugin.manager import PluginNotEnabled, StoreManager

log = Logger()

# Rounds without progress after which a removal fails, because the project is still in use.
_MAX_STALLED_ROUNDS = 10


class RemovalIncomplete(Exception):
    """Some objects could not be removed. The text names their kind."""


@attrs.frozen
class RemoveProject:
    """Removes all objects of a project from the database and the secret stores. It is idempotent.

    :ivar batch: maximum number of objects that one transaction removes.
    """

    projects: ProjectRemovalRepo
    stores: StoreManager
    batch: int = 100

    async def run(self, claim: RemovalClaim) -> int:
        """Remove a project.

        :return: number of secrets that were removed.
        :raises ServiceUnavailable: a store or the database is unavailable. Another run removes the rest.
        :raises RemovalIncomplete: a store failed to delete payloads, whose secrets remain, or the project is in use.
        :raises RemovalLost: the removal was cancelled, or another worker took it over.
        """
        removed, stalled = 0, 0
        while stalled < _MAX_STALLED_ROUNDS:
            removed += await self._remove_secrets(claim)
            await self._forget_passphrases(claim)
            while rest := await self.projects.remove_rest(claim, self.batch):
                stalled = 0
            if rest is None:
                self.stores.forget_project(claim.project_id)
                return removed
            # Objects were added in the meantime.
            stalled += 1
        raise RemovalIncomplete("the project is still in use")

    async def _remove_secrets(self, claim: RemovalClaim) -> int:
        removed, failed, after = 0, 0, ""
        while secrets := await self.projects.secrets(claim.project_id, after, self.batch):
            after = secrets[-1].id
            # If the removal was cancelled, the stores must not be changed.
            await self.projects.check(claim)
            # Payloads are deleted first: without its row a payload could not be found again.
            gone = await self._forget([(secret.id, secret.payload) for secret in secrets])
            while not await self.projects.remove_secrets(claim, gone):
                # Secrets with many consumers need several transactions.
                pass
            removed, failed = removed + len(gone), failed + len(secrets) - len(gone)
        if failed:
            raise RemovalIncomplete(f"{failed} secrets could not be deleted from their stores")
        return removed

    async def _forget_passphrases(self, claim: RemovalClaim) -> None:
        after = ""
        while kept := await self.projects.passphrases(claim.project_id, after, self.batch):
            after = kept[-1][0]
            await self.projects.check(claim)
            if len(await self._forget(kept)) < len(kept):
                raise RemovalIncomplete("passphrases of orders could not be deleted from their stores")

    async def _forget(self, payloads: Sequence[tuple[str, StoredPayload | None]]) -> list[str]:
        """Delete payloads from their stores.

        :param payloads: IDs, each with the payload or None.
        :return: IDs of those that have no payload any more.
        """
        gone = []
        for owner_id, payload in payloads:
            try:
                if payload is not None:
                    await resources.delete_payload(self.stores, payload)
            except (ServiceUnavailable, CancelledError) as problem:
                if not isinstance(problem, PluginNotEnabled):
                    raise
                log.error("the payload of {id} was not deleted: {reason}", id=owner_id, reason=str(problem))
            except Exception:
                log.failure("the payload of {id} could not be deleted from its store", id=owner_id)
            else:
                gone.append(owner_id)
        return gone


@attrs.frozen
class AdvanceRemoval:
    """Carries out the next step of a removal.

    The first step confirms with Keystone that the project is deleted. The second one, after the grace period, confirms
    that again and removes the project.

    :ivar grace: seconds between the two steps.
    :ivar longest_wait: maximum number of seconds between two attempts.
    """

    clock: IReactorTime
    removals: PendingRemovalRepo
    directory: ProjectDirectory
    remove: RemoveProject
    grace: float
    longest_wait: float

    async def run(self, claim: RemovalClaim) -> None:
        """Carry out the step. A failure is recorded, and the step is retried later. Cancelling releases the claim.

        :raises ServiceUnavailable: the database is unavailable. The claim expires.
        """
        try:
            try:
                await self._step_with_renewal(claim)
            except ServiceUnavailable as problem:
                log.warn(
                    "the removal of project {project_id} is delayed: {reason}",
                    project_id=claim.project_id,
                    reason=problem.description,
                )
                await self._postpone(claim, problem.description, counts=False)
            except CancelledError:
                await self.removals.reschedule(claim, 0, None, counts=False)
                raise
            except RemovalLost:
                raise
            except Exception as problem:
                await self._failed(claim, problem)
        except RemovalLost:
            log.info(
                "the removal of project {project_id} was cancelled, or another worker took it over",
                project_id=claim.project_id,
            )

    async def _step_with_renewal(self, claim: RemovalClaim) -> None:
        renewal = LoopingCall(self._renew, claim)
        renewal.clock = self.clock
        renewing = renewal.start(self.removals.lease_seconds / 3, now=False)
        # The next transaction of the step fails with the same exception.
        renewing.addErrback(lambda failure: failure.trap(RemovalLost))
        try:
            await self._step(claim)
        finally:
            if renewal.running:
                renewal.stop()

    async def _step(self, claim: RemovalClaim) -> None:
        project_id = claim.project_id
        if await self.directory.exists(project_id):
            await self.removals.withdraw(claim)
            log.warn(
                "project {project_id} exists in Keystone, although a notification reported its deletion: the "
                "removal is cancelled",
                project_id=project_id,
            )
        elif claim.confirmed:
            count = await self.remove.run(claim)
            log.info(
                "project {project_id} was deleted in Keystone; {count} secrets and all other objects were removed",
                project_id=project_id,
                count=count,
            )
        else:
            due = await self.removals.confirm(claim, self.grace)
            log.warn(
                "project {project_id} was deleted in Keystone: nothing can be added to it any more, and it will "
                "be removed at {due} UTC; 'barbtx-manage removals cancel' cancels the removal",
                project_id=project_id,
                due=due.isoformat(" ", "seconds"),
            )

    async def _renew(self, claim: RemovalClaim) -> None:
        try:
            await self.removals.renew(claim)
        except ServiceUnavailable:
            log.info("the lease of project {project_id}'s removal could not be renewed", project_id=claim.project_id)

    async def _failed(self, claim: RemovalClaim, problem: Exception) -> None:
        log.failure("removing project {project_id} failed", project_id=claim.project_id)
        # The texts of other exceptions may quote confidential data.
        reason = str(problem) if isinstance(problem, RemovalIncomplete) else type(problem).__name__
        await self._postpone(claim, reason, counts=True)
        if claim.attempt >= self.removals.max_attempts:
            log.error(
                "removing project {project_id} failed {count} times and is not retried: {reason}; when the "
                "cause is corrected, run 'barbtx-manage removals retry'",
                project_id=claim.project_id,
                count=claim.attempt,
                reason=reason,
            )

    async def _postpone(self, claim: RemovalClaim, reason: str | None, *, counts: bool) -> None:
        await self.removals.reschedule(claim, min(self.longest_wait, max(1.0, claim.age)), reason, counts=counts)

"""The shape of every task."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Generic, TypeVar

from twisted.logger import Logger

from barbtx.errors import BarbtxError, ErrorResponse, ServiceUnavailable, describe


class TaskNotStarted(Exception):
    """The task did nothing, and there is nothing to record that on."""


class NoSuchEntity(TaskNotStarted):
    """What the task is to work on does not exist, or not any more: it may have been deleted."""


class DependencyUnavailable(TaskNotStarted):
    """Something that the task needs to begin is out of reach; it can be run again later."""


class TaskSuperseded(Exception):
    """The entity was deleted, or somebody else took it over, while the task worked on it. What it made is dropped.

    That is an ordinary outcome.
    """


E = TypeVar("E")
R = TypeVar("R")

log = Logger()


class BaseTask(ABC, Generic[E, R]):
    """A template: find the entity, work on it, and record how that went.

    Subclasses fill in the steps; callers use :meth:`process` or :meth:`process_and_suppress_exceptions`.
    """

    @abstractmethod
    def get_name(self) -> str:
        """The task's name in texts for users, such as ``Process TypeOrder``."""

    @abstractmethod
    async def retrieve_entity(self, *args: Any, **kwargs: Any) -> E | None:
        """What the task is to work on; None if there is nothing (left) to do."""

    @abstractmethod
    async def handle_processing(self, entity: E, *args: Any, **kwargs: Any) -> R:
        """The work. It changes nothing that would need to be undone if it fails."""

    @abstractmethod
    async def handle_error(
        self, entity: E, fault: ErrorResponse, exception: Exception, *args: Any, **kwargs: Any
    ) -> None:
        """Record a failure."""

    @abstractmethod
    async def handle_success(self, entity: E, result: R, *args: Any, **kwargs: Any) -> None:
        """Record what the work made."""

    def leave(self, entity: E) -> None:
        """Called when the work on an entity is over, however that went."""

    async def process(self, *args: Any, **kwargs: Any) -> R | None:
        """Run the task; its result, or None if there was nothing to do or somebody else does it.

        :raises NotBegun: there is nothing to work on, or it cannot be reached.
        :raises Exception: what any step raised; what :meth:`handle_error` raised is only logged.
        """
        name = self.get_name()
        try:
            entity = await self.retrieve_entity(*args, **kwargs)
        except TaskNotStarted:
            raise
        except ServiceUnavailable as problem:
            raise DependencyUnavailable(problem.description) from None
        except Exception as problem:
            _log(problem, "{task}: could not retrieve the entity", name)
            raise
        if entity is None:
            return None
        try:
            return await self._work(entity, *args, **kwargs)
        except TaskSuperseded as problem:
            log.info("{task}: nothing is recorded: {reason}", task=name, reason=str(problem))
            return None
        finally:
            self.leave(entity)

    async def _work(self, entity: E, *args: Any, **kwargs: Any) -> R:
        name = self.get_name()
        try:
            result = await self.handle_processing(entity, *args, **kwargs)
        except Exception as problem:
            fault = describe(problem, name)
            try:
                await self.handle_error(entity, fault, problem, *args, **kwargs)
            except TaskSuperseded:
                # Most likely the reason why the work failed.
                raise
            except Exception as unrecorded:
                _log(unrecorded, "{task}: could not record the failure", name)
            _log(problem, "{task}: failed", name)
            raise
        try:
            await self.handle_success(entity, result, *args, **kwargs)
        except TaskSuperseded:
            raise
        except Exception as problem:
            _log(problem, "{task}: could not record the success", name)
            raise
        return result

    async def process_and_suppress_exceptions(self, *args: Any, **kwargs: Any) -> R | None:
        """Run the task as :meth:`process` does, but hold back what failed, which it has logged: the answer is None.

        :raises NotBegun: there is nothing to record a failure on.
        """
        try:
            return await self.process(*args, **kwargs)
        except TaskNotStarted:
            raise
        except Exception:
            return None


def _log(problem: Exception, what: str, name: str) -> None:
    """Log what went wrong, at the level that it deserves: only a mistake in barbtx, or in a plugin, has a traceback."""
    if isinstance(problem, BarbtxError) and problem.status != 500:
        log.warn(
            what + " with status {status}: {reason}",
            task=name,
            status=problem.status,
            reason=problem.description,
            **{key: str(value) for key, value in problem.debug.items() if key not in ("task", "status", "reason")},
        )
    else:
        log.failure(what, task=name)

"""The template that tasks follow: find an entity, process it, record the outcome."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Generic, TypeVar

from twisted.logger import Logger

from barbtx.errors import BarbtxError, ErrorResponse, ServiceUnavailable, to_error_response


class TaskNotStarted(Exception):
    """The task did nothing, and there is no entity on which the failure could be recorded."""


class NoSuchEntity(TaskNotStarted):
    """The entity does not exist. It may have been deleted after the task was sent."""


class DependencyUnavailable(TaskNotStarted):
    """A service that the task needs to start is unavailable. The task can be run again later."""


class TaskSuperseded(Exception):
    """The entity was deleted, or another worker took it over, while the task processed it. The result is dropped.

    This is an ordinary outcome and not an error.
    """


E = TypeVar("E")
R = TypeVar("R")

log = Logger()


class BaseTask(ABC, Generic[E, R]):
    """A template method: find the entity, process it, and record the outcome.

    Subclasses implement the steps. Callers use :meth:`process` or :meth:`process_and_suppress_exceptions`, whose
    arguments are passed to each step.
    """

    @abstractmethod
    def get_name(self) -> str:
        """Return the task's name in messages for users, such as ``Process TypeOrder``."""

    @abstractmethod
    async def retrieve_entity(self, *args: Any, **kwargs: Any) -> E | None:
        """Return the entity to process, or None if there is nothing to do."""

    @abstractmethod
    async def handle_processing(self, entity: E, *args: Any, **kwargs: Any) -> R:
        """Process the entity. This step changes nothing that would have to be undone if it fails."""

    @abstractmethod
    async def handle_error(
        self, entity: E, error: ErrorResponse, exception: Exception, *args: Any, **kwargs: Any
    ) -> None:
        """Record that :meth:`handle_processing` failed.

        :param error: status and description that are safe to show to clients.
        """

    @abstractmethod
    async def handle_success(self, entity: E, result: R, *args: Any, **kwargs: Any) -> None:
        """Record the result of :meth:`handle_processing`."""

    def release_entity(self, entity: E) -> None:
        """Release the entity. Called at the end of every task that retrieved one, whatever its outcome."""

    async def process(self, *args: Any, **kwargs: Any) -> R | None:
        """Run the task.

        :return: the result, or None if there was nothing to do or the task was superseded.
        :raises TaskNotStarted: the entity does not exist or cannot be retrieved now.
        :raises Exception: any exception of a step; that of :meth:`handle_error` is only logged.
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
            return await self._process_entity(entity, *args, **kwargs)
        except TaskSuperseded as problem:
            log.info("{task}: nothing is recorded: {reason}", task=name, reason=str(problem))
            return None
        finally:
            self.release_entity(entity)

    async def _process_entity(self, entity: E, *args: Any, **kwargs: Any) -> R:
        name = self.get_name()
        try:
            result = await self.handle_processing(entity, *args, **kwargs)
        except Exception as problem:
            error = to_error_response(problem, name)
            try:
                await self.handle_error(entity, error, problem, *args, **kwargs)
            except TaskSuperseded:
                # That is probably why the processing failed.
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
        """Run the task as :meth:`process` does, but return None instead of raising an exception, which is logged.

        :raises TaskNotStarted: there is no entity on which the failure could be recorded.
        """
        try:
            return await self.process(*args, **kwargs)
        except TaskNotStarted:
            raise
        except Exception:
            return None


def _log(problem: Exception, what: str, name: str) -> None:
    """Log a failure. Only an unexpected exception, of barbtx or of a plugin, is logged with a traceback."""
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

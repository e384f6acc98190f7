"""The template of tasks, and their messages."""

from __future__ import annotations

import json

import pytest
import pytest_twisted

from barbtx.errors import ErrorResponse, NotSupported
from barbtx.queue.transport import InvalidMessage, TaskMessage, decode, encode
from barbtx.tasks.base import BaseTask
from barbtx.tasks.order_task import PROCESS_TYPE_ORDER, order_task


class Recorder(BaseTask):
    """A task whose steps have given outcomes and are recorded."""

    def __init__(self, **steps: object) -> None:
        self.steps = steps
        self.calls: list[object] = []

    def get_name(self) -> str:
        return "Test task"

    async def _step(self, name: str, result: object) -> object:
        self.calls.append(name)
        outcome = self.steps.get(name, result)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def retrieve_entity(self) -> object:
        return await self._step("retrieve", "entity")

    async def handle_processing(self, entity: object) -> object:
        return await self._step("process", "result")

    async def handle_error(self, entity: object, error: ErrorResponse, exception: Exception) -> None:
        self.error = error
        await self._step("error", None)

    async def handle_success(self, entity: object, result: object) -> None:
        await self._step("success", None)


@pytest_twisted.ensureDeferred
async def test_a_task_that_works_is_recorded_as_such() -> None:
    task = Recorder()
    assert await task.process() == "result"
    assert task.calls == ["retrieve", "process", "success"]


@pytest_twisted.ensureDeferred
async def test_where_there_is_nothing_to_do_nothing_is_done() -> None:
    task = Recorder(retrieve=None)
    assert await task.process() is None
    assert task.calls == ["retrieve"]


@pytest_twisted.ensureDeferred
async def test_a_failure_is_recorded_in_safe_words_and_raised() -> None:
    task = Recorder(process=RuntimeError("the master key is 12345"))
    with pytest.raises(RuntimeError):
        await task.process()
    assert task.calls == ["retrieve", "process", "error"]
    assert task.error == ErrorResponse(500, "Test task failure seen - please contact site administrator.")


@pytest_twisted.ensureDeferred
async def test_an_error_of_known_kind_keeps_its_status_and_reason() -> None:
    task = Recorder(process=NotSupported("no such algorithm"))
    assert await task.process_and_suppress_exceptions() is None
    assert task.error == ErrorResponse(400, "Test task issue seen - no such algorithm.")


@pytest_twisted.ensureDeferred
async def test_a_failure_to_record_a_failure_does_not_hide_it() -> None:
    task = Recorder(process=KeyError("first"), error=ValueError("second"))
    with pytest.raises(KeyError):
        await task.process()


@pytest.mark.parametrize("step", ["retrieve", "process", "success"])
@pytest_twisted.ensureDeferred
async def test_suppression_holds_back_every_exception(step: str) -> None:
    assert await Recorder(**{step: RuntimeError("x")}).process_and_suppress_exceptions() is None


MESSAGE = TaskMessage(PROCESS_TYPE_ORDER, {"order_id": "o", "project_id": "é", "request_id": None})


def test_a_message_travels_as_ascii_and_comes_back_the_same() -> None:
    body = encode(MESSAGE, "barbtx", "1.1")
    assert body.isascii()
    assert decode(body, "barbtx", "1.7") == MESSAGE


def test_the_message_of_an_order_has_the_name_and_arguments_that_other_releases_know() -> None:
    task = order_task("o", "p", None)
    assert json.loads(encode(TaskMessage(task.method, task.kwargs), "barbtx", "1.1")) == {
        "version": "1.1",
        "namespace": "barbtx",
        "method": "process_type_order",
        "args": {"order_id": "o", "project_id": "p", "request_id": None},
    }


def test_fields_of_a_later_release_are_left_alone() -> None:
    body = encode(MESSAGE, "barbtx", "1.9").replace(b'{"version"', b'{"colour":{"deep":[1]},"version"')
    assert decode(body, "barbtx", "1.1") == MESSAGE


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"\xff",
        b"null",
        b'{"a":"\xc3\xa9"}',
        encode(MESSAGE, "other", "1.1"),
        encode(MESSAGE, "barbtx", "2.0"),
        b'{"version":"1.1","namespace":"barbtx","method":1,"args":{}}',
        b'{"version":"1.1","namespace":"barbtx","method":"m","args":{"order_id":5}}',
        b"[" * 100000,
    ],
    ids=lambda body: repr(body[:20]),
)
def test_what_is_no_message_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidMessage):
        decode(body, "barbtx", "1.1")

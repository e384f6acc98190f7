"""What a task may ask for when it is done: that another step follows."""

from __future__ import annotations

import enum

import attrs


class RetryTasks(enum.Enum):
    """Which step."""

    NO_ACTION_REQUIRED = "no_action_required"
    INVOKE_SAME_TASK = "retry_task"


def _milliseconds(value: int | None) -> int:
    return max(0, value or 0)


@attrs.frozen
class FollowOnProcessingStatusDTO:
    """A task's own view of how far its order has come.

    :ivar status: at most 36 characters are kept.
    :ivar status_message: at most 255 characters are kept.
    :ivar retry_msec: milliseconds until the next step.
    """

    status: str = "Unknown"
    status_message: str = "Unknown"
    retry_task: RetryTasks = RetryTasks.NO_ACTION_REQUIRED
    retry_msec: int = attrs.field(default=60_000, converter=_milliseconds)

    def is_follow_on_needed(self) -> bool:
        return self.retry_task is not RetryTasks.NO_ACTION_REQUIRED

"""The activity that the running code is part of: its request, order and project.

The activity is a context variable. Coroutines inherit it; threads and plain callbacks do not, unless they are wrapped
by :func:`bind`. The log adds the activity to every line, and the database shares its threads fairly among projects.
"""

from __future__ import annotations

import contextvars
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import attrs

P = ParamSpec("P")
R = TypeVar("R")


@attrs.define
class Activity:
    """Identifies what the running code works on.

    :ivar request_id: the id of the API request that is processed, or that caused the processing.
    :ivar order_id: the id of the order that is processed.
    :ivar project_id: external id of the project.
    """

    request_id: str | None = None
    order_id: str | None = None
    project_id: str | None = None


_current: contextvars.ContextVar[Activity | None] = contextvars.ContextVar("barbtx_activity", default=None)


def current() -> Activity:
    """Return the current activity, or an empty one if there is none."""
    return _current.get() or Activity()


def begin(activity: Activity) -> None:
    """Set the activity of the current context: of this coroutine, and of those that await it without a Deferred."""
    _current.set(activity)


def run(activity: Activity, function: Callable[P, R], *arguments: P.args, **options: P.kwargs) -> R:
    """Call a function as part of an activity, which the coroutines that it starts inherit."""
    token = _current.set(activity)
    try:
        return function(*arguments, **options)
    finally:
        _current.reset(token)


def note(**fields: str | None) -> None:
    """Set fields of the current activity; everything that is part of it sees them. Without an activity, do nothing."""
    activity = _current.get()
    if activity is not None:
        for name, value in fields.items():
            setattr(activity, name, value)


def bind(function: Callable[P, R]) -> Callable[P, R]:
    """Wrap a function so that it runs as part of the current activity when a thread or a timer calls it."""
    context = contextvars.copy_context()
    # A context cannot be entered twice at the same time, but its copy can be.
    return lambda *arguments, **options: context.copy().run(function, *arguments, **options)

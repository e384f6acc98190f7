"""On whose behalf the code at hand runs: which request, which order, which project.

It is kept in a context variable, which coroutines carry with them. Threads and plain callbacks do not, and get it by
:func:`bind`. The log adds it to every line, and the database shares its connections by it.
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
    """:ivar request_id: of the API request that it is, or that it goes back to.
    :ivar project_id: external id.
    """

    request_id: str | None = None
    order_id: str | None = None
    project_id: str | None = None


_current: contextvars.ContextVar[Activity | None] = contextvars.ContextVar("barbtx_activity", default=None)


def current() -> Activity:
    """The activity at hand; an empty one if the code runs for nobody."""
    return _current.get() or Activity()


def begin(activity: Activity) -> None:
    """Let the coroutine at hand be part of an activity from here on, and what awaits it, unless through a Deferred."""
    _current.set(activity)


def run(activity: Activity, function: Callable[P, R], *arguments: P.args, **options: P.kwargs) -> R:
    """Call a function, and whatever coroutines it starts, as part of an activity."""
    context = contextvars.copy_context()
    context.run(begin, activity)
    return context.run(function, *arguments, **options)


def note(**fields: str | None) -> None:
    """Add to the activity at hand what became known of it, for all that is part of it."""
    activity = _current.get()
    if activity is not None:
        for name, value in fields.items():
            setattr(activity, name, value)


def bind(function: Callable[P, R]) -> Callable[P, R]:
    """The function as part of the activity at hand, wherever it will be called: in a thread, by a timer."""
    context = contextvars.copy_context()
    # A context can be entered once at a time; its copy can be entered while it is.
    return lambda *arguments, **options: context.copy().run(function, *arguments, **options)

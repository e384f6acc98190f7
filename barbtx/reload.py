"""Reloading on SIGHUP: the parts of the configuration that can change while a process runs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Mapping
from functools import partial
from typing import Any

import attrs
from oslo_config import cfg
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.logger import Logger

from barbtx.errors import ConfigurationError, ServiceUnavailable

log = Logger()

Step = Callable[[cfg.ConfigOpts], Coroutine[Deferred[Any], Any, None]]


@attrs.define(eq=False)
class Coalesced:
    """Runs work that must not run twice at the same time. Calls while it runs cause one further run."""

    work: Callable[[], Awaitable[None]]
    _busy: bool = attrs.field(default=False, init=False)
    _again: bool = attrs.field(default=False, init=False)

    async def __call__(self) -> None:
        """Run the work and return when it has ended; return at once if it runs already."""
        if self._busy:
            self._again = True
            return
        self._busy = self._again = True
        try:
            while self._again:
                self._again = False
                await self.work()
        finally:
            self._busy = False


@attrs.define(eq=False)
class Reload:
    """Reads the configuration again and applies each part that can change.

    The parts are independent. If a new value is refused, the old one stays in effect and the error is logged. Signals
    that arrive during a reload cause one further reload.

    :ivar conf: the configuration at startup.
    :ivar read: reads the configuration, in a thread.
    :ivar steps: for each reloadable part, a function that applies the new configuration.
    :ivar reloadable: sections whose options need no restart, since a step applies them.
    :ivar others: functions that reload further parts and log the outcome themselves.
    """

    conf: cfg.ConfigOpts
    read: Callable[[], Deferred[cfg.ConfigOpts]]
    steps: Mapping[str, Step]
    reloadable: frozenset[str] = frozenset()
    others: tuple[Callable[[], Any], ...] = ()
    _run: Coalesced = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._run = Coalesced(self._once)

    def __call__(self) -> Deferred[None]:
        """Reload; the Deferred fires when it is done, whether or not it succeeded."""
        return Deferred.fromCoroutine(self._run())

    async def _once(self) -> None:
        log.info("reloading")
        conf = await self._attempt("the configuration", self.read)
        changed = self._changed(conf) if conf is not None else ()
        if changed:
            # Logged first: otherwise "the policy was reloaded" would seem to be about a new [oslo_policy] policy_file.
            log.warn("changed, but not in effect until a restart: {options}", options=", ".join(changed))
        for other in self.others:
            await self._attempt("a part", partial(maybeDeferred, other))
        if conf is None:
            return
        for name, step in self.steps.items():
            if await self._attempt(name, partial(self._apply, step, conf)):
                log.info("{part} was reloaded and is in effect", part=name)

    async def _apply(self, step: Step, conf: cfg.ConfigOpts) -> bool:
        await step(conf)
        return True

    async def _attempt(self, part: str, work: Callable[[], Awaitable[Any]]) -> Any:
        try:
            return await work()
        except ConfigurationError as problem:
            log.error(
                "{part} was refused, and the previous one stays in effect: {reason}", part=part, reason=str(problem)
            )
        except ServiceUnavailable as problem:
            log.error(
                "{part} cannot be checked now, and the previous one stays in effect: {reason}",
                part=part,
                reason=problem.description,
            )
        except Exception:
            log.failure("{part} could not be reloaded, and the previous one stays in effect", part=part)
        return None

    def _changed(self, conf: cfg.ConfigOpts) -> list[str]:
        """Return the names of options that have changed and that no step applies."""
        return [name for name in changed_options(self.conf, conf) if section_of(name) not in self.reloadable]


def changed_options(before: cfg.ConfigOpts, now: cfg.ConfigOpts) -> list[str]:
    """Return the names, never the values, of options that differ, as in ``[api] bind_port``."""
    old, new = _values(before), _values(now)
    return [name for name in sorted(old.keys() | new.keys()) if old.get(name) != new.get(name)]


def section_of(name: str) -> str:
    """Return the section in the name of an option that :func:`changed_options` returned."""
    return name[1:].partition("]")[0]


def _values(conf: cfg.ConfigOpts) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, value in conf.items():
        if isinstance(value, cfg.ConfigOpts.GroupAttr):
            values |= {f"[{name}] {option}": value[option] for option in value}
        else:
            values[f"[DEFAULT] {name}"] = value
    return values

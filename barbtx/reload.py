"""Reading again, on SIGHUP, what may change while a process runs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import attrs
from oslo_config import cfg
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.logger import Logger

from barbtx.errors import ConfigurationError, ServiceUnavailable

log = Logger()

Step = Callable[[cfg.ConfigOpts], Awaitable[Any]]


@attrs.define(eq=False)
class Reload:
    """Reads the configuration again and has each part that can be changed take over what it needs.

    The parts are independent. One that is refused stays as it is, with an error in the log. Signals that come while one
    is being handled count as one more.

    :ivar conf: the configuration as it was at the start.
    :ivar read: reads the configuration; called in a thread.
    :ivar steps: what takes over a part, by the part's name.
    :ivar reloadable: sections whose changes need no restart, since a step takes care of them.
    :ivar others: what reloads itself and logs the outcome.
    """

    conf: cfg.ConfigOpts
    read: Callable[[], Deferred[cfg.ConfigOpts]]
    steps: Mapping[str, Step]
    reloadable: frozenset[str] = frozenset()
    others: tuple[Callable[[], Any], ...] = ()
    _busy: bool = attrs.field(default=False, init=False)
    _again: bool = attrs.field(default=False, init=False)

    def __call__(self) -> Deferred[None]:
        """Reload; fires when it is done, one way or the other."""
        return Deferred.fromCoroutine(self._run())

    async def _run(self) -> None:
        if self._busy:
            self._again = True
            return
        self._busy = self._again = True
        try:
            while self._again:
                self._again = False
                await self._once()
        finally:
            self._busy = False

    async def _once(self) -> None:
        log.info("reloading")
        for other in self.others:
            await self._attempt("a part", lambda: maybeDeferred(other))
        conf = await self._attempt("the configuration", self.read)
        if conf is None:
            return
        changed = self._changed(conf)
        if changed:
            log.warn("changed, but not in force before a restart: {options}", options=", ".join(changed))
        for name, step in self.steps.items():
            if await self._attempt(name, lambda: Deferred.fromCoroutine(step(conf)).addCallback(lambda _: True)):
                log.info("{part} was read again and is in force", part=name)

    async def _attempt(self, part: str, work: Callable[[], Awaitable[Any]]) -> Any:
        try:
            return await work()
        except ConfigurationError as problem:
            log.error("{part} was refused, and the one before stays in force: {reason}", part=part, reason=str(problem))
        except ServiceUnavailable as problem:
            log.error(
                "{part} cannot be checked now, and the one before stays in force: {reason}",
                part=part,
                reason=problem.description,
            )
        except Exception:
            log.failure("{part} could not be read again, and the one before stays in force", part=part)
        return None

    def _changed(self, conf: cfg.ConfigOpts) -> list[str]:
        """The names, never the values, of options that are not as they were and that nobody takes over."""
        before, now = _values(self.conf), _values(conf)
        return [
            name
            for name in sorted(before.keys() | now.keys())
            if before.get(name) != now.get(name) and name[1:].partition("]")[0] not in self.reloadable
        ]


def _values(conf: cfg.ConfigOpts) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, value in conf.items():
        if isinstance(value, cfg.ConfigOpts.GroupAttr):
            values |= {f"[{name}] {option}": value[option] for option in value}
        else:
            values[f"[DEFAULT] {name}"] = value
    return values

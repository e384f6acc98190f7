"""Runs the measurements: hello and barbtx in turn, in rounds, so that changes of the machine affect both."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import attrs

from benchmarks.speed import meter, orders, wrk
from benchmarks.speed.operations import DONE, OPERATIONS, PAIR, PAIRED, Load, Operation
from benchmarks.speed.targets import CONNECTIONS
from benchmarks.speed.testbed import Hello, Testbed, knows_workers
from tests.support.cluster import in_thread
from tests.support.service import Api

#: Names of measurements that are not operations of barbtx.
HELLO, SILENT_HELLO = "hello", "hello-without-log"
#: What is added to the name of an operation that two API processes performed.
PAIR_SUFFIX = "-two-processes"
OTHER_PREFIX = "other-"


@attrs.frozen
class Measurement:
    """One sample, and what it is of."""

    auth: str
    round: int
    name: str
    connections: int
    sample: wrk.Sample


@attrs.frozen
class Plan:
    """What to measure.

    :ivar operations: names of the operations, without those that are not wanted.
    :ivar others: URLs of other servers, by name.
    :ivar other_headers: what is sent to them.
    """

    rounds: int
    seconds: float
    warm_up: float
    operations: Sequence[str]
    others: Mapping[str, str] = attrs.field(factory=dict)
    other_headers: Mapping[str, str] = attrs.field(factory=dict)

    @property
    def pairs(self) -> bool:
        """Whether two API processes on one port are measured."""
        return PAIR in self.operations and knows_workers()


@attrs.define
class Rounds:
    """The measurements with one way of authentication.

    :ivar report: is called with a line of text after each measurement.
    :ivar done: the measurements so far.
    """

    bed: Testbed
    auth: str
    plan: Plan
    report: Callable[[str], None]
    done: list[Measurement] = attrs.field(factory=list, init=False)

    async def run(self) -> list[Measurement]:
        """Start the API, measure everything, and stop it."""
        api = await self.bed.start_api(self.auth)
        pair = await self.bed.start_api(self.auth, workers=2) if self.plan.pairs else None
        operations = [each for each in OPERATIONS if each.name in self.plan.operations]
        for operation in operations:
            await self.bed.check(api, self.auth, operation)
        for number in range(1, self.plan.rounds + 1):
            for connections in CONNECTIONS:
                await self._round(number, connections, operations, api, pair)
        # The servers must still give the right answers after all this.
        for operation in operations:
            await self.bed.check(api, self.auth, operation)
        await self.bed.drain()
        for each in filter(None, (api, pair)):
            await in_thread(each.process.stop)
        return self.done

    async def _round(
        self, number: int, connections: int, operations: Sequence[Operation], api: Api, pair: Api | None
    ) -> None:
        keep = partial(self._keep, number, connections)
        await self._hello(number, connections, HELLO, self.bed.hello)
        await self._hello(number, connections, SILENT_HELLO, self.bed.silent_hello)
        for operation in operations:
            await self._operation(number, connections, operation, api)
            if pair is not None and operation.name in PAIRED:
                await self._operation(number, connections, operation, pair, PAIR_SUFFIX)
        if DONE in self.plan.operations and connections == max(CONNECTIONS):
            await keep(DONE, await orders.measure(self.bed, api, self.auth, connections, self.plan.seconds), api)
        for name, url in self.plan.others.items():
            load = Load("GET", [_path(url)], self.plan.other_headers)
            await keep(f"{OTHER_PREFIX}{name}", await self._measure(url, load, connections, dict))
        await self._hello(number, connections, HELLO, self.bed.hello)

    async def _hello(self, number: int, connections: int, name: str, server: Hello) -> None:
        sample = await self._measure(server.url, Load("GET", ["/"], {}), connections, partial(_used, server))
        await self._keep(number, connections, name, sample)

    async def _operation(self, number: int, connections: int, operation: Operation, api: Api, suffix: str = "") -> None:
        load = operation.load(self.bed.ids, self.bed.identity(self.auth, operation.project))
        sample = await self._measure(api.url, load, connections, partial(self.bed.used, api))
        # The next operation must not be measured while workers process these orders.
        await self.bed.drain()
        await self._keep(number, connections, operation.name + suffix, sample, api)

    async def _measure(
        self, url: str, load: Load, connections: int, used: Callable[[], Mapping[str, float]]
    ) -> wrk.Sample:
        if self.plan.warm_up:
            await in_thread(partial(wrk.run, url, load, connections, self.plan.warm_up))
        send = partial(wrk.run, url, load, connections, self.plan.seconds)
        return await in_thread(partial(wrk.measure, used, send))

    async def _keep(self, number: int, connections: int, name: str, sample: wrk.Sample, api: Api | None = None) -> None:
        self.done.append(Measurement(self.auth, number, name, connections, sample))
        latency = "" if sample.p99_ms is None else f", p99 {sample.p99_ms:.1f} ms"
        errors = f", errors: {dict(sample.errors)}" if sample.errors else ""
        where = f"round {number}, {self.auth}, {connections} connections"
        self.report(f"{where}: {name} {sample.rate:.0f}/s{latency}{errors}")
        if sample.errors and api is not None:
            for line in await in_thread(partial(self.bed.complaints, api)):
                self.report(f"    {line}")


def _used(server: Hello) -> dict[str, float]:
    return meter.used({"api": [server.process.pid]})


def _path(url: str) -> str:
    """Return the path of a URL with its query."""
    _, _, rest = url.partition("://")
    return f"/{rest.partition('/')[2]}"

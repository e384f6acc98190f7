"""Memory of idle and busy processes, and how long they take to start.

    python -m benchmarks.memory [--requests 200000] [--starts 5]

Starts PostgreSQL, RabbitMQ and a stub of Keystone of its own, starts an API process and a worker several times, and
then sends a mix of requests with wrk, all operations of the speed benchmark at the same time. Prints how long the
processes took until they were ready, their processor time until then, and their resident memory when they are idle,
after a tenth of the requests and after all of them. Exit status: 1 if requests failed.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import psutil
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import react

from benchmarks.speed import wrk
from benchmarks.speed.operations import OPERATIONS
from benchmarks.speed.testbed import KEYSTONE, Testbed
from tests.support.cluster import in_thread, pause
from tests.support.service import ROOT, Api, Process

_CONNECTIONS = 8
_SLICE = 5
# After this many seconds without work the memory no longer changes.
_IDLE = 3


def resident(process: Process) -> float:
    """Return the resident memory in MiB."""
    return psutil.Process(process.process.pid).memory_info().rss / 2**20


async def _start(start: Callable[[], Any], process_of: Callable[[Any], Process], starts: int) -> tuple[Any, str, str]:
    """Start a process several times; return the last one, how long it took, and the processor time."""
    taken, used = [], []
    for number in range(starts):
        begin = time.monotonic()
        started = await in_thread(start)
        taken.append(time.monotonic() - begin)
        times = psutil.Process(process_of(started).process.pid).cpu_times()
        used.append(times.user + times.system)
        if number < starts - 1:
            await in_thread(process_of(started).stop)
    return started, _spread(taken), _spread(used)


def _spread(figures: Sequence[float]) -> str:
    return f"{statistics.median(figures):.2f} ({min(figures):.2f} to {max(figures):.2f})"


class _Load:
    """Sends all operations at the same time, in slices of a few seconds.

    :ivar sent: number of responses so far.
    """

    def __init__(self, bed: Testbed, api: Api) -> None:
        self._bed, self._api = bed, api
        self.sent = self.errors = 0

    async def up_to(self, requests: int) -> None:
        """Send requests until there were so many in all, and wait until everything is idle again."""
        while self.sent < requests:
            samples = await gatherResults(
                [Deferred.fromCoroutine(in_thread(self._sender(operation))) for operation in OPERATIONS]
            )
            self.sent += sum(sample.requests for sample in samples)
            self.errors += sum(sum(sample.errors.values()) for sample in samples)
            memory = f"{resident(self._api.process):.1f} MiB"
            print(f"{self.sent} requests, {self.errors} failed: {memory}", file=sys.stderr, flush=True)
        await self._bed.drain()
        await pause(_IDLE)

    def _sender(self, operation: Any) -> Callable[[], wrk.Sample]:
        load = operation.load(self._bed.ids, self._bed.identity(KEYSTONE, operation.project))
        return lambda: wrk.run(self._api.url, load, _CONNECTIONS, _SLICE)


async def measure(reactor: Any, requests: int, starts: int) -> bool:
    """Run the benchmark, print the result, and return whether all requests succeeded."""
    bed = Testbed("postgresql")
    reactor.addSystemEventTrigger("after", "shutdown", bed.kill)
    await bed.start(workers=0)
    settings: dict[str, object] = {"api.auth_strategy": "keystone", **bed.keystone.settings}
    api, *api_start = await _start(lambda: bed.deployment.api(**settings), lambda api: api.process, starts)
    worker, *worker_start = await _start(bed.deployment.worker, lambda worker: worker, starts)
    await pause(_IDLE)
    rows = [("idle", resident(api.process), resident(worker))]
    load = _Load(bed, api)
    for goal in filter(None, (requests // 10, requests)):
        await load.up_to(goal)
        rows.append((f"after {load.sent:,} requests", resident(api.process), resident(worker)))
    print("| | API process | worker |\n|---|---|---|")
    for title, *texts in zip(("start to ready, s", "processor time, s"), api_start, worker_start, strict=True):
        print(f"| {title} | {' | '.join(texts)} |")
    for title, *figures in rows:
        print(f"| {title}, MiB | {' | '.join(f'{figure:.1f}' for figure in figures)} |")
    for complaint in bed.complaints(api) if load.errors else ():
        print(complaint, file=sys.stderr)
    return not load.errors


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=200_000, help="0: only idle processes (default: %(default)s)")
    parser.add_argument("--starts", type=int, default=5, help="starts of each process (default: %(default)s)")
    options = parser.parse_args()
    # The processes run the code of this checkout, whatever is installed.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    wrk.program()

    async def run(reactor: Any) -> None:
        sys.exit(0 if await measure(reactor, options.requests, options.starts) else 1)

    react(lambda reactor: Deferred.fromCoroutine(run(reactor)))


if __name__ == "__main__":
    main()

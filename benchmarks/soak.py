"""Soak test: orders under continuous load while faults are injected.

    python -m benchmarks.soak [--orders 20000] [--seed 1]

Starts PostgreSQL, RabbitMQ, two API nodes and two workers of its own, orders keys and key pairs without a pause, and
injects random faults one after the other. Prints the outcomes of the orders in one line; the exit status is 0 if no
order was lost, processed twice or stuck, and nothing leaked.
"""

from __future__ import annotations

import argparse
import collections
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import react

from tests.support.cluster import Cluster, Faults, pause


async def soak(reactor: Any, orders: int, seed: int) -> bool:
    """Run the test, and return whether it passed."""
    random.seed(seed)
    with tempfile.TemporaryDirectory(prefix="barbtx-soak-") as directory:
        cluster = Cluster(Path(directory))
        try:
            await cluster.start()
            await cluster.place(200)
            await cluster.settle()
            before, begin = cluster.resources(), reactor.seconds()
            happened: collections.Counter[str] = collections.Counter()
            placing = Deferred.fromCoroutine(cluster.place(orders - 200, concurrency=32, timeout=300))
            faults, names = Faults(cluster), list(Faults.names())
            while not placing.called or cluster.pending() != 0:
                name = random.choice(names)
                if name == "stop_broker":
                    await faults.stop_broker(random.uniform(5, 60))
                else:
                    await getattr(faults, name)()
                happened[name] += 1
                await pause(random.uniform(0.5, 4))
            await placing
            figures = await cluster.settle()
            leaks = cluster.leaks(before)
            minutes = (reactor.seconds() - begin) / 60
            print(f"faults: {', '.join(f'{count} {name}' for name, count in sorted(happened.items()))}")
            print(
                f"soak (seed {seed}, {sum(happened.values())} faults, {minutes:.1f} minutes): {figures}; "
                f"{'; '.join(leaks) or 'no leaks'}"
            )
            return figures.flawless and not leaks
        finally:
            await cluster.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--orders", type=int, default=20000)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    options = parser.parse_args()

    async def run(reactor: Any) -> None:
        sys.exit(0 if await soak(reactor, options.orders, options.seed) else 1)

    react(lambda reactor: Deferred.fromCoroutine(run(reactor)))


if __name__ == "__main__":
    main()

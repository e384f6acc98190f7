"""Benchmark of ten thousand clients that wait for orders.

    python -m benchmarks.waiting [--waiters 10000]

Starts an API node on SQLite whose broker is unavailable, so that an order stays PENDING. That many clients request it
with ``Prefer: wait=600``, each on its own connection. Prints the memory and processor time that the node uses.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import psutil
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater, react

from tests.support.service import Deployment

_SECONDS = 20


class _Waiter(Protocol):
    def connectionMade(self) -> None:
        self.transport.write(self.factory.request)

    def dataReceived(self, data: bytes) -> None:
        self.factory.answers += 1


async def measure(reactor: Any, waiters: int) -> None:
    """Run the benchmark and print the result."""
    with tempfile.TemporaryDirectory(prefix="barbtx-waiting-") as directory:
        deployment = Deployment(
            Path(directory),
            f"sqlite:///{directory}/barbtx.sqlite",
            "rabbit://127.0.0.1:1/",
            "tasks",
            **{
                "api.max_connections": waiters + 100,
                "api.max_connections_per_client": 0,
                "api.max_waiters": waiters,
                "api.max_waiters_per_project": waiters,
                "api.max_waiters_per_client": waiters,
                "api.max_wait_seconds": 600,
            },
        )
        try:
            api = deployment.api()
            path = (await api.order()).removeprefix(api.url)
            factory = Factory.forProtocol(_Waiter)
            factory.noisy, factory.answers = False, 0
            factory.request = (
                f"GET {path} HTTP/1.1\r\nHost: h\r\nX-Project-Id: {api.project}\r\nPrefer: wait=600\r\n\r\n"
            ).encode()
            node = psutil.Process(api.process.process.pid)
            before = node.memory_info().rss
            endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", int(api.url.rpartition(":")[2]))
            for _ in range(waiters // 100):
                await gatherResults([endpoint.connect(factory) for _ in range(100)])
            # Wait until all of them are waiting, so that the figures do not include their start.
            await deferLater(reactor, 5, lambda: None)
            times, memory = node.cpu_times(), node.memory_info().rss
            await deferLater(reactor, _SECONDS, lambda: None)
            after = node.cpu_times()
            busy = (after.user + after.system - times.user - times.system) / _SECONDS
            reply = await api.get("/v1/orders?limit=1")
            print(
                f"{waiters} waiters: {(memory - before) / waiters / 1024:.1f} KiB each, {busy:.1%} of a processor; "
                f"answered early: {factory.answers}; another request meanwhile: {reply.status}"
            )
        finally:
            deployment.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--waiters", type=int, default=10000)
    options = parser.parse_args(sys.argv[1:])
    react(lambda reactor: Deferred.fromCoroutine(measure(reactor, options.waiters)))


if __name__ == "__main__":
    main()

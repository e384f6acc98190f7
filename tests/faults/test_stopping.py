"""SIGTERM ends a process with status 0, whatever its threads wait for."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.threads import deferToThread

from tests.conftest import unique
from tests.support.proxy import Proxy
from tests.support.servers import RabbitMQ, Server
from tests.support.service import _LISTENS, Api, Deployment, Process

# A machine at its limit may take this much longer than the options say.
SLACK = 60


@contextlib.contextmanager
def frozen(server: Server) -> Iterator[None]:
    """A server that takes connections and never answers."""
    server.signal(signal.SIGSTOP)
    try:
        yield
    finally:
        server.signal(signal.SIGCONT)


@pytest.fixture
def deployments() -> Iterator[list[Deployment]]:
    """Deployments that end with the test."""
    running: list[Deployment] = []
    yield running
    for deployment in running:
        deployment.stop()


def stopped(process: Process) -> float:
    """Ask a process to stop; the seconds that it took."""
    start = time.monotonic()
    assert process.stop(SLACK) == 0, process.read_log()
    return time.monotonic() - start


@pytest.mark.parametrize("kind", ["postgresql", "mariadb"])
@pytest_twisted.ensureDeferred
async def test_a_silent_database_holds_up_no_stop(
    request: pytest.FixtureRequest, rabbitmq: RabbitMQ, deployments: list, tmp_path: Path, kind: str
) -> None:
    server = request.getfixturevalue(kind)
    deployment = Deployment(
        tmp_path, server.new_database(unique()), rabbitmq.url, unique("tasks."), thread_shutdown_seconds=1
    )
    deployments.append(deployment)
    worker, api = deployment.worker(), deployment.api()
    ref = await api.store()
    await api.finished(await api.order())
    with frozen(server):
        out = [Deferred.fromCoroutine(api.get(ref)) for _ in range(20)]
        out += [Deferred.fromCoroutine(api.store(str(number))) for number in range(5)]
        answers = DeferredList(out, consumeErrors=True)
        await out[0]
        # Without a limit they would not end before the driver gives up: a minute or, on PostgreSQL, never.
        assert stopped(api.process) < SLACK / 2
        assert stopped(worker) < SLACK / 2
        await answers
    assert "are abandoned" in api.process.read_log() and "Traceback" not in api.process.read_log()


@pytest_twisted.ensureDeferred
async def test_packets_that_are_swallowed_hold_up_no_stop(postgresql, deployments: list, tmp_path: Path) -> None:
    from twisted.internet import reactor

    proxy = Proxy(reactor, postgresql.port)
    port = await proxy.start()
    url = postgresql.new_database(unique())
    deployment = Deployment(tmp_path, url, thread_shutdown_seconds=1)
    deployment.settings["database.connection"] = url.replace(f":{postgresql.port}/", f":{port}/")
    deployments.append(deployment)
    # The proxy is served by this process's reactor, which must not be blocked meanwhile.
    process = Process("barbtx", tmp_path, deployment.settings, "swallowed")
    deployment.processes.append(process)
    await deferToThread(lambda: process.start("barbtx listens on"))
    proxy.swallows = True
    api = Api(process, _LISTENS.search(process.read_log())[1])
    assert (await api.get("/v1/secrets")).status == 503
    assert await deferToThread(lambda: stopped(process)) < SLACK / 2
    await proxy.stop()


@pytest.mark.parametrize("plugin", ["barbtx", "barbtx-worker"])
def test_a_stop_during_the_start_is_not_held_up_either(
    postgresql, rabbitmq: RabbitMQ, deployments: list, tmp_path: Path, plugin: str
) -> None:
    deployment = Deployment(
        tmp_path, postgresql.new_database(unique()), rabbitmq.url, unique("tasks."), thread_shutdown_seconds=1
    )
    deployments.append(deployment)
    process = Process(plugin, tmp_path, deployment.settings, "starting")
    deployment.processes.append(process)
    with frozen(postgresql):
        process.start("startup check is not complete")
        assert stopped(process) < SLACK / 2


@pytest_twisted.ensureDeferred
async def test_a_key_in_the_making_holds_up_no_stop(deployments: list, tmp_path: Path) -> None:
    deployment = Deployment(
        tmp_path,
        f"sqlite:///{tmp_path}/barbtx.sqlite",
        **{"queue.shutdown_seconds": 0.5, "queue.local_wait_seconds": 0.1, "queue.asynchronous_workers": 8},
    )
    deployments.append(deployment)
    api = deployment.api()
    for _ in range(8):
        reply = await api.post("/v1/orders", {"type": "asymmetric", "meta": {"algorithm": "dsa", "bit_length": 4096}})
        assert reply.status == 202
    assert stopped(api.process) < SLACK / 2

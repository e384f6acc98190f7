"""After an outage of the database, the orders in the queue are processed at once and none is lost."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import pytest_twisted

from tests.support.cluster import in_thread, pause
from tests.support.logs import logged
from tests.support.own_database import deployment_with_own_database
from tests.support.servers import RabbitMQ

_DELIVERY_LIMIT = {"queue.delivery_limit": 2}


@pytest.mark.parametrize("outage_seconds", [600, 2], ids=["held", "sent to the end of the queue"])
@pytest_twisted.ensureDeferred
async def test_messages_outlast_an_outage_of_the_database(
    tmp_path: Path, rabbitmq: RabbitMQ, outage_seconds: float
) -> None:
    from twisted.internet import reactor

    settings = {**_DELIVERY_LIMIT, "queue.outage_seconds": outage_seconds}
    with deployment_with_own_database(tmp_path, rabbitmq, **settings) as (deployment, database):
        api = deployment.api()
        await logged(api.process, "publisher: connected")
        refs = [await api.order() for _ in range(20)]
        await in_thread(database.kill)
        worker = await in_thread(deployment.worker)
        await logged(worker, "database unavailable")
        # The outage must last for several retries.
        await pause(12)
        # Repeated lines are logged at intervals, with their count.
        lines = [line for line in worker.read_log().splitlines() if "database unavailable" in line]
        tries = len(lines) + sum(int(number) for line in lines for number in re.findall(r"repeated=(\d+)", line))
        assert tries < 400, "a hot loop"
        await in_thread(database.start)
        back = reactor.seconds()
        for ref in refs:
            assert (await api.finished(ref, 120))["status"] == "ACTIVE"
        # Without a retry scheduler, and before a lease expires, only the worker itself can have processed them.
        assert reactor.seconds() - back < 60
        assert "moving a message to tasks" not in worker.read_log() and "went to the dead" not in worker.read_log()
        assert "Traceback" not in worker.read_log(), worker.read_log()
        assert (await api.get("/v1/secrets")).json["total"] == len(refs)


@pytest_twisted.ensureDeferred
async def test_what_was_made_during_an_outage_is_stored_after_it_by_the_same_worker(
    tmp_path: Path, rabbitmq: RabbitMQ
) -> None:
    with deployment_with_own_database(tmp_path, rabbitmq, **_DELIVERY_LIMIT) as (deployment, database):
        api, worker = deployment.api(), deployment.worker()
        await logged(api.process, "publisher: connected")
        reply = await api.post(
            "/v1/orders",
            {"type": "asymmetric", "meta": {"algorithm": "rsa", "bit_length": 4096, "passphrase": "a passphrase"}},
        )
        placed = reply.json["order_ref"]
        await logged(worker, "processing order")
        await in_thread(database.kill)
        await logged(worker, "database unavailable")
        await pause(5)
        await in_thread(database.start)
        order = await api.finished(placed, 120)
        assert order["status"] == "ACTIVE" and worker.read_log().count("processing order") == 1

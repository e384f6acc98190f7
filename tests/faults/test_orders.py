"""No order is lost, doubled or stuck, whatever happens to what barbtx stands on. Each fault comes under load."""

from __future__ import annotations

import contextlib
import datetime
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred, DeferredSemaphore, gatherResults
from txamqp.content import Content

from barbtx.queue.amqp.connection import Brokers, client_service
from barbtx.queue.transport import TaskMessage, encode
from tests.support.cluster import QUICK, Cluster, Faults, in_thread, pause
from tests.support.logs import logged
from tests.support.programs import require
from tests.support.servers import PATIENCE
from tests.support.service import Api, with_wrapping_store

ORDERS = 120


@pytest_twisted.async_yield_fixture(scope="module")
async def cluster(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    cluster = Cluster(tmp_path_factory.mktemp("cluster"))
    try:
        await cluster.start()
        await cluster.place(40)
        await cluster.settle()
        yield cluster
    finally:
        await cluster.stop()


@pytest.mark.parametrize("fault", Faults.names())
@pytest_twisted.ensureDeferred
async def test_orders_survive(cluster: Cluster, fault: str, capsys: pytest.CaptureFixture) -> None:
    before = cluster.resources()
    enough = len(cluster.accepted) + ORDERS // 6
    placing = Deferred.fromCoroutine(cluster.place(ORDERS))
    while len(cluster.accepted) < enough:
        await pause(0.02)
    await getattr(Faults(cluster), fault)()
    await placing
    figures = await cluster.settle()
    with capsys.disabled():
        print(f"\n{fault}: {figures}")
    assert figures.flawless, figures
    assert cluster.leaks(before) == []


@pytest_twisted.ensureDeferred
async def test_one_message_fifty_times_makes_one_key(cluster: Cluster) -> None:
    (ref,) = [await cluster.apis[0].order()]
    order_id = ref.rpartition("/")[2]
    body = encode(
        TaskMessage(
            "process_type_order", {"order_id": order_id, "project_id": cluster.apis[0].project, "request_id": None}
        ),
        "barbtx",
        "1.1",
    )
    service = client_service(_reactor(), Brokers.from_url(cluster.rabbitmq.url), "test", 10, _nothing)
    service.startService()
    channel = await (await service.whenConnected(failAfterFailures=1)).new_channel()
    for _ in range(50):
        channel.basic_publish(routing_key="tasks", content=Content(body))
    assert (await cluster.apis[0].finished(ref))["status"] == "ACTIVE"
    while (await channel.queue_declare(queue="tasks", passive=True)).message_count:
        await pause(0.05)
    cluster.accepted.add(order_id)
    assert (await cluster.settle()).flawless
    await service.stopService()


async def _nothing(client: object) -> None:
    pass


def _reactor():
    from twisted.internet import reactor

    return reactor


@pytest_twisted.ensureDeferred
async def test_a_full_queue_and_a_blocked_broker_hold_orders_up_and_lose_none(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, **{"queue.max_length": 10})
    try:
        await cluster.start(apis=1, workers=0)
        api: Api = cluster.apis[0]
        await cluster.place(40, pairs=0)
        await logged(api.process, "rejected the message")
        await in_thread(lambda: cluster.rabbitmq.control("set_vm_memory_high_watermark", "0.0000001"))
        while "has suspended publishing" not in api.process.read_log():
            await api.order()
        await cluster.place(10, pairs=0)
        assert (await api.get("/v1/orders?limit=1")).status == 200
        await in_thread(lambda: cluster.rabbitmq.control("set_vm_memory_high_watermark", "0.4"))
        cluster.workers.append(await cluster.start_worker())
        figures = await cluster.settle()
        assert figures.flawless and figures.accepted == 50, figures
    finally:
        await cluster.stop()


@pytest_twisted.ensureDeferred
async def test_a_worker_asked_to_stop_gives_back_what_takes_too_long_and_counts_no_attempt(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, **{"queue.shutdown_seconds": 0.2, "queue.lease_seconds": 600})
    try:
        await cluster.start(apis=1, workers=1)
        api = cluster.apis[0]
        reply = await api.post("/v1/orders", {"type": "asymmetric", "meta": {"algorithm": "dsa", "bit_length": 4096}})
        cluster.accepted.add(reply.json["order_ref"].rpartition("/")[2])
        while "processing order" not in cluster.workers[0].read_log():
            await pause(0.02)
        begin = _reactor().seconds()
        assert await in_thread(cluster.workers[0].stop) == 0
        assert _reactor().seconds() - begin < 30
        engine = cluster.engine()
        with engine.connect() as connection:
            lease, attempts = connection.exec_driver_sql("SELECT lease, retry_count FROM order_retry_tasks").one()
        engine.dispose()
        assert (lease, attempts) == (None, 0)
        assert (await api.get(reply.json["order_ref"])).json["status"] == "PENDING"
    finally:
        await cluster.stop()


@pytest_twisted.ensureDeferred
async def test_a_client_that_lost_its_answer_repeats_and_creates_nothing_twice(service: Api, name: str) -> None:
    api = service.of(name)
    for n in range(10):
        headers = {"Idempotency-Key": f"{name}-{n}"}
        body = {"payload": f"payload {n}", "payload_content_type": "text/plain"}
        sent = Deferred.fromCoroutine(api.post("/v1/secrets", body, headers=headers))
        _reactor().callLater(0.01 * n, sent.cancel)
        # The client may have gone away before the answer came.
        with contextlib.suppress(Exception):
            await sent
        again = await api.post("/v1/secrets", body, headers=headers)
        assert again.status == 201
        assert (await api.get(f"{again.json['secret_ref']}/payload")).content == f"payload {n}".encode()
    assert (await api.get("/v1/secrets")).json["total"] == 10


HOUR = 3600


@pytest.mark.parametrize("jump", [HOUR, -HOUR])
@pytest_twisted.ensureDeferred
async def test_a_clock_that_jumps_doubles_nothing_and_holds_nothing_up(
    cluster: Cluster, tmp_path: Path, jump: int
) -> None:
    """The processes live by a clock of their own, which a file sets."""
    offset = tmp_path / "offset"
    offset.write_text("+0")
    faked = {
        "LD_PRELOAD": require("libfaketime.so.1"),
        "FAKETIME_TIMESTAMP_FILE": str(offset),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    away, cluster.workers, cluster.apis = (cluster.workers, cluster.apis), [], []
    for process in (*away[0], *(api.process for api in away[1])):
        await in_thread(process.stop)
    os.environ.update(faked)
    try:
        jumping_api, jumping_worker = await cluster.start_api(), await cluster.start_worker()
    finally:
        for variable in faked:
            del os.environ[variable]
    cluster.apis, cluster.workers = [jumping_api], [jumping_worker]
    # Long enough under way that the worker dies with leases in its hands.
    slow = [
        await jumping_api.post("/v1/orders", {"type": "asymmetric", "meta": {"algorithm": "rsa", "bit_length": 4096}})
        for _ in range(4)
    ]
    cluster.accepted |= {reply.json["order_ref"].rpartition("/")[2] for reply in slow}
    placing = Deferred.fromCoroutine(cluster.place(30))
    while "processing order" not in jumping_worker.read_log():
        await pause(0.01)
    jumping_worker.kill()
    offset.write_text(f"{jump:+d}")
    os.environ.update(faked)
    try:
        cluster.workers = [await cluster.start_worker()]
    finally:
        for variable in faked:
            del os.environ[variable]
    await placing
    figures = await cluster.settle()
    assert figures.flawless, figures
    shown = (await jumping_api.get("/v1/orders?limit=100")).json
    made = datetime.datetime.fromisoformat((await jumping_api.get(await jumping_api.order())).json["created"])
    there = datetime.datetime.now(datetime.UTC).replace(tzinfo=None) + datetime.timedelta(seconds=jump)
    assert abs((made - there).total_seconds()) < 60, "the clock did not jump"
    assert shown["total"] > 30
    await cluster.settle()
    for process in (cluster.workers[0], jumping_api.process):
        await in_thread(process.stop)
    cluster.apis, cluster.workers = [await cluster.start_api()], [await cluster.start_worker()]


@pytest_twisted.ensureDeferred
async def test_a_store_out_of_reach_is_tried_again_and_given_up_in_the_end(tmp_path: Path) -> None:
    plugins = tmp_path / "plugins"
    plugins.mkdir()
    deployment = with_wrapping_store(tmp_path, plugins, **QUICK | {"queue.retry_seconds": 0.3, "queue.max_attempts": 4})
    try:
        api = deployment.api()
        (plugins / "generates").touch()
        (plugins / "down").touch()
        given_up = await api.order()
        order = await api.finished(given_up)
        assert (order["status"], order["error_status_code"]) == ("ERROR", "503")
        assert order["error_reason"] == "The wrapping store is out of reach."
        tried_again = await api.order()
        assert (await api.get(tried_again)).json["status"] == "PENDING"
        (plugins / "down").unlink()
        assert (await api.finished(tried_again))["status"] == "ACTIVE"
        assert (await api.get(given_up)).json == order
        assert (await api.get("/v1/secrets")).json["total"] == 1 == len(list((plugins / "payloads").iterdir()))
    finally:
        deployment.stop()


@pytest_twisted.ensureDeferred
async def test_an_order_that_its_worker_always_dies_of_ends_with_a_reason(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, **{"queue.max_attempts": 2, "queue.lease_seconds": 1})
    try:
        await cluster.start(apis=1, workers=0)
        api = cluster.apis[0]
        reply = await api.post("/v1/orders", {"type": "asymmetric", "meta": {"algorithm": "dsa", "bit_length": 4096}})
        for _ in range(2):
            worker = await cluster.start_worker()
            while "processing order" not in worker.read_log():
                await pause(0.02)
            await pause(0.2)
            worker.kill()
        cluster.workers.append(await cluster.start_worker())
        order = await api.finished(reply.json["order_ref"])
        assert (order["status"], order["error_status_code"]) == ("ERROR", "503")
        assert order["error_reason"].startswith("Process TypeOrder issue seen - the order was attempted 2 times"), order
        figures = await cluster.settle()
        assert (figures.stuck, figures.orphans) == (0, 0), figures
    finally:
        await cluster.stop()


@pytest_twisted.ensureDeferred
async def test_orders_of_an_api_that_died_between_commit_and_publish_are_published_by_others(cluster: Cluster) -> None:
    # It cannot publish: whatever it accepts is committed, and no more.
    doomed = await cluster.start_api(
        transport_url="rabbit://127.0.0.1:1/", **{"retry_scheduler.initial_delay_seconds": 1000}
    )
    for _ in range(10):
        cluster.accepted.add((await doomed.order()).rpartition("/")[2])
    doomed.process.kill()
    figures = await cluster.settle()
    assert figures.flawless, figures


@pytest_twisted.ensureDeferred
async def test_a_network_that_swallows_everything_is_noticed_within_three_heartbeats(cluster: Cluster) -> None:
    # The connections of barbtx's processes; those to the broker are kept by the proxy itself.
    clients = [half for half in cluster.proxy.halves if half.is_client]
    assert len(clients) >= len(cluster.processes)
    cluster.proxy.swallows = True
    begin = _reactor().seconds()
    while not cluster.proxy.halves.isdisjoint(clients):
        assert _reactor().seconds() - begin < PATIENCE
        await pause(0.05)
    took = _reactor().seconds() - begin
    cluster.proxy.cut()
    cluster.proxy.swallows = False
    # TCP alone would notice it after a quarter of an hour; the exact time is that of the machine's other work too.
    assert took < 60, took
    await cluster.place(10)
    assert (await cluster.settle()).flawless


@pytest_twisted.ensureDeferred
async def test_a_database_killed_in_the_middle_leaves_no_half_secret(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    stored: dict[str, bytes] = {}
    try:
        await cluster.start(apis=2, workers=0)

        async def store(n: int) -> None:
            body = {"payload": f"payload {n}", "payload_content_type": "text/plain"}
            while True:
                reply = await cluster.apis[n % 2].post("/v1/secrets", body)
                if reply.status == 201:
                    stored[reply.json["secret_ref"]] = body["payload"].encode()
                    return
                assert reply.status == 503 and "retry-after" in reply.headers, reply
                await pause(0.2)

        turns = DeferredSemaphore(16)
        storing = gatherResults([turns.run(lambda n=n: Deferred.fromCoroutine(store(n))) for n in range(200)])
        for _ in range(2):
            while len(stored) < 30:
                await pause(0.01)
            await Faults(cluster).kill_database()
        await storing
        for ref, payload in stored.items():
            reply = await cluster.apis[0].get(f"{ref}/payload")
            assert (reply.status, reply.content) == (200, payload)
        with cluster.engine().connect() as connection:
            halves = connection.exec_driver_sql(
                "SELECT count(*) FROM secrets s FULL JOIN encrypted_data d ON d.secret_id = s.id "
                "WHERE s.id IS NULL OR d.secret_id IS NULL"
            ).scalar()
        assert halves == 0
    finally:
        await cluster.stop()

"""What operators read in the logs of real processes."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from pathlib import Path

import psutil
import pytest
import pytest_twisted
from twisted.internet.defer import Deferred, gatherResults
from twisted.logger import capturedLogs, formatEvent

from barbtx.errors import ServiceUnavailable
from tests.conftest import unique
from tests.functional.test_keystone_projects import directory
from tests.support.cluster import pause
from tests.support.servers import PostgreSQL, RabbitMQ, free_port, wait_until
from tests.support.service import BIN, DEV_CONFIG, Deployment, Process, with_keystone
from tests.support.stub_keystone import OWN, StubKeystone


def entries(process: Process) -> list[dict]:
    """A process's JSON lines; every line must be one."""
    return [json.loads(line) for line in process.read_log().splitlines()]


def of_requests(process: Process, status: int) -> list[dict]:
    return [entry for entry in entries(process) if entry.get("status") == status]


@pytest.fixture
def deployment(tmp_path: Path):
    """One with JSON logs, on SQLite."""
    deployment = Deployment(tmp_path, f"sqlite:///{tmp_path}/barbtx.sqlite", log_format="json")
    yield deployment
    deployment.stop()


@pytest_twisted.ensureDeferred
async def test_every_request_has_a_line_with_its_reason_and_what_it_created(deployment: Deployment) -> None:
    api = deployment.api()
    ref = await api.store("a payload that nobody may see", name="n")
    order_ref = await api.order()
    marker = "payload-marker-5150"
    await api.post("/v1/secrets", {"payload": {"x": marker}, "payload_content_type": "text/plain"})
    await api.request(
        "POST", "/v1/secrets", data=b'{"payload": "payload-marker-5150', headers={"Content-Type": "application/json"}
    )
    await api.post("/v1/secrets", {"name": marker * 100, "payload": marker, "payload_content_type": "no/such"})
    await api.delete(ref, roles="observer")
    await api.request(
        "PUT",
        f"/v1/project-quotas/{api.project}",
        json={"project_quotas": {"secrets": 0}},
        roles="key-manager:service-admin",
    )
    await api.post("/v1/secrets", {"payload": marker, "payload_content_type": "text/plain"})
    await api.get("/healthcheck")
    process = api.process
    # The line of a request is written some time after the response; the health check is not logged.
    wait_until(lambda: len(of_requests(process, 403)) == 2, 30, "the last request is not logged")
    assert marker not in process.read_log()
    created = of_requests(process, 201)
    assert [entry["object_id"] for entry in created] == [ref.rpartition("/")[2]]
    (ordered,) = of_requests(process, 202)
    assert ordered["object_id"] == order_ref.rpartition("/")[2]
    for entry in of_requests(process, 400):
        assert entry["reason"] and entry["client"] == "127.0.0.1" and entry["request_id"].startswith("req-")
    assert len(of_requests(process, 400)) == 3
    forbidden, quota = of_requests(process, 403)
    assert forbidden["rule"] == "secret:delete" and "not allowed" in forbidden["reason"]
    assert "quota" in quota["reason"]
    assert not [entry for entry in entries(process) if "/healthcheck" in entry["message"]]


@pytest_twisted.ensureDeferred
async def test_what_a_client_sends_makes_no_line_of_its_own(tmp_path: Path) -> None:
    deployment = Deployment(tmp_path, f"sqlite:///{tmp_path}/barbtx.sqlite", log_level="debug")
    try:
        api = deployment.api()
        await api.get("/v1/secrets/%0A2026-01-01T00:00:00+0000%20[barbtx%23info]%20forged%20%1b[31m")
        await api.get("/v1/secrets?name=%0Aforged", user="x\x85forged\u2028y")
        await api.get("/healthcheck")
        # The line of a request is written some time after the response.
        wait_until(lambda: "GET /healthcheck" in api.process.read_log(), 30, "the last request is not logged")
        log = api.process.read_log()
        assert not [line for line in log.splitlines() if not re.match(r"\d{4}-\d\d-\d\dT\S+ \[[^]]+#\w+\] ", line)], log
        assert "\x1b" not in log and "GET /healthcheck 200" in log
    finally:
        deployment.stop()


@pytest_twisted.ensureDeferred
async def test_a_process_that_is_told_to_end_loses_no_line(deployment: Deployment) -> None:
    api = deployment.api()
    replies = await gatherResults([Deferred.fromCoroutine(api.get("/v1/secrets")) for _ in range(20)])
    assert api.process.stop() == 0
    assert {entry["request_id"] for entry in of_requests(api.process, 200)} == {
        reply.headers["x-openstack-request-id"] for reply in replies
    }


@pytest_twisted.ensureDeferred
async def test_an_order_s_lines_carry_its_ids_in_every_process(
    postgresql: PostgreSQL, rabbitmq: RabbitMQ, tmp_path: Path
) -> None:
    deployment = Deployment(
        tmp_path, postgresql.new_database(unique()), rabbitmq.url, unique("tasks."), log_format="json"
    )
    try:
        worker, api = deployment.worker(), deployment.api()
        reply = await api.post("/v1/orders", {"type": "key", "meta": {"algorithm": "aes", "bit_length": 256}})
        order_ref = reply.json["order_ref"]
        await api.finished(order_ref)
        order_id, request_id = order_ref.rpartition("/")[2], reply.headers["x-openstack-request-id"]
        wait_until(lambda: "processed order" in worker.read_log(), 30, "the worker did not log it")
        lines = [entry for entry in entries(worker) if "order" in entry["message"] and "processe" in entry["message"]]
        assert lines and all((entry["order_id"], entry["request_id"]) == (order_id, request_id) for entry in lines)
        wait_until(lambda: of_requests(api.process, 202), 30, "the request is not logged")
        (posted,) = of_requests(api.process, 202)
        assert (posted["request_id"], posted["order_id"], posted["object_id"]) == (request_id, order_id, order_id)
    finally:
        deployment.stop()


@pytest_twisted.ensureDeferred
async def test_outages_are_told_in_a_few_short_lines(tmp_path: Path) -> None:
    database, broker = PostgreSQL(), RabbitMQ()
    try:
        database.start()
        broker.start()
        deployment = Deployment(
            tmp_path,
            database.new_database("barbtx"),
            broker.url,
            "tasks",
            log_format="json",
            **{"retry_scheduler.initial_delay_seconds": 0.2, "retry_scheduler.periodic_interval_max_seconds": 0.2},
        )
        try:
            worker, api = deployment.worker(), deployment.api()
            await api.order()
            broker.kill()
            database.kill()
            for _ in range(10):
                replies = await gatherResults([Deferred.fromCoroutine(api.get("/v1/secrets")) for _ in range(10)])
                assert {reply.status for reply in replies} == {503}
            await pause(3)
            database.start()

            async def answered() -> bool:
                return (await api.get("/v1/secrets")).status == 200

            while not await answered():
                await pause(0.1)
            for process in (worker, api.process):
                log = process.read_log()
                for noise in ("Traceback", "_RoundRobinEndpoint", "Starting factory", "critical", "Unhandled"):
                    assert noise not in log, log
                lines = [entry for entry in entries(process) if not entry.get("status")]
                broken = [entry for entry in lines if f"127.0.0.1:{broker.port} cannot be reached" in entry["message"]]
                assert broken and "refused" in broken[0]["reason"] and len(broken) < 20
                assert all(len(entry["message"]) < 500 for entry in lines)
            (first, *more) = [
                entry for entry in entries(api.process) if entry["message"].startswith("database unavailable")
            ]
            assert len(more) < 20 and any(text in first["cause"] for text in ("refused", "server closed", "SQLSTATE"))
            # What is done between requests may find out first.
            assert first.get("request_id", "req-").startswith("req-") and first["level"] == "warn"
            assert all(entry["cause"] for entry in of_requests(api.process, 503))
        finally:
            deployment.stop()
    finally:
        database.stop()
        broker.stop()


@pytest_twisted.ensureDeferred
async def test_a_keystone_that_is_down_is_told_in_a_line(tmp_path: Path) -> None:
    deployment = with_keystone(tmp_path, f"http://127.0.0.1:{free_port()}/v3", log_format="json")
    try:
        api = deployment.api().by("a" * 32)
        for _ in range(5):
            assert (await api.get("/v1/secrets")).status == 503
        log = api.process.read_log()
        assert "does not respond" in log and "Traceback" not in log and "Starting factory" not in log
    finally:
        deployment.stop()


@pytest.mark.parametrize(
    ("option", "settings", "expected"),
    [
        ("--logfile", {}, r"\S+ \[barbtx.api.listener#info\] barbtx listens on http://\S+$"),
        ("--logfile", {"log_format": "json"}, r'.*"message": "barbtx listens on http://'),
        ("--logfile", {"log_level": "error"}, None),
        ("--logger=barbtx.log.json_lines", {"log_format": "text"}, r'.*"message": "barbtx listens on http://'),
        (
            "--logger=barbtx.log.text_lines",
            {"log_format": "json"},
            r"\S+ \[barbtx.api.listener#info\] barbtx listens on",
        ),
    ],
)
def test_twistd_says_where_to_and_the_options_say_how(
    tmp_path: Path, option: str, settings: dict[str, str], expected: str | None
) -> None:
    deployment = Deployment(tmp_path, f"sqlite:///{tmp_path}/barbtx.sqlite", **settings)
    sets = [part for key, value in deployment.settings.items() for part in ("--set", f"{key}={value}")]
    path = tmp_path / "out.log"
    where = ["--logfile", str(path)] if option == "--logfile" else [option]
    with open(tmp_path / "stdout", "wb") as stdout:
        command = [BIN / "twistd", "-n", "--pidfile=", *where, "barbtx", "--config-file", DEV_CONFIG, *sets]
        process = subprocess.Popen(command, stdout=stdout, stderr=stdout)
    written = path if option == "--logfile" else tmp_path / "stdout"
    try:
        if expected is None:
            wait_until(lambda: process.poll() is not None or _listening(process.pid), 60, "it does not listen")
            assert not written.exists() or "listens" not in written.read_text()
        else:
            wait_until(
                lambda: written.exists() and re.search(expected, written.read_text(), re.MULTILINE),
                60,
                "it does not say so",
            )
    finally:
        process.terminate()
        process.wait(30)


def _listening(pid: int) -> bool:
    return any(connection.status == psutil.CONN_LISTEN for connection in psutil.Process(pid).net_connections())


@pytest_twisted.ensureDeferred
async def test_keystone_s_silence_and_its_end_are_told_with_their_cause() -> None:
    stub = StubKeystone()
    stub.listen()
    projects = directory(stub.settings)
    # No connection of before must be left, which would be answered still.
    await stub.close()
    with capturedLogs() as events:
        for _ in range(4):
            with pytest.raises(ServiceUnavailable) as caught:
                await projects.exists(OWN)
            assert caught.value.debug["cause"] == "Keystone does not respond: ConnectionRefusedError"
        stub.listen()
        # The circuit lets a try through after a time.
        await pause(0.2)
        assert await projects.exists(OWN)
    told = [formatEvent(event) for event in events if event.get("log_namespace", "").startswith("barbtx")]
    assert [line.partition(" at ")[0] for line in dict.fromkeys(told)] == ["Keystone", "Keystone"]
    assert told[-1].endswith("responds again") and sum("again" in line for line in told) == 1
    await stub.close()


@pytest_twisted.ensureDeferred
async def test_a_database_that_is_silent_is_named_by_api_and_worker(tmp_path: Path, rabbitmq: RabbitMQ) -> None:
    database = PostgreSQL()
    try:
        database.start()
        deployment = Deployment(tmp_path, database.new_database("b"), rabbitmq.url, unique("tasks."), log_format="json")
        try:
            api, worker = deployment.api(), deployment.worker()
            await api.finished(await api.order())
            database.signal(signal.SIGSTOP)
            # The worker has looked for due tasks, and its scheduler does so all the time.
            reply = await api.get("/v1/secrets")
            assert reply.status == 503
            wait_until(
                lambda: "database unavailable: no response in time" in worker.read_log(), 60, "the worker says nothing"
            )
            database.signal(signal.SIGCONT)
            (line,) = [
                entry
                for entry in entries(api.process)
                if entry["message"].endswith("no response in time")
                and entry.get("request_id") == reply.headers["x-openstack-request-id"]
            ]
            assert line["level"] == "warn" and line["project_id"] == api.project
            await api.finished(await api.order())
            wait_until(lambda: "responds again" in worker.read_log(), 60, "the worker does not say that it is over")
        finally:
            deployment.stop()
    finally:
        database.stop()


@pytest.mark.parametrize("level", ["info", "debug"])
@pytest_twisted.ensureDeferred
async def test_no_request_puts_its_query_or_what_the_process_knows_into_the_log(tmp_path: Path, level: str) -> None:
    keystone = StubKeystone()
    keystone.listen()
    deployment = with_keystone(tmp_path, keystone.url, **keystone.settings, log_level=level)
    try:
        user = keystone.add_user("known-user-5150", "p")
        project = keystone.add_project("known", "known-project-5150")
        keystone.grant(user, "member", project)
        api = deployment.api()
        known = api.by(keystone.issue_token(user, project))
        assert (await known.get("/v1/secrets")).status == 200
        # The line of a request is written some time after the response.
        wait_until(lambda: "GET /v1/secrets 200" in api.process.read_log(), 30, "the request is not logged")
        seen = len(api.process.read_log())
        for path in (
            "/healthcheck",
            "/openapi.json",
            "/",
            "/v1/secrets",
            "/v1/secrets/x/payload",
            "/v1/%2F",
            "/none",
        ):
            for method in ("HEAD", "GET", "OPTIONS", "POST"):
                for token in (None, "a" * 32):
                    await api.by(token).request(method, f"{path}?trans_wrapped_session_key=query-5150")
        wait_until(lambda: "POST /none" in api.process.read_log(), 30, "the last request is not logged")
        lines = api.process.read_log()[seen:].splitlines()
        # A request id may contain the digits alone.
        assert not [line for line in lines if re.search("(query|user|project)-5150", line) or len(line) > 500], lines
        assert level == "debug" or not [line for line in lines if re.search("(HEAD|GET) /healthcheck 200", line)]
    finally:
        deployment.stop()
        await keystone.close()

"""Several API processes on one port: clients see one service, whatever happens to one of its processes."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import pytest_twisted
import treq
from treq.client import HTTPClient
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.error import ConnectError
from twisted.internet.task import deferLater
from twisted.web.client import Agent, HTTPConnectionPool

from tests.conftest import unique
from tests.functional.test_lifecycle import Behaving, refusal
from tests.support.logs import logged
from tests.support.servers import PATIENCE, free_port, wait_until
from tests.support.service import BIN, DEV_CONFIG, Api, Deployment, Process

IN_FORCE = "the list of master keys was reloaded and is in effect"


@pytest.fixture
def deployment(tmp_path: Path) -> Iterator[Deployment]:
    """A deployment whose API consists of two processes, with a configuration file of its own."""
    deployment = Deployment(tmp_path, f"sqlite:///{tmp_path}/barbtx.sqlite", **{"api.workers": 2})
    config = tmp_path / "own.conf"
    config.touch(0o600)
    deployment.config_files.append(config)
    yield deployment
    deployment.stop()


@pytest.fixture
def behaving(tmp_path: Path) -> Iterator[Behaving]:
    deployment = Behaving(tmp_path)
    yield deployment
    deployment.stop()


@pytest.fixture(scope="module")
def unchanged(tmp_path_factory: pytest.TempPathFactory) -> Deployment:
    """A deployment for starts that are refused."""
    directory = tmp_path_factory.mktemp("unchanged")
    return Deployment(directory, f"sqlite:///{directory}/barbtx.sqlite", **{"api.workers": 2})


def workers(process: Process) -> dict[int, psutil.Process]:
    """The processes that serve, by process id."""
    return {child.pid: child for child in psutil.Process(process.process.pid).children()}


def served_by(process: Process) -> set[int]:
    """The processes that have answered requests, according to the log."""
    lines = [line for line in process.read_log().splitlines() if "barbtx.api.access_log" in line]
    return {int(re.search(r"pid=(\d+)", line)[1]) for line in lines}


class Load:
    """Clients that send one request after the other, each on a connection of its own or all on one they keep."""

    def __init__(self, api: Api, *, persistent: bool, clients: int = 4) -> None:
        from twisted.internet import reactor

        self.answered = 0
        self.failed: list[BaseException] = []
        self._api = api
        self._stopping = False
        self._pools = [HTTPConnectionPool(reactor, persistent=persistent) for _ in range(clients)]
        for pool in self._pools:
            # A request on a connection that the service has closed must not be repeated without being counted.
            pool.retryAutomatically = False
        self._running = [
            Deferred.fromCoroutine(self._send(HTTPClient(Agent(reactor, pool=pool)))) for pool in self._pools
        ]

    async def _send(self, client: HTTPClient) -> None:
        headers = {"X-Project-Id": "project", "X-User-Id": "user", "X-Roles": "admin"}
        while not self._stopping:
            try:
                response = await client.get(f"{self._api.url}/v1/secrets", headers=headers, timeout=PATIENCE)
                content = await treq.json_content(response)
                assert response.code == 200, content
                self.answered += 1
            except Exception as problem:
                self.failed.append(problem)
                if isinstance(problem, ConnectError):
                    return

    async def more(self, count: int = 20) -> None:
        """Wait for so many further answers."""
        from twisted.internet import reactor

        wanted = self.answered + count
        while self.answered < wanted:
            assert any(not running.called for running in self._running), self.failed
            await deferLater(reactor, 0.01, lambda: None)

    async def stop(self) -> list[BaseException]:
        """Let each client finish; the requests that failed."""
        self._stopping = True
        await gatherResults(self._running)
        await gatherResults([pool.closeCachedConnections() for pool in self._pools])
        return self.failed


async def until(process: Process, condition, what: str) -> None:
    """Wait for a condition without blocking the clients."""
    from twisted.internet import reactor

    end = reactor.seconds() + PATIENCE
    while not condition():
        assert reactor.seconds() < end, f"{what}: {process.read_log()}"
        await deferLater(reactor, 0.02, lambda: None)


@pytest_twisted.ensureDeferred
async def test_clients_of_two_processes_see_one_service(deployment: Deployment) -> None:
    api = deployment.api()
    process = api.process
    assert process.read_log().count("barbtx listens on") == 1
    assert len(workers(process)) == 2
    ref = await api.store("shared")
    payloads = [await api.get(f"{ref}/payload", headers={"Accept": "text/plain"}) for _ in range(40)]
    assert {reply.content for reply in payloads} == {b"shared"}
    # A process without a broker works on the orders that it receives; every process shows them.
    for order in [await api.order() for _ in range(10)]:
        assert (await api.finished(order))["status"] == "ACTIVE"
    assert served_by(process) == set(workers(process))
    assert process.stop() == 0
    assert "Traceback" not in process.read_log()


@pytest_twisted.ensureDeferred
async def test_a_killed_process_is_replaced_and_only_its_requests_fail(deployment: Deployment) -> None:
    api = deployment.api()
    before = workers(api.process)
    load = Load(api, persistent=False)
    await load.more()
    victim = next(iter(before))
    before[victim].kill()
    await logged(api.process, "accepts connections", 3)
    await load.more()
    failed = await load.stop()
    # For each client the request in flight, and at most one that was assigned to the process before the parent knew.
    assert len(failed) <= 8 and not any(isinstance(problem, ConnectError) for problem in failed), failed
    assert f"process id {victim}, was killed by signal 9" in api.process.read_log()
    after = set(workers(api.process))
    assert len(after) == 2 and victim not in after
    assert api.process.stop() == 0


@pytest_twisted.ensureDeferred
async def test_the_others_get_all_connections_when_a_process_stops_by_itself(deployment: Deployment) -> None:
    api = deployment.api()
    before = workers(api.process)
    victim = next(iter(before))
    # Its shutdown waits half a second for connections that were just in use, and for further requests on them.
    persistent = Load(api, persistent=True)
    await persistent.more()
    load = Load(api, persistent=False)
    await load.more()
    before[victim].terminate()
    await logged(api.process, "accepts connections", 3)
    await load.more()
    failed = await load.stop() + await persistent.stop()
    # A connection that arrives in the instant in which the process closes its socket is reset.
    assert len(failed) <= 2, failed
    assert f"process id {victim}, ended with exit status 0" in api.process.read_log()
    assert api.process.stop() == 0


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGABRT])
def test_no_process_outlives_the_parent(deployment: Deployment, number: int) -> None:
    port = free_port()
    process = deployment.api(**{"api.bind_port": port}).process
    children = workers(process)
    process.process.send_signal(number)
    process.process.wait()
    _, alive = psutil.wait_procs(children.values(), PATIENCE)
    assert not alive
    # The next one can start.
    assert deployment.api(**{"api.bind_port": port}).process.stop() == 0


@pytest.mark.parametrize("persistent", [False, True])
@pytest_twisted.ensureDeferred
async def test_changed_options_take_effect_without_a_failed_request(deployment: Deployment, persistent: bool) -> None:
    (config,) = deployment.config_files
    api = deployment.api()
    for _ in range(3):
        await api.store()
    before = set(workers(api.process))
    load = Load(api, persistent=persistent)
    await load.more()
    config.write_text("[DEFAULT]\ndefault_limit_paging = 2\n")
    api.process.process.send_signal(signal.SIGHUP)
    await logged(api.process, "all API processes were replaced; [DEFAULT] default_limit_paging is in effect")
    await load.more()
    assert await load.stop() == []
    after = set(workers(api.process))
    assert len(after) == 2 and not after & before
    assert {len((await api.get("/v1/secrets")).json["secrets"]) for _ in range(10)} == {2}
    assert api.process.stop() == 0
    assert "Traceback" not in api.process.read_log()


@pytest_twisted.ensureDeferred
async def test_without_changed_options_the_processes_reload_one_after_the_other(deployment: Deployment) -> None:
    api = deployment.api()
    process, before = api.process, set(workers(api.process))
    process.process.send_signal(signal.SIGHUP)
    await logged(process, IN_FORCE, 2)
    reloads = re.findall(r"(reloading|master keys was reloaded and is in effect) \[pid=(\d+)\]", process.read_log())
    (first, one), (second, two), (third, three), (fourth, four) = reloads
    assert (first, second, third, fourth) == (first, IN_FORCE[12:], first, IN_FORCE[12:])
    assert one == two != three == four and {int(one), int(three)} == before == set(workers(process))
    # Whoever signals all processes means the service.
    for pid in before:
        psutil.Process(pid).send_signal(signal.SIGHUP)
        psutil.Process(pid).send_signal(signal.SIGUSR1)
    assert (await api.get("/v1/secrets")).status == 200
    assert process.stop() == 0
    assert process.read_log().count(IN_FORCE) == 2 and "report:" not in process.read_log()


@pytest_twisted.ensureDeferred
async def test_what_cannot_be_reloaded_changes_nothing(deployment: Deployment) -> None:
    (config,) = deployment.config_files
    api = deployment.api()
    process, before = api.process, set(workers(api.process))
    config.write_text("[api]\nidle_timeout = 1\n")
    process.process.send_signal(signal.SIGHUP)
    await logged(process, "the configuration was refused, and the previous one stays in effect", 2)
    # The policy is another part.
    await logged(process, "the policy was reloaded and is in effect", 2)
    config.write_text("[DEFAULT]\nlog_format = json\ngraceful_shutdown_timeout = 30\nstart_check_seconds = 20\n")
    process.process.send_signal(signal.SIGHUP)
    fixed = "[DEFAULT] graceful_shutdown_timeout, [DEFAULT] log_format, [DEFAULT] start_check_seconds"
    await logged(process, f"changed, but not in effect until a restart: {fixed}")
    await logged(process, IN_FORCE, 2)
    assert set(workers(process)) == before
    assert {(await api.get("/v1/secrets")).status for _ in range(10)} == {200}
    assert process.stop() == 0


@pytest_twisted.ensureDeferred
async def test_a_configuration_with_which_no_process_starts_leaves_the_old_ones_running(tmp_path: Path) -> None:
    deployment = Deployment(tmp_path, f"sqlite:///{tmp_path}/barbtx.sqlite", **{"api.workers": 2})
    config = tmp_path / "own.conf"
    config.write_text(f"[database]\nconnection = {deployment.settings.pop('database.connection')}\n")
    config.chmod(0o600)
    deployment.config_files.append(config)
    try:
        api = deployment.api()
        process, before = api.process, set(workers(api.process))
        config.write_text(f"[database]\nconnection = sqlite:///{tmp_path}/none.sqlite\n")
        process.process.send_signal(signal.SIGHUP)
        await logged(process, "an API process cannot be replaced")
        assert "barbtx-manage db upgrade" in process.read_log()
        assert set(workers(process)) == before
        assert {(await api.get("/v1/secrets")).status for _ in range(10)} == {200}
        assert process.stop() == 0
    finally:
        deployment.stop()


@pytest_twisted.ensureDeferred
async def test_a_process_takes_no_connections_from_others_before_its_check_has_passed(behaving: Behaving) -> None:
    config = behaving.directory / "own.conf"
    config.touch(0o600)
    behaving.config_files.append(config)
    api = behaving.api(**{"api.workers": 2})
    behaving.behave("ConnectionRefusedError")
    config.write_text("[DEFAULT]\ndefault_limit_paging = 2\n")
    api.process.process.send_signal(signal.SIGHUP)
    await logged(api.process, "the startup check is not complete; the process does not listen until it is")
    assert {(await api.get("/v1/secrets")).status for _ in range(10)} == {200}
    behaving.behave("")
    await logged(api.process, "all API processes were replaced")
    assert {(await api.get("/v1/secrets")).status for _ in range(10)} == {200}
    assert api.process.stop() == 0


@pytest_twisted.ensureDeferred
async def test_a_process_that_cannot_start_again_is_tried_again_and_the_other_one_serves(
    deployment: Deployment,
) -> None:
    api = deployment.api()
    process, key = api.process, deployment.directory / "mkek"
    away = key.rename(key.with_name("away"))
    victim = next(iter(workers(process).values()))
    victim.kill()
    await logged(process, "ended with exit status 1")
    # Connections do not wait for the one that is missing.
    assert {(await api.get("/v1/secrets")).status for _ in range(20)} == {200}
    away.rename(key)
    await logged(process, "accepts connections", 3)
    await until(process, lambda: len(workers(process)) == 2, "the process does not come back")
    assert process.stop() == 0


@pytest.mark.parametrize("persistent", [False, True])
@pytest_twisted.ensureDeferred
async def test_a_stop_answers_the_requests_that_have_arrived(deployment: Deployment, persistent: bool) -> None:
    from twisted.internet.threads import deferToThread

    api = deployment.api()
    load = Load(api, persistent=persistent)
    await load.more()
    assert await deferToThread(api.process.stop) == 0
    refused = [problem for problem in await load.stop() if isinstance(problem, ConnectError)]
    assert len(refused) == 4
    # A connection that arrives in the instant in which a process closes its socket is reset.
    assert len(load.failed) - len(refused) <= (0 if persistent else 2), load.failed
    assert not psutil.pid_exists(api.process.process.pid) and "Traceback" not in api.process.read_log()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"database.connection": "sqlite:////none/none.sqlite"}, "no directory"),
        ({"simple_crypto_plugin.kek_file": "/none/mkek"}, "/none/mkek"),
        ({"api.workers": 65}, "[api] workers"),
        ({"oslo_policy.policy_file": "/none/policy.yaml"}, "/none/policy.yaml"),
    ],
)
def test_a_start_that_is_refused_says_why_once(unchanged: Deployment, settings: dict, said: str) -> None:
    assert said in refusal(unchanged, **settings)


def test_a_port_in_use_refuses_the_start(unchanged: Deployment, deployment: Deployment) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        line = refusal(unchanged, **{"api.bind_port": taken.getsockname()[1]})
    assert "([api] bind_host, bind_port): Address already in use" in line
    # The system would let the same user's services share a port.
    port = free_port()
    deployment.api(**{"api.bind_port": port})
    for count in (1, 2):
        line = refusal(unchanged, **{"api.bind_port": port, "api.workers": count})
        assert f"cannot listen on 127.0.0.1:{port} " in line and "Address already in use" in line


@pytest_twisted.ensureDeferred
async def test_reports_cover_all_processes_and_each_line_names_its_own(deployment: Deployment) -> None:
    api = deployment.api(log_format="json")
    process = api.process
    process.process.send_signal(signal.SIGUSR1)
    await logged(process, "report: options [retry_scheduler]", 3)
    lines = [json.loads(line) for line in process.read_log().splitlines()]
    pids = set(workers(process))
    assert {line.get("pid") for line in lines if line["message"].startswith("report: http:")} == pids
    (own,) = [line for line in lines if line["message"].startswith("report: API processes:")]
    assert "pid" not in own
    assert set(map(int, re.findall(r"process id (\d+), up \d+ s, 0 restarts", own["message"]))) == pids
    assert process.stop() == 0


def test_a_daemon_writes_one_log_and_stops_with_its_processes(deployment: Deployment) -> None:
    directory, port = deployment.directory, free_port()
    pid_file, log_file = directory / "barbtx.pid", directory / "daemon.log"
    sets = [part for name, value in deployment.settings.items() for part in ("--set", f"{name}={value}")]
    command = [BIN / "twistd", f"--pidfile={pid_file}", f"--logfile={log_file}", "barbtx"]
    command += ["--config-file", DEV_CONFIG, *sets, "--set", f"api.bind_port={port}"]

    def start() -> subprocess.CompletedProcess:
        return subprocess.run(command, capture_output=True, timeout=PATIENCE, cwd=directory)

    assert start().returncode == 0
    wait_until(lambda: log_file.exists() and "barbtx listens on" in log_file.read_text(), PATIENCE, "no daemon")
    daemon = psutil.Process(int(pid_file.read_text()))
    children = daemon.children()
    try:
        assert len(children) == 2
        for child in children:
            assert f"accepts connections [pid={child.pid}]" in log_file.read_text()
        assert start().returncode != 0
    finally:
        daemon.terminate()
    with contextlib.suppress(psutil.NoSuchProcess):
        daemon.wait(PATIENCE)
    assert not psutil.wait_procs(children, 0)[1] and not pid_file.exists()


def test_errors_in_the_configuration_are_reported_before_a_daemon_detaches(deployment: Deployment) -> None:
    name = unique("no-option")
    finished = subprocess.run(
        [
            *(BIN / "twistd", "--pidfile=", "barbtx", "--config-file", DEV_CONFIG),
            *("--set", "api.workers=2", "--set", f"api.{name}=1", "--set", "database.connection=sqlite://"),
        ],
        capture_output=True,
        timeout=PATIENCE,
        cwd=deployment.directory,
        text=True,
    )
    assert finished.returncode == 1
    assert name in finished.stderr and "SQLite needs a file" in finished.stderr

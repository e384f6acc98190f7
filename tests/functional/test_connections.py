"""One client cannot keep the others out: connections, the reserve for the health check, and waits for orders."""

from __future__ import annotations

import contextlib
import resource
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import pytest_twisted
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import Clock
from twisted.internet.threads import deferToThread

from barbtx.api.connections import Connections
from barbtx.api.options import share
from barbtx.networks import client_group, network, parse_address, reported_client
from tests.support.listening import CLOSE, Listening, Raw, exchange
from tests.support.servers import wait_until
from tests.support.service import Api, Deployment

GET = b"GET / HTTP/1.1\r\nHost: h\r\n" + CLOSE + b"\r\n"
HEALTH = b"GET /healthcheck HTTP/1.1\r\nHost: h\r\n\r\n"
HOLD = b"GET /hold HTTP/1.1\r\nHost: h\r\n\r\n"
SLOW = {"request_timeout": 60, "idle_timeout": 60}


@contextlib.contextmanager
def held(port: int, count: int, sent: bytes = b"", source: str = "127.0.0.1") -> Iterator[list[socket.socket]]:
    """So many connections, open for as long as the context lasts."""
    with contextlib.ExitStack() as stack:
        clients = []
        for _ in range(count):
            client = socket.create_connection(("127.0.0.1", port), timeout=60, source_address=(source, 0))
            stack.enter_context(client)
            client.sendall(sent)
            clients.append(client)
        yield clients


async def listening(**limits: Any) -> Listening:
    from twisted.internet import reactor

    return Listening(reactor, **{**SLOW, **limits})


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"])
@pytest_twisted.ensureDeferred
async def test_connections_without_a_request_are_evicted(sent: bytes) -> None:
    """Whether none was ever sent, or the last one has been answered."""
    made = await listening(max_connections=5)
    made.site.connections.grace = 0

    def crowd() -> list[int]:
        with held(made.number, 30, sent):
            return [Raw.of(made.exchange(request)).status for request in (GET, HEALTH[:-2] + CLOSE + b"\r\n", GET)]

    assert await deferToThread(crowd) == [200, 200, 200]
    await made.stop()


@pytest.mark.parametrize("in_the_reserve", [b"", b"GET / HT"])
@pytest_twisted.ensureDeferred
async def test_when_all_are_busy_the_health_check_is_answered_and_others_are_told_why(in_the_reserve: bytes) -> None:
    made = await listening(max_connections=3, reserve=2)
    large = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000\r\n\r\n"

    def crowd() -> tuple[list[Raw], list[Raw]]:
        with held(made.number, 3, HOLD), held(made.number, 10, in_the_reserve):
            wait_until(lambda: made.echo.rendered == 3, 60, "the requests did not arrive")
            return [Raw.of(made.exchange(HEALTH)) for _ in range(20)], [
                Raw.of(made.exchange(*pieces)) for pieces in [(GET,), (HOLD,), (large, b"x" * 1000000), (HOLD, HOLD)]
            ]

    healthy, refused = await deferToThread(crowd)
    assert {answer.status for answer in healthy} == {200}
    for answer in refused:
        assert answer.status == 503 and answer.header("connection") == "close" and int(answer.header("retry-after")) > 0
        assert answer.header("x-openstack-request-id") and b'"code": 503' in answer.body
    assert made.echo.rendered == 3 + len(healthy)
    await made.stop()


@pytest_twisted.ensureDeferred
async def test_a_client_has_its_share_and_no_more() -> None:
    made = await listening(max_connections=20, max_connections_per_client=2)

    def crowd() -> list[int]:
        with held(made.number, 2, HOLD):
            wait_until(lambda: made.echo.rendered == 2, 60, "the requests did not arrive")
            return [
                Raw.of(made.exchange(GET, source=source)).status
                for source in ("127.0.0.1", "127.0.0.2", "127.0.0.1", "127.0.0.3")
            ]

    assert await deferToThread(crowd) == [503, 200, 503, 200]
    made.site.connections.trusted = (network("127.0.0.0/8"),)

    def proxied() -> int:
        with held(made.number, 8, HOLD):
            return Raw.of(made.exchange(GET)).status

    assert await deferToThread(proxied) == 200
    await made.stop()


class _Connection:
    def __init__(self, address: str) -> None:
        self.address, self.reserved, self.open = parse_address(address), False, True

    def evict(self) -> None:
        self.open = False


def test_what_is_counted_goes_back_to_nothing() -> None:
    connections = Connections(Clock(), 10, 3, 2, (network("10.0.0.0/8"),))
    made = [_Connection(address) for address in ("192.0.2.1", "10.0.0.1", "2001:db8::1", "2001:db8::2", "") * 5]
    for connection in made:
        connections.admit(connection)
        connections.mark_busy(connection)
    assert len(list(connections)) == 12 and sum(connection.open for connection in made) == 12
    for connection in made * 2:
        connections.remove(connection)
    assert not list(connections) and not connections._counts and not connections._idle and not connections._idle_of


def test_a_connection_is_evicted_only_when_it_had_time_to_send_something() -> None:
    clock = Clock()
    connections = Connections(clock, 2, 0, 1)
    first, second, third, fourth = (_Connection("192.0.2.1") for _ in range(4))
    for connection in (first, second, third):
        connections.admit(connection)
    assert third.reserved and first.open and second.open
    clock.advance(connections.grace)
    connections.mark_busy(first)
    connections.admit(fourth)
    assert not fourth.reserved and first.open and not second.open


@pytest.mark.parametrize(
    ("address", "group"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8::1", "2001:db8::/64"),
        ("2001:db8::ffff:1", "2001:db8::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("192.0.2.1:5000", "192.0.2.1"),
        ("[2001:db8::1]:80", "2001:db8::/64"),
    ],
)
def test_a_client_is_an_address_or_a_network_of_one_site(address: str, group: str) -> None:
    assert client_group(parse_address(address)) == group


@pytest.mark.parametrize(
    ("values", "client"),
    [
        ([], None),
        (["192.0.2.1"], "192.0.2.1"),
        (["1.1.1.1, 192.0.2.1"], "192.0.2.1"),
        (["1.1.1.1", "192.0.2.1"], "192.0.2.1"),
        (["192.0.2.1, 10.0.0.7"], "192.0.2.1"),
        (["10.0.0.8, 10.0.0.7"], "10.0.0.8"),
        (["unknown"], None),
        (["192.0.2.1, unknown"], None),
        (["x, 192.0.2.1:99"], "192.0.2.1"),
        ([" , "], None),
    ],
)
def test_the_client_of_a_proxy_is_the_last_address_that_is_no_proxys(values: list[str], client: str | None) -> None:
    found = reported_client(values, [network("10.0.0.0/8")])
    assert (found and str(found)) == client


@pytest.mark.parametrize(
    ("limit", "whole", "expected"),
    [(None, 2000, 500), (None, 20, 10), (None, 5, 5), (0, 2000, 0), (7, 2000, 7), (9000, 2000, 9000), (None, 0, 0)],
)
def test_a_share_is_a_quarter_unless_it_is_set(limit: int | None, whole: int, expected: int) -> None:
    assert share(limit, whole) == expected


_FIT = """
import resource
from barbtx.api.descriptor_limit import fit_to_descriptor_limit
resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))
print(fit_to_descriptor_limit(2000, 50), resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""


@pytest.mark.parametrize(
    ("soft", "hard", "connections", "raised"),
    [(3000, 3000, 2000, 3000), (256, 4000, 2000, 2762), (256, 1024, 262, 1024), (100, 100, 12, 100)],
)
def test_no_more_connections_fit_than_files_may_be_open(soft: int, hard: int, connections: int, raised: int) -> None:
    code = _FIT.format(soft=soft, hard=hard)
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == [str(connections), str(raised)]


@pytest.fixture
def deployment(tmp_path: Path) -> Iterator[Deployment]:
    """A service whose broker is away, so that an order stays PENDING."""
    deployment = Deployment(tmp_path, f"sqlite:///{tmp_path}/barbtx.sqlite", "rabbit://127.0.0.1:1/", "tasks")
    yield deployment
    deployment.stop()


def port_of(api: Api) -> int:
    return int(api.url.rpartition(":")[2])


@pytest.mark.parametrize("trusted", ["127.0.0.1", "192.0.2.1"])
@pytest_twisted.ensureDeferred
async def test_thousands_of_silent_sockets_keep_nobody_out(deployment: Deployment, trusted: str) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # The service inherits a low limit of open files and must raise it.
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        api = deployment.api(**{"api.trusted_proxies": trusted})
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    ref = await api.store()

    def silent() -> list[int]:
        def get(path: str) -> int:
            head = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nX-Project-Id: {api.project}\r\nConnection: close\r\n\r\n"
            return Raw.of(exchange(port_of(api), head.encode())).status

        path = ref.removeprefix(api.url)
        with held(port_of(api), 2500):
            assert get("/healthcheck") == 200
            # The last of them may still be about to send a request, for all that the service knows.
            wait_until(lambda: get(path) == 200, 60, "the silent sockets are not evicted")
            return [get(path) for path in ["/healthcheck", path] * 10]

    assert set(await deferToThread(silent)) == {200}
    assert psutil.Process(api.process.process.pid).num_fds() < 2200


@pytest_twisted.ensureDeferred
async def test_one_project_cannot_have_all_wait(deployment: Deployment) -> None:
    from twisted.internet import reactor

    api = deployment.api(**{"api.max_connections": 200})
    other = api.of("other")
    ref, others = await api.order(), await other.order()
    waits = [Deferred.fromCoroutine(api.get(ref, headers={"Prefer": "wait=60"}, timeout=120)) for _ in range(40)]
    replies: list[Any] = []
    enough: Deferred[None] = Deferred()

    def answered(reply: Any) -> None:
        replies.append(reply)
        if len(replies) == 28:
            enough.callback(None)

    for waiting in waits:
        waiting.addCallback(answered)
    # A quarter of the connections is for those who wait, and a quarter of that for each project.
    await enough.addTimeout(50, reactor)
    assert {(reply.status, reply.headers.get("preference-applied")) for reply in replies} == {(200, None)}
    assert (await api.get("/healthcheck")).status == 200
    assert (await other.get(others, headers={"Prefer": "wait=1"})).headers["preference-applied"] == "wait=1"
    api.process.kill()
    for waiting in waits:
        waiting.addErrback(lambda failure: None)


@pytest_twisted.ensureDeferred
async def test_a_client_cannot_have_all_wait_and_a_proxy_says_who_it_is(deployment: Deployment) -> None:
    api = deployment.api(**{"api.max_waiters_per_client": 1, "api.max_waiters_per_project": 100})
    ref = await api.order()

    async def applied(*clients: str | None) -> list[str | None]:
        sent = [{"Prefer": "wait=3", **({"X-Forwarded-For": client} if client else {})} for client in clients]
        replies = await gatherResults([Deferred.fromCoroutine(api.get(ref, headers=headers)) for headers in sent])
        return sorted(str(reply.headers.get("preference-applied")) for reply in replies)

    assert await applied("192.0.2.1", "192.0.2.1", "x, 192.0.2.1") == ["None", "None", "wait=3"]
    assert await applied("192.0.2.1", "192.0.2.2", None, None) == ["wait=3"] * 4


@pytest_twisted.ensureDeferred
async def test_a_preference_is_applied_only_where_it_was(deployment: Deployment) -> None:
    api = deployment.api()
    ref = await api.order()
    for preference, expected in (
        ("wait=0", None),
        ("wait=1", "wait=1"),
        ('respond-async, wait="1"', "wait=1"),
        ("wait", None),
    ):
        reply = await api.get(ref, headers={"Prefer": preference})
        assert reply.headers.get("preference-applied") == expected, preference
        assert ("Prefer" in reply.headers["vary"]) == (preference != "wait")
    for setting in ({"api.max_wait_seconds": 0}, {"api.max_waiters": 0}):
        never = deployment.api(**setting)
        reply = await never.get(ref.replace(api.url, never.url), headers={"Prefer": "wait=30"})
        assert reply.status == 200 and "preference-applied" not in reply.headers

"""Requests as they arrive: sizes, deadlines, disconnects, and paths that try to be something else."""

from __future__ import annotations

import contextlib
import socket
import tempfile
from collections.abc import Iterator

import pytest
import pytest_twisted
import treq
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from tests.support.listening import Listening
from tests.support.service import Api


@pytest_twisted.async_yield_fixture
async def listening() -> Iterator[Listening]:
    from twisted.internet import reactor

    listening = Listening(reactor)
    yield listening
    await listening.port.stopListening()
    await listening.site.drain(0.1)


def post(length: int, extra: bytes = b"") -> bytes:
    return b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n%s\r\n" % (length, extra)


CLOSE = b"Connection: close\r\n"


@pytest_twisted.ensureDeferred
async def test_a_body_up_to_the_limit_is_whole(listening: Listening) -> None:
    answer = await deferToThread(listening.exchange, post(1000, CLOSE), b"x" * 1000)
    assert b'{"length": 1000, "too_large": false}' in answer


@pytest_twisted.ensureDeferred
async def test_an_announced_body_over_the_limit_is_answered_before_it_is_sent(listening: Listening) -> None:
    answer = await deferToThread(listening.exchange, post(1 << 30))
    assert b'"too_large": true' in answer and b"connection: close" in answer.lower()


@pytest_twisted.ensureDeferred
async def test_the_answer_reaches_a_client_that_sends_its_whole_body_first(listening: Listening) -> None:
    answer = await deferToThread(listening.exchange, post(1 << 20), b"x" * (1 << 20))
    assert b'"too_large": true' in answer


@pytest_twisted.ensureDeferred
async def test_a_chunked_body_is_refused_while_it_arrives(listening: Listening) -> None:
    head = b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
    answer = await deferToThread(listening.exchange, head, *[b"100\r\n" + b"x" * 256 + b"\r\n"] * 6)
    assert b'{"length": 1000, "too_large": true}' in answer


@pytest_twisted.ensureDeferred
async def test_no_body_touches_the_disk(listening: Listening, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_file(*_: object, **__: object) -> None:
        raise AssertionError("a body went to a temporary file")

    for name in ("TemporaryFile", "NamedTemporaryFile", "SpooledTemporaryFile", "mkstemp"):
        monkeypatch.setattr(tempfile, name, no_file)
    chunked = b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n" + CLOSE + b"\r\n3\r\nabc\r\n0\r\n\r\n"
    assert b'"length": 3' in await deferToThread(listening.exchange, chunked)
    assert b'"too_large": true' in await deferToThread(listening.exchange, post(200000), b"x" * 200000)


@pytest_twisted.ensureDeferred
async def test_a_request_that_drips_is_ended(listening: Listening) -> None:
    def drip() -> bytes:
        with socket.create_connection(("127.0.0.1", listening.number), timeout=10) as client:
            client.sendall(b"GET / HTTP/1.1\r\nX-Long: ")
            client.settimeout(0.05)
            for _ in range(100):
                try:
                    client.sendall(b"x")
                    return client.recv(65536)
                except TimeoutError:
                    continue
        return b"never ended"

    answer = await deferToThread(drip)
    assert answer.startswith(b"HTTP/1.1 408 ") and b'"code": 408' in answer


@pytest_twisted.ensureDeferred
async def test_what_is_no_request_gets_a_json_400(listening: Listening) -> None:
    for garbage in (
        b"\x16\x03\x01\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
        b"GET / HTTP/1.1\r\nContent-Length: x\r\n\r\n",
    ):
        answer = await deferToThread(listening.exchange, garbage)
        assert answer.startswith(b"HTTP/1.1 400 ") and b'"code": 400' in answer, garbage[:40]


@pytest_twisted.ensureDeferred
async def test_a_head_that_is_too_long_is_refused_in_json(listening: Listening) -> None:
    answer = await deferToThread(listening.exchange, b"GET / HTTP/1.1\r\nX: " + b"x" * 20000 + b"\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 431 ") and b'"code": 431' in answer


@pytest_twisted.ensureDeferred
async def test_an_exception_outside_every_handler_is_a_500_without_a_word_of_it(listening: Listening) -> None:
    answer = await deferToThread(listening.exchange, b"GET /fail HTTP/1.1\r\nHost: h\r\n" + CLOSE + b"\r\n")
    assert answer.startswith(b"HTTP/1.1 500 ") and b'"code": 500' in answer and b"payload" not in answer


@pytest_twisted.ensureDeferred
async def test_pipelined_requests_are_answered_in_order(listening: Listening) -> None:
    answer = await deferToThread(listening.exchange, post(1) + b"a" + post(2) + b"bb" + post(3, CLOSE) + b"ccc")
    assert [answer.count(b'"length": %d' % n) for n in (1, 2, 3)] == [1, 1, 1]


@pytest_twisted.ensureDeferred
async def test_a_stopping_site_finishes_what_it_has_begun(listening: Listening) -> None:
    listening.echo.arrived = Deferred()
    answer = deferToThread(listening.exchange, b"GET /hold HTTP/1.1\r\nHost: h\r\n\r\n")
    await listening.echo.arrived
    drained = listening.site.drain(5)
    assert not drained.called
    (request,) = listening.echo.hold
    request.write(b"done")
    request.finish()
    await drained
    assert b"done" in await answer


@pytest_twisted.ensureDeferred
async def test_connections_are_bounded(listening: Listening) -> None:
    listening.site.max_connections = 3

    def crowd() -> int:
        clients, served = [], 0
        for _ in range(5):
            # A surplus connection may be gone before it has come about.
            with contextlib.suppress(ConnectionResetError):
                clients.append(socket.create_connection(("127.0.0.1", listening.number), timeout=5))
        for client in clients:
            try:
                client.sendall(b"GET / HTTP/1.1\r\nHost: h\r\n" + CLOSE + b"\r\n")
                served += client.recv(100).startswith(b"HTTP/1.1 200")
            except OSError:
                pass
        for client in clients:
            client.close()
        return served

    assert await deferToThread(crowd) <= 3


SECRET = "/v1/secrets/00000000-0000-4000-8000-000000000000"


@pytest.mark.parametrize(
    ("path", "status"),
    [
        (f"{SECRET}%2Fpayload", 400),
        ("/v1/secrets/x%2Fpayload", 400),
        ("/v1/%ff", 400),
        (f"{SECRET};x", 404),
        ("/v1/secrets/%2e%2e/orders", 404),
        (SECRET.upper().replace("/V1/SECRETS", "/v1/secrets").replace("8000", "A000"), 404),
        ("/nothing", 404),
        ("/v1/nothing", 404),
        ("/v2", 404),
        ("/v1/cas", 404),
        ("/healthcheck/x", 404),
    ],
)
@pytest_twisted.ensureDeferred
async def test_odd_paths_lead_nowhere_and_say_so_in_json(service: Api, path: str, status: int) -> None:
    reply = await service.get(path)
    assert reply.status == status
    assert reply.headers["content-type"] == "application/json" and reply.json["code"] == status


@pytest_twisted.ensureDeferred
async def test_doubled_slashes_are_no_redirect(service: Api) -> None:
    assert (await service.get("/v1//secrets/")).status == 200


@pytest.mark.parametrize("method", ["PUT", "PATCH", "TRACE", "BREW"])
@pytest_twisted.ensureDeferred
async def test_a_wrong_method_is_a_json_405_with_allow(service: Api, method: str) -> None:
    reply = await service.request(method, "/v1/secrets")
    assert reply.status == 405 and reply.headers["allow"] == "GET, POST" and reply.json["code"] == 405


@pytest_twisted.ensureDeferred
async def test_options_is_answered_before_everything(service: Api) -> None:
    reply = await service.request("OPTIONS", "/v1/anything", headers={"X-Project-Id": ""})
    assert (reply.status, reply.content) == (200, b"")


@pytest_twisted.ensureDeferred
async def test_a_strange_host_is_refused_and_never_in_a_reference(service: Api) -> None:
    reply = await service.get("/v1", headers={"Host": 'evil/"x'})
    assert reply.status == 400 and b"evil" not in reply.content


@pytest_twisted.ensureDeferred
async def test_the_healthcheck_needs_no_project(service: Api) -> None:
    reply = await treq.get(f"{service.url}/healthcheck", persistent=False)
    assert reply.code == 200 and await treq.content(reply) == b"OK"


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"Host: localhost\r\nHost: localhost\r\nContent-Type: application/json\r\n", 400),
        (b"Content-Type: application/json\r\n", 400),
        (b"Host: localhost\r\nX-Project-Id: other\r\n", 400),
        (b"Host: localhost\r\nContent-Type: application/json\r\nContent-Type: application/json\r\n", 415),
        (b"Host: localhost\r\nContent-Length: 2\r\n", 400),
        (b"Host: localhost\r\nAccept: text/html\r\nAccept: application/json\r\n", 415),
        (b"Host: localhost\r\nTransfer-Encoding: chunked\r\n", 400),
    ],
)
@pytest_twisted.ensureDeferred
async def test_doubled_and_missing_headers_are_the_clients_error(service: Api, head: bytes, status: int) -> None:
    host, port = service.url.removeprefix("http://").split(":")

    def exchange() -> bytes:
        with socket.create_connection((host, int(port)), timeout=5) as client:
            client.sendall(
                b"POST /v1/secrets HTTP/1.1\r\nX-Project-Id: p\r\nContent-Length: 2\r\nConnection: close\r\n"
                + head
                + b"\r\n{}"
            )
            received = b""
            while data := client.recv(65536):
                received += data
            return received

    answer = await deferToThread(exchange)
    assert answer.startswith(b"HTTP/1.1 %d " % status), answer

"""Clients that send bad tokens, however many and of whatever form, do not keep good ones out."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from cryptography.fernet import Fernet
from twisted.internet import protocol
from twisted.internet.defer import Deferred, DeferredLock, gatherResults
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site

from tests.support.service import Api, with_keystone

_CLIENTS = 60
_OURS = Fernet(Fernet.generate_key())
_OTHERS = Fernet(Fernet.generate_key())


def forged() -> str:
    """What only Keystone can tell from a token."""
    return _OTHERS.encrypt(os.urandom(40)).decode()


def another_time() -> str:
    return base64.urlsafe_b64encode(b"\x80" + os.urandom(8 + 16 + 48 + 32)).decode()


def text() -> str:
    return f"garbage-{os.urandom(8).hex()}"


class _SlowKeystone(Resource):
    """A Keystone that takes its time for each question, one after the other: a real one's speed is the machine's.

    :ivar asked: the bad tokens that it was asked about.
    """

    isLeaf = True

    def __init__(self, reactor: Any, seconds: float) -> None:
        super().__init__()
        self._reactor, self._seconds, self._lock = reactor, seconds, DeferredLock()
        self.asked = 0

    def render(self, request: Any) -> int:
        gone: list[object] = []
        request.notifyFinish().addErrback(gone.append)

        async def answer() -> None:
            await self._lock.acquire()
            await deferLater(self._reactor, self._seconds, lambda: None)
            self._lock.release()
            if gone:
                return
            request.write(self._answer(request))
            request.finish()

        Deferred.fromCoroutine(answer())
        return NOT_DONE_YET

    def _answer(self, request: Any) -> bytes:
        token = {
            "user": {"id": "u", "domain": {"id": "d"}},
            "project": {"id": "p", "domain": {"id": "d"}},
            "roles": [{"name": "member"}],
            "expires_at": "2099-01-01T00:00:00Z",
        }
        if request.method == b"POST":
            request.setResponseCode(201)
            request.setHeader(b"x-subject-token", _OURS.encrypt(b"barbtx itself"))
        else:
            try:
                _OURS.decrypt(request.getHeader(b"x-subject-token"))
            except Exception:
                self.asked += 1
                request.setResponseCode(404)
        return json.dumps({"token": token}).encode()


class _Attacker(protocol.Protocol):
    """Sends a bad token, and the next one when it has the answer, over the same connection or a new one each time."""

    def connectionMade(self) -> None:
        self._address = self.transport.getHost().host
        self._send()

    def _send(self) -> None:
        close = "" if self.factory.same else "Connection: close\r\n"
        head = f"GET /v1/secrets HTTP/1.1\r\nHost: h\r\nX-Auth-Token: {self.factory.make()}\r\n{close}\r\n"
        self.transport.write(head.encode())

    def dataReceived(self, data: bytes) -> None:
        self.factory.statuses.add(data.split(b" ", 2)[1] if data.startswith(b"HTTP/") else b"")
        if self.factory.same and data.startswith(b"HTTP/"):
            self._send()

    def connectionLost(self, reason: object = None) -> None:
        if not self.factory.stopped:
            self.factory.connect(self._address)


class _Attack(protocol.Factory):
    protocol = _Attacker
    noisy = False

    def __init__(self, reactor: Any, api: Api, make: Callable[[], str], same: bool) -> None:
        self._reactor, self._port, self.make, self.same = reactor, int(api.url.rpartition(":")[2]), make, same
        self.stopped, self.statuses = False, set()

    def connect(self, address: str) -> Deferred[Any]:
        endpoint = TCP4ClientEndpoint(self._reactor, "127.0.0.1", self._port, bindAddress=(address, 0))
        return endpoint.connect(self).addErrback(lambda failure: None)


@pytest.mark.parametrize(
    ("make", "addresses", "same_connection"),
    [
        (forged, 1, False),
        (forged, 20, False),
        (forged, 1, True),
        (another_time, 20, True),
        (text, 1, False),
    ],
)
@pytest_twisted.ensureDeferred
async def test_fresh_good_tokens_get_through(
    tmp_path: Path, make: Callable[[], str], addresses: int, same_connection: bool
) -> None:
    from twisted.internet import reactor

    slow = _SlowKeystone(reactor, 0.05)
    port = reactor.listenTCP(0, Site(slow), interface="127.0.0.1")
    deployment = with_keystone(
        tmp_path,
        f"http://127.0.0.1:{port.getHost().port}",
        **{"api.trusted_proxies": "192.0.2.1", "keystone_authtoken.http_request_timeout": 60},
    )
    try:
        api = await deferToThread(deployment.api)
        attack = _Attack(reactor, api, make, same_connection)
        await gatherResults([attack.connect(f"127.0.0.{1 + n % addresses}") for n in range(_CLIENTS)])
        # The good ones come from an address of the bad ones.
        waited = []
        for _ in range(20):
            before = slow.asked
            reply = await api.by(_OURS.encrypt(os.urandom(8)).decode()).get("/v1/secrets", timeout=120)
            assert reply.status == 200, reply
            waited.append(slow.asked - before)
        attack.stopped = True
        if make is text:
            assert slow.asked == 0, "no Keystone is needed to see that these are no tokens"
        assert sorted(waited)[10] <= 3 * _CLIENTS
        assert attack.statuses - {b"401", b""} == set()
        assert "does not respond" not in api.process.read_log()
        print(f"{make.__name__}, {addresses} addresses: bad tokens asked about before each good one: {waited}")
    finally:
        deployment.stop()
        await port.stopListening()

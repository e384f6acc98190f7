"""Clients that send bad tokens, however many and of whatever form, do not keep good ones out."""

from __future__ import annotations

import base64
import itertools
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site

from tests.conftest import unique
from tests.support.keystone import Identity, Keystone
from tests.support.listening import Raw, exchange
from tests.support.service import Api, Deployment, with_keystone

# Each client sends until it is told to stop, every request on a connection of its own.
_CLIENTS = 60
_TOKENS = itertools.count()


def forged(token: str) -> str:
    """A token like one of Keystone's, but for its last bytes."""
    return token[:-40] + base64.urlsafe_b64encode(os.urandom(30)).decode()


def fernet_like(token: str) -> str:
    return base64.urlsafe_b64encode(b"\x80" + os.urandom(152)).decode()


def text(token: str) -> str:
    return f"garbage-{next(_TOKENS)}"


async def garbage(api: Api, make: Callable[[], str], addresses: int, stop: list[bool], statuses: set[int]) -> None:
    """One client at a time of :data:`_CLIENTS` threads would be too many for this machine: they are coroutines."""
    port = int(api.url.rpartition(":")[2])

    def run(number: int) -> None:
        request = (f"GET /v1/secrets HTTP/1.1\r\nHost: h\r\nX-Auth-Token: {make()}\r\nConnection: close\r\n\r\n").encode()
        statuses.add(Raw.of(exchange(port, request, source=f"127.0.0.{1 + number % addresses}")).status)

    from twisted.internet import reactor
    from twisted.python.threadpool import ThreadPool
    from twisted.internet.threads import deferToThreadPool

    pool = ThreadPool(_CLIENTS, _CLIENTS)
    pool.start()

    async def client(number: int) -> None:
        while not stop:
            await deferToThreadPool(reactor, pool, run, number)

    try:
        from twisted.internet.defer import gatherResults

        await gatherResults([Deferred.fromCoroutine(client(number)) for number in range(_CLIENTS)])
    finally:
        await deferToThread(pool.stop)


@pytest.mark.parametrize("addresses", [1, 20])
@pytest.mark.parametrize("form", [forged, fernet_like, text])
@pytest_twisted.ensureDeferred
async def test_fresh_good_tokens_get_through(service_user: None, identity: Identity, keystone: Keystone, tmp_path: Path,
                                             form: Callable[[str], str], addresses: int) -> None:
    name = unique()
    project = await identity.project(name)
    await identity.user(name, project, "member")
    good = [await identity.token(name, project=name) for _ in range(5)]
    deployment = with_keystone(tmp_path, keystone.url, **{"api.trusted_proxies": ""})
    try:
        api = await deferToThread(deployment.api)
        stop: list[bool] = []
        statuses: set[int] = set()
        attacking = Deferred.fromCoroutine(garbage(api, lambda: form(good[0]), addresses, stop, statuses))
        replies = []
        for token in good:
            begin = time.monotonic()
            replies.append((await api.by(token).get("/v1/secrets", timeout=120)).status)
            print("took", time.monotonic() - begin)
        stop.append(True)
        await attacking
        assert replies == [200] * len(good)
        assert statuses == {401}
        assert "does not answer" not in api.process.read_log()
    finally:
        deployment.stop()

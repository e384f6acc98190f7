"""The table of routes leads to the endpoints that Klein's own resource would call, and leaves no garbage."""

from __future__ import annotations

import gc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from klein import Klein
from twisted.internet.address import IPv4Address
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.logger import capturedLogs
from twisted.python.failure import Failure
from twisted.web.resource import IResource

from barbtx.api.http import Site
from barbtx.api.leaf import LeafResource
from barbtx.api.root import normalize_path
from barbtx.api.routed_resource import RoutedResource
from barbtx.api.routes import ROOT_ROUTES, V1_ROUTES

IDS = ["00000000-0000-4000-8000-00000000000" + digit for digit in "0123456789"]
PATHS = list({**ROOT_ROUTES, **V1_ROUTES})


def make_app(called: list[Any], results: list[Deferred[bytes]]) -> Klein:
    """An application with all routes, whose endpoints record their calls."""
    app = Klein()
    for path in PATHS:

        def handle(request: Any, path: str = path, **ids: str) -> Deferred[bytes]:
            called.append((path, ids, request.prepath, request.postpath))
            result: Deferred[bytes] = results.pop() if results else succeed(b"ok")
            return result

        app.route(path, endpoint=path)(handle)

    @app.handle_errors(Exception)
    def not_found(request: Any, failure: Failure) -> bytes:
        called.append(type(failure.value))
        return b"nothing"

    return app


# The application has no state, and takes some time to make.
CALLED: list[Any] = []
ROUTED, BY_KLEIN = RoutedResource(make_app(CALLED, [])), make_app(CALLED, []).resource()


class Normalizing(LeafResource):
    """Sets the path as the root resource does."""

    def __init__(self, wrapped: IResource) -> None:
        self.wrapped = wrapped

    def render(self, request: Any) -> Any:
        request.postpath = normalize_path(request.path).encode().split(b"/")[1:]
        return self.wrapped.render(request)


class Connected:
    """A connection to a site whose pipeline ends in a resource."""

    def __init__(self, resource: IResource) -> None:
        site = Site(
            Normalizing(resource), Clock(), max_body=1000, request_timeout=30, idle_timeout=60, max_connections=20
        )
        self.channel = site.buildProtocol(None)
        self.transport = StringTransport(peerAddress=IPv4Address("TCP", "192.0.2.1", 5000))
        self.channel.makeConnection(self.transport)

    def get(self, path: str) -> bytes:
        self.transport.clear()
        self.channel.dataReceived(f"GET {path} HTTP/1.1\r\nHost: h\r\n\r\n".encode())
        return self.transport.value()


segments = st.sampled_from(
    [*IDS[:3], IDS[0].upper(), IDS[0] + "0", "x", "%C3%A9", *{part for path in PATHS for part in path.split("/")}]
)


@settings(deadline=None)
@given(st.lists(segments, max_size=6).map(lambda parts: "/" + "/".join(parts)))
def test_every_path_leads_where_klein_would_lead_it(path: str) -> None:
    outcomes = []
    for resource in (ROUTED, BY_KLEIN):
        CALLED.clear()
        answer = Connected(resource).get(path.replace("<", "").replace(">", ""))
        outcomes.append((list(CALLED), answer.partition(b"\r\n\r\n")[2]))
    (routed,), (by_klein,) = outcomes[0][0], outcomes[1][0]
    assert routed == by_klein and outcomes[0][1] in outcomes[1][1]


@pytest.mark.parametrize("path", PATHS)
def test_every_route_is_reached(path: str) -> None:
    called: list[Any] = []
    remaining, ids = iter(IDS), {}
    parts = []
    for part in path.split("/"):
        if part.startswith("<"):
            ids[part.strip("<>").removeprefix("path:")] = value = next(remaining)
            part = value
        parts.append(part)
    Connected(RoutedResource(make_app(called, []))).get("/".join(parts))
    assert called[0][:2] == (path, ids)


def test_a_request_leaves_nothing_to_the_garbage_collector() -> None:
    waiting: list[Deferred[bytes]] = []
    connected = Connected(RoutedResource(make_app([], waiting)))
    path = f"/v1/secrets/{IDS[0]}/payload"
    connected.get(path)
    gc.collect()
    gc.disable()
    try:
        for _ in range(10):
            assert connected.get(path).endswith(b"ok")
            result: Deferred[bytes] = Deferred()
            waiting.append(result)
            connected.get(path)
            result.callback(b"later")
            assert connected.transport.value().endswith(b"later")
            del result
        assert gc.collect() == 0
    finally:
        gc.enable()


def test_a_disconnect_cancels_the_endpoint_s_deferred() -> None:
    result: Deferred[bytes] = Deferred()
    failures: list[Failure] = []
    result.addErrback(lambda failure: failures.append(failure) or failure)
    connected = Connected(RoutedResource(make_app([], [result])))
    connected.get("/v1/secrets")
    with capturedLogs() as events:
        connected.channel.connectionLost(Failure(ConnectionDone()))
    assert [failure.type for failure in failures] == [CancelledError]
    (line,) = [event for event in events if event["log_namespace"] == "barbtx.api.access_log"]
    assert line["disconnected"] and not [event for event in events if event.get("log_failure")]


def test_a_result_after_a_disconnect_is_dropped() -> None:
    result: Deferred[bytes] = Deferred(lambda _: None)
    connected = Connected(RoutedResource(make_app([], [result])))
    connected.get("/v1/secrets")
    with capturedLogs() as events:
        connected.channel.connectionLost(Failure(ConnectionDone()))
        if not result.called:
            result.callback(b"late")
    assert connected.transport.value() == b""
    assert not [event for event in events if event.get("log_failure")]


def test_an_endpoint_that_fails_is_an_error_of_the_server() -> None:
    result: Deferred[bytes] = Deferred()
    connected = Connected(RoutedResource(make_app([], [result])))
    connected.get("/v1/secrets")
    with capturedLogs() as events:
        result.errback(RuntimeError("a payload"))
    assert b" 500 " in connected.transport.value() and b"a payload" not in connected.transport.value()
    assert [event for event in events if event.get("log_failure")]

"""The order of checks around every handler, and what a client's disconnect does to it."""

from __future__ import annotations

import json
from io import BytesIO

import attrs
import pytest
from oslo_config import cfg
from twisted.internet.defer import CancelledError, Deferred
from twisted.web.test.requesthelper import DummyRequest

from barbtx.api.call import Call
from barbtx.api.dispatch import Controller, Endpoint, ResolvedResource
from barbtx.api.operation import Operation
from barbtx.api.responses import Response
from barbtx.api.validation import Schema
from barbtx.compat import RequestBase
from barbtx.config import load
from barbtx.errors import NotFound
from barbtx.identity.context import RequestContext
from barbtx.identity.policy import Policy

BODY = Schema("Thing", {"type": "object", "required": ["x"]})


class Things(Controller[str]):
    """Handlers that wait until a test lets them go."""

    def __init__(self) -> None:
        self.gate: Deferred[None] = Deferred()
        self.finished: list[str] = []
        self.cancelled: list[str] = []
        self.there = True

    async def resolve(self, call: Call) -> ResolvedResource[str]:
        if not self.there:
            raise NotFound("There is no such thing.")
        return ResolvedResource("thing")

    async def _wait(self, name: str) -> Response:
        try:
            await self.gate
        except CancelledError:
            self.cancelled.append(name)
            raise
        self.finished.append(name)
        return Response(document={"did": name})

    @Operation("Thing retrieval", "thing:get")
    async def on_get(self, call: Call, thing: str) -> Response:
        return await self._wait("get")

    @Operation("Thing creation", "thing:post", body=BODY)
    async def on_post(self, call: Call, thing: str, document: dict) -> Response:
        return await self._wait("post")


class Request(DummyRequest):
    set_response_headers = RequestBase.set_response_headers

    def __init__(self, method: bytes, body: bytes = b"{}", **headers: str) -> None:
        super().__init__([])
        self.method = method
        self.too_large = False
        self.request_id = "req-1"
        self.context = RequestContext("p", "u", frozenset(), "req-1")
        self.content = BytesIO(body)
        self.sent = self.responseHeaders._rawHeaders
        for name, value in headers.items():
            self.requestHeaders.addRawHeader(name.replace("_", "-"), value)


@attrs.frozen
class UsedDependencies:
    """The dependencies that an endpoint itself uses."""

    conf: cfg.ConfigOpts
    policy: Policy


@pytest.fixture
def things() -> Things:
    return Things()


@pytest.fixture
def allowed() -> dict[str, bool]:
    return {"thing:get": True, "thing:post": True}


@pytest.fixture
def endpoint(things: Things, allowed: dict[str, bool]) -> Endpoint:
    conf = load([], ["host_href=http://h"])
    predicates = {rule: lambda target, creds, rule=rule: allowed[rule] for rule in allowed}
    return Endpoint(things, UsedDependencies(conf, Policy(conf, True, predicates, frozenset())))


JSON_TYPE = {"content_type": "application/json"}


def test_a_disconnect_ends_reading(things: Things, endpoint: Endpoint) -> None:
    answer = endpoint(Request(b"GET"))
    answer.cancel()
    assert things.cancelled == ["get"]


def test_a_disconnect_does_not_end_writing(things: Things, endpoint: Endpoint) -> None:
    answer = endpoint(Request(b"POST", b'{"x": 1}', **JSON_TYPE))
    answer.addErrback(lambda failure: failure.trap(CancelledError))
    answer.cancel()
    assert things.cancelled == []
    things.gate.callback(None)
    assert things.finished == ["post"]


def status_of(endpoint: Endpoint, request: Request) -> int:
    results: list[bytes] = []
    endpoint(request).addCallback(results.append)
    (body,) = results
    assert json.loads(body)["code"] == request.responseCode
    return request.responseCode


def test_the_checks_come_in_the_order_of_the_contract(
    things: Things, endpoint: Endpoint, allowed: dict[str, bool]
) -> None:
    """Each request has all the faults of those after it."""
    allowed["thing:post"] = False
    things.there = False
    assert status_of(endpoint, Request(b"PUT", b"{", accept="text/html", content_type="text/html")) == 404
    things.there = True
    assert status_of(endpoint, Request(b"PUT", b"{", accept="text/html", content_type="text/html")) == 405
    assert status_of(endpoint, Request(b"POST", b"{", accept="text/html", content_type="text/html")) == 406
    assert status_of(endpoint, Request(b"POST", b"{", content_type="text/html")) == 403
    allowed["thing:post"] = True
    assert status_of(endpoint, Request(b"POST", b"{", content_type="text/html")) == 415
    assert status_of(endpoint, Request(b"POST", b"{", **JSON_TYPE)) == 400
    assert status_of(endpoint, Request(b"POST", b"{}", **JSON_TYPE)) == 400


def test_an_unforeseen_failure_is_a_500_that_says_nothing_of_it(things: Things, endpoint: Endpoint) -> None:
    request = Request(b"GET")
    results: list[bytes] = []
    endpoint(request).addCallback(results.append)
    things.gate.errback(RuntimeError("the payload is s3cr3t"))
    assert request.responseCode == 500 and b"s3cr3t" not in results[0]
    assert json.loads(results[0])["description"] == "Thing retrieval failure seen - please contact site administrator."

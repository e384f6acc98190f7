"""The line of a request has the form of all other lines, although it is made in another way."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.logger import capturedLogs

from barbtx.activity import Activity
from barbtx.api.access_log import AccessEvent, log_request
from barbtx.api.client import Client
from barbtx.errors import ErrorResponse
from barbtx.identity.context import RequestContext
from barbtx.log_lines import as_json, as_text
from barbtx.networks import parse_address

texts = st.text(max_size=8)
names = st.none() | texts


@st.composite
def requests(draw: st.DrawFn) -> Any:
    debug = draw(st.dictionaries(st.sampled_from(["cause", "rule", "order_id"]), texts, max_size=2))
    error = st.builds(lambda reason: ErrorResponse(400, reason, debug=debug), names)
    context = st.builds(lambda project, user: RequestContext(project, user, frozenset(), "req-1"), names, names)
    return SimpleNamespace(
        method=draw(st.sampled_from([b"GET", b"POST", b"\xff", b'A"B'])),
        path=draw(st.binary(max_size=12).map(lambda path: b"/" + path)),
        code=draw(st.sampled_from([200, 201, 202, 204, 404])),
        request_id="req-1",
        context=draw(st.none() | context),
        error=draw(st.none() | error),
        is_health_check=draw(st.booleans()),
        sender=Client(parse_address(draw(st.sampled_from(["192.0.2.1", "2001:db8::1", ""]))), False),
        sent=draw(st.sampled_from([{}, {b"Location": [b"http://h/v1/secrets/x y"]}])),
        activity=Activity("req-1", draw(names)),
    )


@given(requests(), st.floats(0, 1e6), st.booleans())
def test_the_lines_are_those_of_an_ordinary_event(request: Any, seconds: float, disconnected: bool) -> None:
    with capturedLogs() as events:
        log_request(request, seconds, disconnected)
    (event,) = events
    ordinary = dict(event)
    if isinstance(event, AccessEvent) and "order_id" in event:
        # The order of an ordinary event comes from its activity, whose fields precede those of the event.
        ordinary = {"order_id": event["order_id"], **event}
    assert as_text(event) == as_text(ordinary)
    assert as_json(event) == as_json(ordinary)
    assert json.loads(as_json(event))["path"] == request.path.decode("ascii", "backslashreplace")


@given(requests())
def test_an_error_s_cause_is_in_its_line(request: Any) -> None:
    with capturedLogs() as events:
        log_request(request, 0.5, False)
    line = json.loads(as_json(events[0]))
    debug = request.error.debug if request.error is not None else {}
    assert {name: line[name] for name in debug} == debug
    assert line["reason"] == (request.error.description if request.error is not None else None)
    assert line.get("order_id", debug.get("order_id")) == debug.get("order_id", request.activity.order_id)

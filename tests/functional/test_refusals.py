"""What every answer carries, and requests in forms that clients seldom use."""

from __future__ import annotations

import re

import pytest
import pytest_twisted
from twisted.internet.threads import deferToThread

from tests.support.listening import Raw, exchange
from tests.support.logs import logged
from tests.support.service import Api

_ID = re.compile(r"req-[0-9a-f-]{36}")


async def send(api: Api, head: str, body: bytes = b"") -> Raw:
    """Send a request as it is written; the first answer."""
    sent = head.replace("\n", "\r\n").encode("latin-1") + b"\r\n\r\n" + body
    return Raw.of(await deferToThread(exchange, int(api.url.rpartition(":")[2]), sent))


def check(answer: Raw, status: int) -> None:
    assert answer.status == status, answer
    assert answer.header("cache-control") == "no-store" and answer.header("x-content-type-options") == "nosniff", answer


COMMON = "Host: localhost\nConnection: close\nX-Project-Id: p"


@pytest.mark.parametrize(
    ("head", "status"),
    [
        ("nonsense", 400),
        ("GET  / HTTP/1.1", 400),
        ("GET / HTTP/3.0", 400),
        ("GET / HTTP/1.1\nno colon", 400),
        (f"GET /v1/secrets HTTP/1.1\n{COMMON}\nContent-Length: 1\nTransfer-Encoding: chunked", 400),
        (f"GET /v1/secrets HTTP/1.1\n{COMMON}\nContent-Length: {'9' * 5000}", 400),
        (f"GET /v1/secrets HTTP/1.1\n{COMMON}\nX: {'x' * 20000}", 431),
        ("GET /v1/secrets HTTP/1.1\n" + "\n".join(["X: " + "x" * 4000] * 6), 431),
        (f"GET /v1/%2F HTTP/1.1\n{COMMON}", 400),
        (f"GET /v1/%ff HTTP/1.1\n{COMMON}", 400),
        (f"GET v1/secrets HTTP/1.1\n{COMMON}", 400),
        (f"GET * HTTP/1.1\n{COMMON}", 400),
        ("GET /v1/secrets HTTP/1.1\nConnection: close", 400),
        (f"GET / HTTP/1.1\n{COMMON}\nHost: localhost", 400),
        ("GET / HTTP/1.1\nConnection: close\nHost: a b", 400),
        ("GET / HTTP/1.1\nConnection: close\nHost: user@localhost", 400),
        ("GET / HTTP/1.1\nConnection: close\nHost: [::1", 400),
        ("GET / HTTP/1.1\nConnection: close\nHost: a:99999", 400),
        (f"GET ftp://localhost/v1 HTTP/1.1\n{COMMON}", 400),
        (f"GET http:///v1 HTTP/1.1\n{COMMON}", 400),
        (f"GET http://user:s3cr3t@localhost/v1 HTTP/1.1\n{COMMON}", 400),
        (f"GET http://localhost#x HTTP/1.1\n{COMMON}", 400),
        (f"CONNECT localhost:80 HTTP/1.1\n{COMMON}", 405),
        (f"CONNECT /v1/secrets HTTP/1.1\n{COMMON}", 405),
        (f"POST /healthcheck HTTP/1.1\n{COMMON}\nContent-Length: 0", 405),
        (f"GET /healthcheck/x HTTP/1.1\n{COMMON}", 404),
        (f"POST /openapi.json HTTP/1.1\n{COMMON}\nContent-Length: 0", 405),
        (f"GET /nothing HTTP/1.1\n{COMMON}", 404),
        ("GET /v1 HTTP/1.1\nHost: localhost\nConnection: close", 400),
        (f"GET /v1/nothing HTTP/1.1\n{COMMON}", 404),
        (f"GET /v1/secrets HTTP/1.1\n{COMMON}\nOpenStack-API-Version: key-manager x", 400),
    ],
)
@pytest_twisted.ensureDeferred
async def test_every_refusal_has_an_id(service: Api, head: str, status: int) -> None:
    answer = await send(service, head)
    check(answer, status)
    request_id = answer.header("x-openstack-request-id")
    assert _ID.fullmatch(request_id)
    if status == 405:
        assert answer.header("allow")
    await logged(service.process, request_id)
    assert b"s3cr3t" not in answer.body and "s3cr3t" not in service.process.read_log()


@pytest.mark.parametrize("head", ["nonsense", f"GET /v1/%2F HTTP/1.1\n{COMMON}", f"GET x:y HTTP/1.1\n{COMMON}"])
@pytest_twisted.ensureDeferred
async def test_a_refusal_is_logged_with_the_clients_address(service: Api, head: str) -> None:
    before = len(service.process.read_log())
    await send(service, head)
    await logged(service.process, "127.0.0.1", since=before)


@pytest_twisted.ensureDeferred
async def test_nothing_may_be_kept_and_what_depends_on_accept_says_so(api: Api) -> None:
    ref = (await api.store()).removeprefix(api.url)
    project = COMMON.replace(": p", f": {api.project}")
    for path, accept, status, varies in (
        (ref, "*/*", 200, True),
        (ref, "text/plain", 200, True),
        (ref, "image/png", 406, True),
        (f"{ref}/payload", "text/plain", 200, True),
        (f"{ref}/payload", "image/png", 406, True),
        ("/v1/secrets", "*/*", 200, True),
        ("/v1/secrets", "text/html", 406, True),
        ("/v1", "*/*", 200, True),
        ("/", "*/*", 300, True),
        ("/?build", "*/*", 200, True),
        ("/healthcheck", "*/*", 200, False),
    ):
        answer = await send(api, f"GET {path} HTTP/1.1\n{project}\nAccept: {accept}")
        check(answer, status)
        assert ("accept" in (answer.header("vary") or "").lower().split(", ")) == varies, (path, answer)
        assert len(answer.headers.get("vary", [])) <= 1, "some clients read one line only"
    check(await send(api, f"OPTIONS /v1/secrets HTTP/1.1\n{project}"), 200)
    check(await send(api, f"HEAD /v1/secrets HTTP/1.1\n{project}"), 405)
    gone = await send(api, f"DELETE {ref} HTTP/1.1\n{project}")
    check(gone, 204)
    assert "accept" not in gone.header("vary").lower()


@pytest.mark.parametrize("accept", ["application/json", "text/plain", "*/*"])
@pytest.mark.parametrize(
    ("head", "status"),
    [
        ("GET /v1 HTTP/1.1\nHost: localhost\nConnection: close", 400),
        (f"GET /v1/secrets HTTP/1.1\n{COMMON}\nOpenStack-API-Version: key-manager x", 400),
        (f"GET /v1/secrets HTTP/1.1\n{COMMON}\nOpenStack-API-Version: key-manager 9.9", 406),
        ("GET /v1/secrets HTTP/1.1\nHost: evil.example\nConnection: close\nX-Project-Id: p", 421),
    ],
)
@pytest_twisted.ensureDeferred
async def test_errors_before_routing_are_logged_with_their_reason_in_every_format(
    service: Api, head: str, status: int, accept: str
) -> None:
    before = len(service.process.read_log())
    answer = await send(service, f"{head}\nAccept: {accept}")
    check(answer, status)
    await logged(service.process, "reason=", since=before)


@pytest.mark.parametrize(
    "method",
    [
        "GET_PAYLOAD",
        "OTHER",
        "get",
        "Get",
        "TRACE",
        "HEAD",
        "LINK",
        "FIND",
        "__INIT__",
        "ON_GET",
        "GET-PAYLOAD",
        "\u017fET",
    ],
)
@pytest.mark.parametrize(
    "path",
    [
        "/v1/secrets",
        "{ref}",
        "{ref}/payload",
        "{ref}/metadata",
        "{ref}/acl",
        "/v1/orders",
        "/v1/containers",
        "/v1/transport_keys",
        "/v1/quotas",
        "/v1/project-quotas/p",
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_method_that_is_none_is_a_405(api: Api, method: str, path: str) -> None:
    ref = (await api.store()).removeprefix(api.url) if "{ref}" in path else ""
    answer = await send(
        api,
        f"{method} {path.format(ref=ref)} HTTP/1.1\n{COMMON}\nX-Roles: admin\nContent-Length: 0".replace(
            ": p", f": {api.project}"
        )
        .encode()
        .decode("latin-1"),
    )
    check(answer, 405 if method.isascii() else 400)


@pytest.mark.parametrize(
    ("target", "host", "base"),
    [
        ("http://localhost:1234/v1", "evil.example", "http://localhost:1234"),
        ("http://LOCALHOST/v1", "x", "http://LOCALHOST"),
        ("http://127.0.0.2/v1?x=1", "localhost", "http://127.0.0.2"),
        ("HTTP://[::1]:80/v1", "localhost", "http://[::1]:80"),
        # The shipped development configuration trusts loopback as a proxy.
        ("https://localhost/v1", "localhost", "https://localhost"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_the_host_of_an_absolute_target_counts(service: Api, target: str, host: str, base: str) -> None:
    answer = await send(service, f"GET {target} HTTP/1.1\nHost: {host}\nConnection: close\nX-Project-Id: p")
    check(answer, 200)
    assert f'"href": "{base}/v1/"'.encode() in answer.body


@pytest_twisted.ensureDeferred
async def test_absolute_targets_reach_the_same_resources(api: Api) -> None:
    ref = await api.store("a payload")
    common = f"Host: localhost\nConnection: close\nX-Project-Id: {api.project}"
    answer = await send(api, f"GET {ref}/payload HTTP/1.1\n{common}\nAccept: text/plain")
    assert answer.body == b"a payload"
    check(await send(api, f"GET {api.url} HTTP/1.1\n{common}"), 300)
    check(await send(api, f"OPTIONS {api.url}/v1/secrets HTTP/1.1\n{common}"), 200)
    check(await send(api, f"GET {ref.replace('/secrets/', '%2Fsecrets/')} HTTP/1.1\n{common}"), 400)


@pytest.mark.parametrize(
    ("host", "taken"),
    [
        ("localhost", True),
        ("LOCALHOST:9311", True),
        ("localhost.", True),
        ("127.0.0.1", True),
        ("127.255.0.9:80", True),
        ("[::1]", True),
        ("[::1]:9311", True),
        ("keys.example:8443", True),
        ("evil.example", False),
        ("10.0.0.1", False),
        ("[::2]", False),
        ("localhost.evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("0.0.0.0", False),
        ("evil-localhost", False),
        ("[2001:db8::1]:9311", False),
    ],
)
@pytest_twisted.ensureDeferred
async def test_without_authentication_only_names_of_this_machine_are_taken(
    service: Api, host: str, taken: bool
) -> None:
    for extra in ("", "\nX-Forwarded-Host: localhost", "\nAccept: application/json"):
        check(
            await send(service, f"GET /v1/secrets HTTP/1.1\nHost: {host}\nConnection: close\nX-Project-Id: p{extra}"),
            200 if taken else 421,
        )
    check(
        await send(service, f"GET http://{host}/v1 HTTP/1.1\nHost: localhost\nConnection: close\nX-Project-Id: p"),
        200 if taken else 421,
    )


@pytest_twisted.ensureDeferred
async def test_http_1_0_needs_no_host_where_no_reference_is_given(api: Api) -> None:
    ref = (await api.store("a payload")).removeprefix(api.url)
    project = f"X-Project-Id: {api.project}\nX-Roles: admin"
    empty = (await api.post("/v1/secrets", {})).json["secret_ref"].removeprefix(api.url)
    await api.request("PUT", f"{ref}/metadata", json={"metadata": {"a": "b"}})
    for request, body, status in (
        (f"GET {ref}/payload HTTP/1.0\nAccept: text/plain", b"", 200),
        ("GET /healthcheck HTTP/1.0", b"", 200),
        (f"GET {ref}/metadata HTTP/1.0", b"", 200),
        ("GET /v1/quotas HTTP/1.0", b"", 200),
        (f"PUT {empty} HTTP/1.0\nContent-Type: text/plain", b"x", 204),
        (f"GET {ref} HTTP/1.0", b"", 400),
        ("GET / HTTP/1.0", b"", 400),
        ("POST /v1/secrets HTTP/1.0\nContent-Type: application/json", b"{}", 400),
        (f"PUT {ref}/metadata HTTP/1.0\nContent-Type: application/json", b'{"metadata": {"a": "b"}}', 400),
        (f"PUT {ref}/metadata/a HTTP/1.0\nContent-Type: application/json", b'{"key": "a", "value": "b"}', 200),
        (f"DELETE {ref}/acl HTTP/1.0", b"", 200),
        ("GET /?build HTTP/1.0", b"", 200),
        (f"DELETE {ref} HTTP/1.0", b"", 204),
    ):
        check(await send(api, f"{request}\n{project}\nContent-Length: {len(body)}", body), status)
    assert (await api.get("/v1/secrets")).json["total"] == 1

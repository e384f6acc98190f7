"""What lists are filtered by, through HTTP and alike on every database."""

from __future__ import annotations

import datetime
import json
import uuid
from urllib.parse import quote, urlencode

import pytest
import pytest_twisted
from hypothesis import strategies as st
from twisted.internet.task import Clock

from barbtx.model.database import Database
from barbtx.model.records import NewContainer, NewSecret, Task
from barbtx.model.repositories.containers import ContainerRepo
from barbtx.model.repositories.listing import Condition
from barbtx.model.repositories.orders import OrderRepo
from barbtx.model.repositories.secrets import SecretRepo
from tests.functional.test_refusals import COMMON, send
from tests.support.exploring import explore
from tests.support.service import Api

_ODD = [
    "a+b",
    "a b",
    "100%",
    "per%25cent",
    "per%2525cent",
    "%41",
    "back\\slash",
    "back\\\\slash",
    "\\",
    "end\\",
    "\\%",
    "\\_",
    "!",
    "a!b",
    "!!%",
    "!_",
    "'",
    '"',
    "a;b",
    "a&b=c",
    "#?/",
    "näme 🔑",
    "ÄÖ",
    "_",
    "%",
    "a\0b",
    "[a]",
    "*",
    "\uf8fe",
]
# Outer white space does not reach the database, and the database has a limit of its own for the length.
_NAMES = st.text(
    st.sampled_from("ab%_\\!+\"'/ \0é🔑") | st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12
)


@pytest_twisted.ensureDeferred
async def test_a_name_finds_what_has_it_and_nothing_else(secrets: SecretRepo) -> None:
    async def check(name: str, other: str) -> None:
        project = str(uuid.uuid4())
        for stored in (name, other):
            await secrets.create(NewSecret(str(uuid.uuid4()), project, name=stored, algorithm=stored, mode=stored))
        for column in ("name", "algorithm", "mode"):
            page = await secrets.list_page(project, (Condition(column, "like", name),), (), 10, 0)
            found = {secret.name for secret in page.items}
            assert name in found
            if other.isascii() and other.lower() != name.lower() and not set(name) & set("%_"):
                assert other not in found

    await explore(check, name=_NAMES, other=_NAMES)


@pytest_twisted.ensureDeferred
async def test_containers_are_found_by_name(database: Database, clock: Clock) -> None:
    containers = ContainerRepo(database, clock, -1)
    for name in _ODD:
        await containers.create(NewContainer(str(uuid.uuid4()), "p", "generic", name))
    for name in _ODD:
        page = await containers.list_page("p", (Condition("name", "like", name),), 100, 0)
        found = {container.name for container in page.items}
        assert name in found
        if not set(name) & set("%_"):
            assert found == {name}


@pytest_twisted.ensureDeferred
async def test_exact_filters_are_exact(secrets: SecretRepo) -> None:
    await secrets.create(NewSecret(str(uuid.uuid4()), "p", secret_type="opaque"))
    for value, total in (("opaque", 1), ("opaque ", 0), ("Opaque", 0), ("opaqu_", 0), ("opaque\0", 0), ("!opaque", 0)):
        page = await secrets.list_page("p", (Condition("secret_type", "eq", value),), (), 10, 0)
        assert page.total == total, value


@pytest_twisted.ensureDeferred
async def test_orders_are_found_by_what_is_in_their_meta(database: Database, clock: Clock) -> None:
    orders = OrderRepo(database, clock)
    for text in _ODD:
        order_id = str(uuid.uuid4())
        meta = json.dumps({"name": text, "inner": [{text: 1}]}, ensure_ascii=False)
        await orders.create(order_id, "p", "key", meta, None, Task(order_id, "process_type_order", {}), 5)
    for text in _ODD:
        names = [json.loads(order.meta)["name"] for order in (await orders.list_page("p", text, 100, 0)).items]
        assert text in names
        if not set(text) & {"%", "_"}:
            assert [name for name in names if name.lower() == text.lower()] == names


@pytest_twisted.ensureDeferred
async def test_parameters_are_decoded_once(api: Api) -> None:
    for name in _ODD:
        await api.store(name=name, algorithm=name, mode=name)
        assert (await api.post("/v1/containers", {"type": "generic", "name": name})).status == 201
    for name in _ODD:
        for parameter, field in (("name", "name"), ("alg", "algorithm"), ("mode", "mode")):
            for query in (urlencode({parameter: name}), f"{parameter}={quote(name, safe='')}"):
                reply = await api.get(f"/v1/secrets?limit=100&{query}")
                assert name in {secret[field] for secret in reply.json["secrets"]}, (query, reply)
        reply = await api.get(f"/v1/containers?limit=100&{urlencode({'name': name})}")
        assert name in {container["name"] for container in reply.json["containers"]}, (name, reply)
    found = await api.get("/v1/secrets?name=a%2Bb")
    assert [secret["name"] for secret in found.json["secrets"]] == ["a+b"]
    assert (await api.get("/v1/secrets?name=a+b")).json["secrets"][0]["name"] == "a b"


@pytest_twisted.ensureDeferred
async def test_links_to_other_pages_keep_odd_filters(api: Api) -> None:
    for _ in range(3):
        await api.store(name="100% \\a+b!")
    first = await api.get("/v1/secrets?limit=2&" + urlencode({"name": "100% \\a+b!"}))
    assert first.json["total"] == 3
    second = await api.get(first.json["next"])
    assert second.json["total"] == 3 and len(second.json["secrets"]) == 1


@pytest_twisted.ensureDeferred
async def test_only_an_ampersand_separates_parameters(api: Api) -> None:
    # As they are on the wire: clients need not encode a semicolon.
    await api.store(name="a;limit=0")
    found = await send(
        api, f"GET /v1/secrets?name=a;limit=0&bits HTTP/1.1\n{COMMON}".replace(": p", f": {api.project}")
    )
    assert json.loads(found.body)["total"] == 1
    assert (await api.get("/?build")).json == (await api.get("/?build=")).json
    assert "build" in (await api.get("/?build")).json
    assert (await api.get("/v1/secrets?name=%ff")).status == 400
    first = await api.get("/v1/secrets?sort=name&x=1&limit=1&name=a%25&name=b")
    assert first.json["total"] == 1
    for _ in range(2):
        await api.store(name="ab")
    page = await api.get("/v1/secrets?sort=name&x=1&limit=1&name=a%25&name=b")
    assert page.json["total"] == 3 and page.json["next"].endswith("?limit=1&offset=1&sort=name&x=1&name=a%25")


@pytest.mark.parametrize("parameter", ["created", "updated"])
@pytest_twisted.ensureDeferred
async def test_times_are_compared_in_utc(api: Api, parameter: str) -> None:
    ref = await api.store()
    moment = datetime.datetime.fromisoformat((await api.get(ref)).json[parameter]).replace(tzinfo=datetime.UTC)
    hour = datetime.timedelta(hours=1)
    for offset in range(-12, 13, 3):
        zone = datetime.timezone(datetime.timedelta(hours=offset, minutes=30))
        for condition, total in (("gt", 1), ("lt", 0)):
            before = quote((moment - hour).astimezone(zone).isoformat())
            after = quote((moment + hour).astimezone(zone).isoformat())
            assert (await api.get(f"/v1/secrets?{parameter}={condition}:{before}")).json["total"] == total
            assert (await api.get(f"/v1/secrets?{parameter}={condition}:{after}")).json["total"] == 1 - total
        exactly = quote(moment.astimezone(zone).isoformat())
        assert (await api.get(f"/v1/secrets?{parameter}={exactly}")).json["total"] == 1
        plain = moment.astimezone(zone).isoformat()
        assert (await api.get(f"/v1/secrets?{parameter}={plain}")).json["total"] == 1

"""Accept headers, microversions and pages."""

from __future__ import annotations

import pytest

from barbtx.api.middleware.microversion import requested_version
from barbtx.api.negotiation import accepts_json
from barbtx.api.paging import Paging
from barbtx.config import load
from barbtx.errors import BadRequest, NotAcceptable
from barbtx.model.records import Page


@pytest.mark.parametrize(
    ("accept", "taken"),
    [
        (None, True),
        ("", True),
        ("garbage", True),
        ("*/*", True),
        ("application/*", True),
        ("application/json", True),
        ("application/json;q=0", True),
        ("text/html, application/json", True),
        ("APPLICATION/JSON", True),
        ("text/html", False),
        ("text/*", False),
        ("text/html, application/xml", False),
        ("application/json-home", False),
    ],
)
def test_json_goes_to_whoever_takes_it(accept: str | None, taken: bool) -> None:
    assert accepts_json(accept) is taken


@pytest.mark.parametrize(
    ("header", "version"),
    [
        ("", (1, 0)),
        ("compute 2.1", (1, 0)),
        ("1.1", (1, 0)),
        ("key-manager 1.1", (1, 1)),
        ("KEY-MANAGER latest", (1, 2)),
        ("key-manager 1.1, key-manager 1.2", (1, 2)),
        ("compute 2.1,key-manager 1.2", (1, 2)),
        ("key-manager", (1, 0)),
        ("key-manager ", (1, 0)),
        ("Key-Manager, compute 2.1", (1, 0)),
        (" ,", (1, 0)),
        ("key-manager 1.1, key-manager", (1, 0)),
        ("key-manager, key-manager 1.2", (1, 2)),
        ("key-manager\t1.1", (1, 1)),
    ],
)
def test_the_microversion_is_the_one_asked_of_this_service(header: str, version: tuple[int, int]) -> None:
    assert requested_version(header) == version


@pytest.mark.parametrize(
    "header",
    [
        "key-manager x",
        "key-manager 1",
        "key-manager 1.",
        "key-manager -1.0",
        "key-manager 1.1 1.2",
        "key-manager 1. 1",
    ],
)
def test_a_microversion_that_cannot_be_read_is_a_bad_request(header: str) -> None:
    with pytest.raises(BadRequest):
        requested_version(header)


@pytest.mark.parametrize("header", ["key-manager 1.3", "key-manager 0.9", "key-manager 2.0"])
def test_a_microversion_that_does_not_exist_is_not_acceptable(header: str) -> None:
    with pytest.raises(NotAcceptable):
        requested_version(header)


@pytest.mark.parametrize(
    ("query", "limit", "offset"),
    [
        ({}, 10, 0),
        ({"limit": "x", "offset": "y"}, 10, 0),
        ({"limit": ""}, 10, 0),
        ({"limit": "0"}, 1, 0),
        ({"limit": "-5"}, 1, 0),
        ({"limit": "101"}, 100, 0),
        ({"offset": "-1"}, 10, 0),
        ({"offset": str(2**63)}, 10, 0),
        ({"limit": "7", "offset": "14"}, 7, 14),
    ],
)
def test_paging_is_never_an_error(query: dict, limit: int, offset: int) -> None:
    assert Paging.from_query(query, load()) == Paging(limit, offset)


def test_links_lead_to_the_neighbours_and_keep_the_filters() -> None:
    document = Paging(2, 3).document(
        "secrets", [1, 2], Page((1, 2), 9), "http://h/v1/secrets", {"limit": "2", "offset": "3", "sort": "name:asc"}
    )
    assert document["next"] == "http://h/v1/secrets?limit=2&offset=5&sort=name%3Aasc"
    assert document["previous"] == "http://h/v1/secrets?limit=2&offset=1&sort=name%3Aasc"
    assert document["total"] == 9


def test_an_empty_page_has_no_links() -> None:
    assert Paging(2, 30).document("secrets", [], Page((), 9), "http://h", {}) == {"secrets": [], "total": 9}

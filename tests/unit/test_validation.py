"""JSON bodies: what is taken, and how the rest is refused."""

from __future__ import annotations

import pytest

from barbtx.api.validation import Schema, read_json
from barbtx.errors import BadRequest, MalformedJSON, SchemaMismatch


def read(body: bytes) -> dict:
    return read_json(body, False, 25000)


def test_outer_white_space_of_values_goes_at_any_depth_and_keys_stay() -> None:
    assert read(b'{" k ": [" a ", {"b": "\\t c\\n"}]}') == {" k ": ["a", {"b": "c"}]}


def test_of_duplicate_keys_the_last_counts() -> None:
    assert read(b'{"a": 1, "a": 2}') == {"a": 2}


def test_nul_and_characters_beyond_the_bmp_are_text() -> None:
    assert read('{"a": "x\\u0000y 🔑"}'.encode()) == {"a": "x\0y 🔑"}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'"x"',
        b"5",
        b"null",
        b"\xff",
        '{"a": 1}'.encode("utf-16"),
        b"\xef\xbb\xbf{}",
        b'{"a": NaN}',
        b'{"a": -Infinity}',
        b'{"a": "\\ud800"}',
        b'{"\\udfff": 1}',
        b'{"a": ' + b"9" * 5000 + b"}",
        b"[" * 12000,
        b'{"a":' * 4000 + b"1" + b"}" * 4000,
    ],
    ids=lambda body: repr(body[:12]),
)
def test_anything_but_an_object_in_utf8_is_malformed(body: bytes) -> None:
    with pytest.raises(MalformedJSON) as caught:
        read(body)
    assert caught.value.status == 400


def test_a_body_that_was_cut_is_refused_with_the_limit() -> None:
    with pytest.raises(MalformedJSON, match="25000"):
        read_json(b"{}", True, 25000)


SCHEMA = Schema(
    "Thing",
    {
        "type": "object",
        "required": ["n"],
        "additionalProperties": False,
        "properties": {"n": {"type": "integer", "maximum": 5}, "s": {"type": "string", "maxLength": 3}},
    },
)


@pytest.mark.parametrize(
    ("document", "prop", "reason"),
    [
        ({}, "n", "required"),
        ({"n": 6}, "n", "greater than 5"),
        ({"n": True}, "n", "wrong type"),
        ({"n": 1, "s": "secret value"}, "s", "longer than 3"),
        ({"n": 1, "x": 1}, "", "not allowed"),
    ],
)
def test_a_mismatch_names_schema_property_and_rule_but_never_the_value(document: dict, prop: str, reason: str) -> None:
    with pytest.raises(SchemaMismatch) as caught:
        SCHEMA.check(document)
    assert isinstance(caught.value, BadRequest)
    assert caught.value.description.startswith("Provided object does not match schema 'Thing': ")
    assert caught.value.description.endswith(f"Invalid property: '{prop}'")
    assert reason in caught.value.description and "secret value" not in caught.value.description


def test_a_whole_number_may_be_written_as_a_float() -> None:
    SCHEMA.check({"n": 5.0})

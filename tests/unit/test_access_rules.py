"""Access rules of application credentials: what their paths match."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from barbtx.identity.keystone.access_rules import AccessRules, PathPattern, normalize

UUID = "8f5e7f8c-98a7-4f0a-9a1f-94a0e1a1b8a1"


@pytest.mark.parametrize(
    ("pattern", "matching", "others"),
    [
        ("/v1/secrets", ["/v1/secrets"], ["/v1/secrets/x", "/v1/secret", "/v1", "/v1/secretsx", "/", ""]),
        ("/v1/secrets/", ["/v1/secrets"], ["/v1/secrets/x"]),
        ("//v1//secrets", ["/v1/secrets"], ["/v1"]),
        ("/v1/secrets/*", [f"/v1/secrets/{UUID}"], ["/v1/secrets", f"/v1/secrets/{UUID}/payload", "/v1/secrets/x\n/y"]),
        (
            "/v1/secrets/{secret_id}/payload",
            [f"/v1/secrets/{UUID}/payload"],
            ["/v1/secrets/payload", "/v1/secrets/a/b/payload"],
        ),
        ("/v1/secrets/**", ["/v1/secrets/a", "/v1/secrets/a/b/c", "/v1/secrets/a\nb"], ["/v1/secrets", "/v1/orders/a"]),
        ("/v1/**", ["/v1/a"], ["/v1", "/v2/a"]),
        ("/v1/**/payload", ["/v1/a/payload", "/v1/a/b/payload"], ["/v1/payload", "/v1/a/payload/b"]),
        ("/v1/sec*s/a", ["/v1/secrets/a"], ["/v1/secs/a", "/v1/sec/s/a"]),
        ("/v1/a.b", ["/v1/a.b"], ["/v1/axb"]),
        ("/v1/(a|b)+$", ["/v1/(a|b)+$"], ["/v1/a"]),
        ("/v1/{", ["/v1/{"], ["/v1/x"]),
        ("/**", ["/", "/v1"], []),
    ],
)
def test_wildcards_stand_for_what_the_identity_api_says(pattern: str, matching: list[str], others: list[str]) -> None:
    for path in matching:
        assert PathPattern(pattern).matches(path), path
    for path in others:
        assert not PathPattern(pattern).matches(path), path


_PIECES = {"a": "a", "b": "b", "/": "/", "*": "[^/]+", "**": ".*", "{x}": "[^/]+"}


@given(st.lists(st.sampled_from(sorted(_PIECES)), max_size=8), st.text("ab/", max_size=10))
def test_matching_agrees_with_a_regular_expression(pieces: list[str], path: str) -> None:
    # Stars side by side and doubled slashes have several readings.
    text = re.sub(r"\*{3,}", "**", re.sub("/+", "/", "/" + "".join(pieces)))
    text = normalize(text)
    expression = "".join(_PIECES.get(piece, re.escape(piece)) for piece in re.findall(r"\*\*|\*|\{x\}|.", text))
    assert PathPattern(text).matches(normalize(path)) == bool(re.fullmatch(expression, normalize(path), re.DOTALL))


def test_a_pattern_made_to_be_slow_is_not() -> None:
    # A backtracking matcher would not end in a lifetime.
    assert not PathPattern("/" + "*a" * 60 + "/" + "**a" * 40).matches("/" + "a" * 1000)
    assert not PathPattern("/**").matches("/" + "a" * 100000)


def rules(listed: Any) -> AccessRules | None:
    return AccessRules.from_token({"application_credential": {"id": "c", "access_rules": listed}})


def test_rules_are_read_from_a_token() -> None:
    assert AccessRules.from_token({}) is None
    assert AccessRules.from_token({"application_credential": {"id": "c"}}) is None
    assert rules([]) == AccessRules(()) and not rules([]).allow("key-manager", "GET", ["/v1/secrets"])
    for listed in ("all", {}, [{}], ["x"], [{"service": "key-manager", "method": "GET"}], 5):
        with pytest.raises((LookupError, TypeError, AttributeError)):
            rules(listed)


@given(
    st.sampled_from(["key-manager", "compute"]),
    st.sampled_from(["GET", "POST", "HEAD", "get"]),
    st.sampled_from(["/v1/secrets", "/v1/orders"]),
)
def test_service_method_and_path_must_all_agree(service: str, method: str, path: str) -> None:
    allowed = rules(
        [
            {"service": "key-manager", "method": "GET", "path": "/v1/secrets"},
            {"service": "compute", "method": "POST", "path": "/**"},
        ]
    )
    assert allowed.allow("key-manager", method, [path]) == (method == "GET" and path == "/v1/secrets")

"""One reading of every path."""

from __future__ import annotations

from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from barbtx.api.root import normalize_path

ID = "/v1/secrets/00000000-0000-4000-8000-000000000000"


@pytest.mark.parametrize(
    ("path", "normalized"),
    [
        ("/", "/"),
        ("", "/"),
        ("//", "/"),
        ("/v1/", "/v1"),
        ("/v1//secrets", "/v1/secrets"),
        ("/v1/%73ecrets", "/v1/secrets"),
        (f"{ID}/", ID),
        (f"{ID}.json", ID),
        (f"{ID}/index", ID),
        (f"{ID}/metadata/index", f"{ID}/metadata/index"),
        ("/v1/secrets/../orders", "/v1/secrets/../orders"),
        ("/v1/SECRETS", "/v1/SECRETS"),
        ("/v1/%C3%A9", "/v1/é"),
        ("/v1/secrets;x", "/v1/secrets;x"),
        ("/v1/%2e%2e/x", "/v1/../x"),
    ],
)
def test_a_path_has_one_spelling(path: str, normalized: str) -> None:
    assert normalize_path(path.encode()) == normalized


@pytest.mark.parametrize("path", [f"{ID}%2Fpayload", f"{ID}%2fpayload", "/v1%2Fsecrets", f"{ID}%00"])
def test_an_encoded_slash_or_nul_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="encoded slash"):
        normalize_path(path.encode())


def test_a_path_that_is_not_utf8_is_refused() -> None:
    with pytest.raises(ValueError, match="UTF-8"):
        normalize_path(b"/v1/%ff")


parts = st.sampled_from(
    [
        b"/",
        b"//",
        b"v1",
        b"secrets",
        b"index",
        b".json",
        b"x",
        b"%2e",
        b"%C3%A9",
        b"%",
        b"~",
        b".",
        b"\x7f",
        b"\xe9",
        b"&",
    ]
)


@given(st.lists(parts, max_size=10).map(b"".join))
def test_a_plain_path_is_read_as_any_other(path: bytes) -> None:
    """Encoding one more character of a path, which makes it one that is not plain, does not change its meaning."""
    encoded = b"".join(b"%%%02X" % byte if byte not in b"/%" else bytes([byte]) for byte in path)
    if unquote_to_bytes(path) != unquote_to_bytes(encoded):
        # A percent sign and what follows it are left as they are.
        encoded = path.replace(b"v", b"%76").replace(b"x", b"%78").replace(b".", b"%2E")
    outcomes = []
    for text in (path, encoded):
        try:
            outcomes.append(normalize_path(text))
        except ValueError as problem:
            outcomes.append(str(problem))
    assert outcomes[0] == outcomes[1]

"""One reading of every path."""

from __future__ import annotations

import pytest

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

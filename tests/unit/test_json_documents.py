"""JSON documents: numbers keep their value and can be read by strict parsers; nesting has a limit."""

from __future__ import annotations

import json
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from barbtx.api import json_documents
from barbtx.api.validation import read_json
from barbtx.errors import MalformedJSON

_SCALARS = st.none() | st.booleans() | st.integers(-(10**40), 10**40) | st.text() | st.floats(-(2**53), 2**53)
_DOCUMENTS = st.recursive(
    _SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)


def strictly(text: str) -> object:
    """What a parser reads that knows no more than RFC 8259."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    return json.loads(text, parse_constant=refuse)


@given(_DOCUMENTS)
def test_what_is_read_and_written_again_has_the_same_values(document: object) -> None:
    assert strictly(json_documents.write(json_documents.read(json.dumps(document)))) == document


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_float_comes_back_as_the_same_float(value: float) -> None:
    assert float(strictly(json_documents.write(json_documents.read(json.dumps(value))))) == value


@given(st.integers(-(10**20), 10**20), st.sampled_from(["{}.0", "{}.000", "{}e0", "{}0e-1", "{}E+0", "{}00.0e-2"]))
def test_whole_numbers_are_integers_however_they_are_written(value: int, form: str) -> None:
    read = json_documents.read(form.format(value))
    assert read == value and type(read) is int
    assert json_documents.write(read) == str(value)


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("128.0", "128"),
        ("1e2", "100"),
        ("-0.0", "0"),
        ("0e99999999999999999999", "0"),
        ("9007199254740993.0", "9007199254740993"),
        ("128.0000000000000000000001", "128"),
        ("12345678901234567890.5", "1.2345678901234567e+19"),
        ("0.5", "0.5"),
        ("123456789012345678901234567890", "123456789012345678901234567890"),
        ("1e300", "1e+300"),
        ("1." + "0" * 5000, "1"),
    ],
)
def test_numbers_are_written_as_clients_read_them(text: str, written: str) -> None:
    assert json_documents.write(json_documents.read(text)) == written


_UNUSABLE = [
    "NaN",
    "Infinity",
    "-Infinity",
    "1e400",
    "-1e400",
    "1.5e999999999999",
    "1e-400",
    "-0.1e-400",
    "9" * 310,
    "-" + "9" * 310,
    str(2 * int(sys.float_info.max)),
    "9" * 5000,
    "9" * 5000 + ".0",
]
_PLACES = ["%s", "[%s]", '{"a": %s}', '{"a": [{"b": [0, %s]}]}', '{"a": 1, "a": %s}', '{"a": %s, "a": 1}']


@pytest.mark.parametrize("place", _PLACES)
@pytest.mark.parametrize("number", _UNUSABLE, ids=lambda number: number[:12])
def test_a_number_that_cannot_be_represented_is_refused_anywhere(number: str, place: str) -> None:
    with pytest.raises(MalformedJSON, match="number"):
        json_documents.read(place % number)


@pytest.mark.parametrize("number", ["1e308", "-1e308", "5e-324", str(int(sys.float_info.max)), "0.0e-400"])
def test_the_largest_and_the_smallest_numbers_are_taken(number: str) -> None:
    assert json_documents.read(number) == float(number)


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}"), ('[{"a":', "}]")])
def test_nesting_has_a_limit(opening: str, closing: str) -> None:
    levels = json_documents.MAX_DEPTH // (opening.count("[") + opening.count("{"))
    json_documents.read(opening * levels + "1" + closing * levels)
    for deeper in (levels + 1, 5000):
        with pytest.raises(MalformedJSON, match="nested too deeply"):
            json_documents.read(opening * deeper + "1" + closing * deeper)


@pytest.mark.parametrize("key", ['{"a": {"\\ud800": 1}}', '{"a": [{"b": {"\\udfffx": []}}]}', '{"a": ["\\ud83d"]}'])
def test_half_of_a_surrogate_pair_is_refused_at_any_depth(key: str) -> None:
    with pytest.raises(MalformedJSON, match="surrogate"):
        read_json(key.encode(), False, 25000)


@pytest.mark.parametrize(
    ("stored", "shown"),
    [
        ('{"x": Infinity, "y": [-Infinity, {"z": NaN}]}', {"x": None, "y": [None, {"z": None}]}),
        ('{"x": 1e400, "bit_length": 256.0}', {"x": None, "bit_length": 256}),
        ("[" * 900 + "]" * 900, {}),
        ("[" * 5000 + "]" * 5000, {}),
        ("not JSON", {}),
    ],
)
def test_what_earlier_releases_stored_is_shown_as_json(stored: str, shown: object) -> None:
    text = json_documents.write(json_documents.read_stored(stored))
    assert strictly(text) == shown and ".0" not in text


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [float("-inf")]])
def test_what_is_not_json_is_never_written(value: object) -> None:
    with pytest.raises(ValueError, match="float"):
        json_documents.write({"a": value})

"""Parsing of JSON request bodies, and their validation against JSON Schemas."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import attrs
import jsonschema_rs

from barbtx.api import json_documents
from barbtx.errors import MalformedJSON, SchemaMismatch


def read_json(body: bytes, too_large: bool, limit: int) -> dict[str, Any]:
    """Parse a JSON object, and strip white space from all string values.

    :param too_large: whether the body exceeds the limit.
    :param limit: maximum length in bytes, for the error's description.
    :raises MalformedJSON: the body is too large, not a JSON object in UTF-8, or has values that cannot be represented.
    """
    if too_large:
        raise MalformedJSON(f"the body is longer than {limit} bytes")
    try:
        document = _strip(json_documents.read(body.decode()))
    except UnicodeEncodeError:
        raise MalformedJSON("a string contains a lone surrogate") from None
    except UnicodeDecodeError:
        raise MalformedJSON("the body is not UTF-8") from None
    if not isinstance(document, dict):
        raise MalformedJSON("the body is not an object")
    return document


def _strip(value: Any) -> Any:
    if isinstance(value, str):
        value.encode()
        return value.strip()
    if isinstance(value, dict):
        for key in value:
            key.encode()
        return {key: _strip(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_strip(item) for item in value]
    return value


@attrs.frozen
class Schema:
    """A compiled JSON Schema.

    :ivar name: name of the schema in error responses.
    :ivar source: the JSON Schema.
    :ivar parts: schemas, by property, of properties that are validated separately; only for the OpenAPI document.
    """

    name: str
    source: dict[str, Any]
    parts: Mapping[str, Schema] = attrs.field(factory=dict)
    _validator: Any = attrs.field(init=False, repr=False)

    @_validator.default
    def _compile(self) -> Any:
        return jsonschema_rs.validator_for(self.source)

    @property
    def with_parts(self) -> dict[str, Any]:
        """The JSON Schema including those of the parts."""
        properties = self.source.get("properties", {}) | {name: part.with_parts for name, part in self.parts.items()}
        return self.source | {"properties": properties}

    def check(self, document: Any) -> None:
        """Validate a document.

        :raises SchemaMismatch: the document is not valid. The description names the property and the violated rule, but
            not the value, which may be a payload.
        """
        if self._validator.is_valid(document):
            return
        error = next(self._validator.iter_errors(document))
        path = [str(part) for part in error.instance_path]
        rule = error.kind.name
        if rule == "required":
            path.append(error.kind.property)
        raise SchemaMismatch(self.name, _REASONS.get(rule, _other)(error), ".".join(path))


_REASONS: dict[str, Callable[[Any], str]] = {
    "required": lambda error: f"'{error.kind.property}' is a required property",
    "type": lambda error: "the value is of the wrong type",
    "enum": lambda error: f"the value is not one of {error.kind.options}",
    "minLength": lambda error: "the value must not be empty",
    "maxLength": lambda error: f"the value is longer than {error.kind.limit} characters",
    "minimum": lambda error: f"the value is less than {error.kind.limit}",
    "maximum": lambda error: f"the value is greater than {error.kind.limit}",
    "additionalProperties": lambda error: "a property is not allowed",
}


def _other(error: Any) -> str:
    return "the value is not allowed"

"""Request bodies: from bytes to an object of the right shape, or to an error that says what is wrong with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import attrs
import jsonschema_rs

from barbtx.api import json_documents
from barbtx.errors import MalformedJSON, SchemaMismatch


def read_json(body: bytes, too_large: bool, limit: int) -> dict[str, Any]:
    """Read a JSON object; white space around every string value is dropped.

    :param too_large: whether the body was cut at the limit.
    :param limit: bytes.
    :raises MalformedJSON: it is not one, or holds what cannot be represented.
    """
    if too_large:
        raise MalformedJSON(f"the body is longer than {limit} bytes")
    try:
        document = _stripped(json_documents.read(body.decode()))
    except UnicodeEncodeError:
        raise MalformedJSON("a string has half of a surrogate pair") from None
    except UnicodeDecodeError:
        raise MalformedJSON("the body is not UTF-8") from None
    if not isinstance(document, dict):
        raise MalformedJSON("the body is not an object")
    return document


def _stripped(value: Any) -> Any:
    if isinstance(value, str):
        value.encode()
        return value.strip()
    if isinstance(value, dict):
        for key in value:
            key.encode()
        return {key: _stripped(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_stripped(item) for item in value]
    return value


@attrs.frozen
class Schema:
    """A compiled JSON Schema with the name that clients see in errors.

    :ivar parts: schemas of properties that are checked on their own, under names of their own; for descriptions.
    """

    name: str
    source: dict[str, Any]
    parts: Mapping[str, Schema] = attrs.field(factory=dict)
    _validator: Any = attrs.field(init=False, repr=False)

    @_validator.default
    def _compile(self) -> Any:
        return jsonschema_rs.validator_for(self.source)

    @property
    def whole(self) -> dict[str, Any]:
        """The schema with its parts in their places."""
        properties = self.source.get("properties", {}) | {name: part.whole for name, part in self.parts.items()}
        return self.source | {"properties": properties}

    def check(self, document: Any) -> None:
        """Hold a document against the schema.

        :raises SchemaMismatch: it does not fit. The text names the property and the rule, never the value: it may be a
            payload.
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
    "additionalProperties": lambda error: "there is a property that is not allowed",
}


def _other(error: Any) -> str:
    return "the value is not allowed"

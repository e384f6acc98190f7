"""The directive ``rest-api``: a reference of the REST API, made from the service's OpenAPI description."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from itertools import groupby
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from sphinx.util.nodes import nested_parse_with_titles

from barbtx.api.openapi import describe_service

_METHODS = ("get", "post", "put", "patch", "delete")
_LIMITS = {
    "minimum": "at least {}",
    "maximum": "at most {}",
    "minLength": "at least {} {}",
    "maxLength": "at most {} {}",
    "pattern": "matches ``{}``",
}
_CODE = re.compile(r"`([^`]+)`")

Schema = Mapping[str, Any]


class RestAPI(SphinxDirective):
    """Inserts one section for each resource."""

    def run(self) -> list[nodes.Node]:
        """Return the sections."""
        container = nodes.section()
        container.document = self.state.document
        lines = StringList(list(_describe(describe_service())), source="openapi.json")
        nested_parse_with_titles(self.state, lines, container)
        return container.children


def _describe(document: Mapping[str, Any]) -> Iterator[str]:
    for resource, paths in groupby(document["paths"].items(), lambda item: _resource(item[0])):
        yield from _titled(resource, "=")
        for path, described in paths:
            for method in _METHODS:
                if method in described:
                    parameters = [*described.get("parameters", []), *described[method].get("parameters", [])]
                    yield from _operation(f"{method.upper()} {path}", described[method], parameters)


def _resource(path: str) -> str:
    parts = path.strip("/").split("/")
    return "Versions" if len(parts) < 2 else parts[1].replace("-", " ").replace("_", " ").capitalize()


def _titled(title: str, line: str) -> Iterator[str]:
    yield from (title, line * len(title), "")


def _operation(title: str, operation: Mapping[str, Any], parameters: list[Mapping[str, Any]]) -> Iterator[str]:
    yield from _titled(f"``{title}``", "-")
    yield from (f"{operation['summary']}.", "")
    if parameters:
        yield from _table(
            ("parameter", "in", "type", "description"),
            [
                (f"``{given['name']}``", given["in"], _type(given["schema"]), _inline(given["description"]))
                for given in parameters
            ],
        )
    for media_type, content in operation.get("requestBody", {}).get("content", {}).items():
        yield from (f"Request body: ``{media_type}``.", "")
        yield from _fields(content.get("schema", {}), "required")
    for status, response in operation["responses"].items():
        # Every operation has the same refusals; the page describes them once.
        if status.isdigit() and int(status) < 400:
            kinds = " or ".join(f"``{kind}``" for kind in response.get("content", {})) or "no body"
            yield from (f"Response {status}: {kinds}.", "")
            yield from _fields(
                response.get("content", {}).get("application/json", {}).get("schema", {}), "always present"
            )


def _fields(schema: Schema, required: str) -> Iterator[str]:
    rows = list(_rows(schema, "", required))
    if rows:
        yield from _table(("field", "type", ""), rows)


def _rows(schema: Schema, prefix: str, required: str) -> Iterator[tuple[str, str, str]]:
    """A row for each property, those of nested objects with the path to them."""
    for name, described in schema.get("properties", {}).items():
        path = f"{prefix}{name}"
        yield f"``{path}``", _type(described), required if name in schema.get("required", ()) else ""
        yield from _rows(described, f"{path}.", required)
        yield from _rows(described.get("items", {}), f"{path}[].", required)


def _type(schema: Schema) -> str:
    if "$ref" in schema:
        return "a reference"
    kinds = schema.get("type", [])
    parts = [" or ".join([kinds] if isinstance(kinds, str) else kinds)] if kinds else []
    if "items" in schema:
        parts[0] = f"{parts[0]} of {_type(schema['items'])}"
    if "enum" in schema:
        parts.append("one of " + ", ".join(f"``{json.dumps(value)}``" for value in schema["enum"]))
    parts += [
        text.format(schema[keyword], "character" if schema[keyword] == 1 else "characters")
        for keyword, text in _LIMITS.items()
        if keyword in schema
    ]
    return ", ".join(parts) or "any"


def _inline(text: str) -> str:
    """CommonMark as reStructuredText, as far as descriptions use it."""
    return _CODE.sub(r"``\1``", text)


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> Iterator[str]:
    yield from (".. list-table::", "   :header-rows: 1", "")
    for row in [head, *rows]:
        for number, cell in enumerate(row):
            yield f"   {'*' if number == 0 else ' '} - {cell}"
    yield ""


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("rest-api", RestAPI)
    return {"parallel_read_safe": True}

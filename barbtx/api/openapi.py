"""The service's description of itself, OpenAPI 3.1, made from its routes and the schemas that requests go through."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from twisted.web.iweb import IRequest
from twisted.web.resource import Resource

from barbtx import __version__
from barbtx.api import json_documents
from barbtx.api.dispatch import Controller, Operation, RawBody, UntypedBody
from barbtx.api.negotiation import JSON
from barbtx.api.responses import Response, write_error, write_response
from barbtx.api.root import Builder
from barbtx.api.routes import ROOT_ROUTES, V1_ROUTES
from barbtx.api.schemas.responses import ERROR_BODY
from barbtx.errors import MethodNotAllowed, NotFound, describe

_PLACEHOLDER = re.compile(r"<(?:path:)?(\w+)>")
_METHODS = ("get", "post", "put", "patch", "delete")
_TEXT = {"type": "string"}


def describe_service() -> dict[str, Any]:
    """The OpenAPI document."""
    paths = {
        _PLACEHOLDER.sub(r"{\1}", route): _describe_path(route, controller)
        for route, controller in {**ROOT_ROUTES, **V1_ROUTES}.items()
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "barbtx: OpenStack Key Manager API", "version": __version__},
        "paths": paths,
        "components": {"schemas": {"Fault": ERROR_BODY}},
    }


def _describe_path(route: str, controller: type[Controller]) -> dict[str, Any]:
    described: dict[str, Any] = {}
    if parameters := [
        {"name": name, "in": "path", "required": True, "schema": _TEXT} for name in _PLACEHOLDER.findall(route)
    ]:
        described["parameters"] = parameters
    for method in _METHODS:
        operation = getattr(controller, f"on_{method}", None)
        if isinstance(operation, Operation):
            described[method] = _describe_operation(operation, method, route)
    return described


def _describe_operation(operation: Operation, method: str, route: str) -> dict[str, Any]:
    described: dict[str, Any] = {
        "summary": operation.name,
        "operationId": f"{method} {route}",
        "responses": _describe_answers(operation),
    }
    parameters = [{"name": name, "in": "query", "schema": _TEXT} for name in operation.query]
    if operation.repeatable:
        parameters.append(
            {"name": "Idempotency-Key", "in": "header", "schema": {"type": "string", "pattern": "^[!-~]{1,255}$"}}
        )
    if parameters:
        described["parameters"] = parameters
    body = operation.body
    if isinstance(body, RawBody):
        described["requestBody"] = {"required": True, "content": {kind: {} for kind in body.media_types}}
    elif body is not None:
        schema = body.schema.whole if isinstance(body, UntypedBody) else body.whole
        described["requestBody"] = {"required": True, "content": {JSON: {"schema": schema}}}
    return described


def _describe_answers(operation: Operation) -> dict[str, Any]:
    fault = {"schema": {"$ref": "#/components/schemas/Fault"}}
    refused: dict[str, Any] = {
        "description": "The request is refused; the description says why and how to mend it.",
        # The steps before the application answer in text if JSON is not asked for.
        "content": {JSON: fault, "text/plain": {"schema": _TEXT}},
    }
    answers: dict[str, Any] = {}
    for status in operation.success:
        answer: dict[str, Any] = {"description": operation.name}
        if status not in (204, 302):
            content: dict[str, Any] = {kind: {} for kind in operation.media_types}
            if operation.answer is not None:
                content[JSON] = {"schema": operation.answer}
            answer["content"] = content
        answers[str(status)] = answer
    unavailable = {
        "description": "Something that the service needs is down; nothing was changed.",
        "content": {JSON: fault},
    }
    return {**answers, "4XX": refused, "503": unavailable}


class Description(Resource):
    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self._document = json_documents.write(describe_service()).encode()

    def render(self, request: IRequest) -> bytes:
        if len(request.postpath) > 1:
            return write_error(request, describe(NotFound("There is nothing below /openapi.json."), "Description"))
        if request.method not in (b"GET", b"HEAD"):
            return write_error(request, describe(MethodNotAllowed(("GET", "HEAD")), "Description"))
        return write_response(request, Response(content=self._document))


def app_factory(global_conf: Mapping[str, str]) -> Builder:
    """PasteDeploy application factory."""
    return lambda dependencies: Description()

"""Handling of a request after routing: the checks that precede every handler, and its response.

The contract (section 1.2) defines the order of the checks: the object exists (404), the resource has the method (405),
the client accepts the response (406), policy allows the operation (403), the Content-Type (415) and the body (400, 413)
are valid.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Generic, TypeVar

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from barbtx import activity
from barbtx.api.call import Call
from barbtx.api.dependencies import Dependencies
from barbtx.api.http import Request
from barbtx.api.idempotency import IdempotentRequest
from barbtx.api.negotiation import JSON
from barbtx.api.operation import Operation, RawBody, UntypedBody
from barbtx.api.responses import Response, add_vary, write_error, write_response
from barbtx.api.validation import read_json
from barbtx.errors import Forbidden, MethodNotAllowed, NotAcceptable, UnsupportedMediaType, to_error_response

log = Logger()

T = TypeVar("T")

#: Methods that change nothing (RFC 9110, section 9.2.1).
SAFE_METHODS = frozenset({"GET", "HEAD"})
#: The methods that a controller may have an operation for.
METHODS = ("DELETE", "GET", "PATCH", "POST", "PUT")


@attrs.frozen
class ResolvedResource(Generic[T]):
    """The object that a path identifies.

    :ivar record: the stored object, which handlers receive.
    :ivar target: the object's attributes for policy.
    """

    record: T
    target: Mapping[str, object] = attrs.field(factory=dict)


class Controller(Generic[T]):
    """The resources of one URL shape.

    ``on_get``, ``on_post``, ``on_put``, ``on_patch`` and ``on_delete`` are operations, as far as the resource has them.

    :cvar name: name in error responses to methods that the resource does not have.
    :cvar on_other: the operation for all other methods; None to respond with 405.
    """

    name = "Request"
    on_other: Operation | None = None

    async def resolve(self, call: Call) -> ResolvedResource[T]:
        """Find the object that the path identifies.

        :raises NotFound: the object does not exist.
        """
        raise NotImplementedError

    def operation_for(self, call: Call) -> Operation | None:
        """Return the operation that handles a call; None if the resource does not have the method."""
        operation = self._operation(call.method) if call.method in METHODS else None
        return operation or self.on_other

    @property
    def allow(self) -> tuple[str, ...]:
        """The methods for the ``Allow`` header."""
        return tuple(method for method in METHODS if self._operation(method) is not None)

    def _operation(self, method: str) -> Operation | None:
        operation = getattr(self, f"on_{method.lower()}", None)
        return operation if isinstance(operation, Operation) else None


class CollectionController(Controller[None]):
    """A resource that always exists, such as a collection. Its handlers receive None as the object."""

    async def resolve(self, call: Call) -> ResolvedResource[None]:
        """Return an empty resource."""
        return ResolvedResource(None)


@attrs.frozen
class Endpoint:
    """A controller as a function that Klein calls: checks the request, calls the handler and renders the response."""

    controller: Controller[Any]
    dependencies: Dependencies

    def __call__(self, request: Request, **ids: str) -> Deferred[bytes]:
        """Handle a request.

        :param ids: the variable segments of the path.
        :return: fires with the response's body. Canceling it, as Klein does when the client disconnects, cancels the
            handlers of safe methods only; others complete, so that no change is left half done.
        """
        project_id = request.context.project_id if request.context is not None else None
        activity.note(project_id=project_id, order_id=ids.get("order_id"))
        call = Call(request, self.dependencies, ids)
        running = Deferred.fromCoroutine(self._respond(call))
        return running if call.method in SAFE_METHODS else _shield(running)

    async def _respond(self, call: Call) -> bytes:
        call.operation = operation = self.controller.operation_for(call)
        if operation is not None and operation.varies_by_accept:
            add_vary(call.request, b"Accept")
        try:
            return write_response(call.request, await self._perform(call))
        except CancelledError:
            return b""
        except Exception as problem:
            return _write_error(call.request, problem, operation.name if operation else self.controller.name)

    async def _perform(self, call: Call) -> Response:
        resource = await self.controller.resolve(call)
        operation = call.operation
        if operation is None:
            raise MethodNotAllowed(self.controller.allow)
        if not operation.accepts(call.header("accept")):
            raise NotAcceptable("No representation of this resource is acceptable according to the Accept header.")
        if operation.rule is not None and not self.dependencies.policy.allows(
            operation.rule, call.context, resource.target
        ):
            raise Forbidden(rule=operation.rule)
        document = self._read_body(call, operation)
        handle = partial(operation.handler, self.controller, call, resource.record)
        if document is not None:
            handle = partial(handle, document)
            if operation.supports_idempotency:
                call.idempotent_request = IdempotentRequest.from_call(call)
        if operation.needs_base_url and call.method not in SAFE_METHODS:
            # An invalid Host header must be reported before anything changes.
            call.base_url()
        if call.idempotent_request is not None:
            return await call.idempotent_request.respond(call, handle)
        return await handle()

    def _read_body(self, call: Call, operation: Operation) -> dict[str, Any] | None:
        """Check the Content-Type, and read and validate a JSON body; None if the operation takes no JSON."""
        body = operation.body
        if body is None:
            return None
        if isinstance(body, RawBody):
            if call.content_type not in body.media_types:
                raise UnsupportedMediaType(body.media_types)
            return None
        if isinstance(body, UntypedBody):
            schema = body.schema
        elif call.content_type == JSON:
            schema = body
        else:
            raise UnsupportedMediaType((JSON,))
        document = read_json(call.body, call.body_too_large, self.dependencies.conf.max_allowed_request_size_in_bytes)
        schema.check(document)
        return document


def _shield(running: Deferred[bytes]) -> Deferred[bytes]:
    """Return a Deferred with the same result, whose cancellation does not cancel the original."""
    shielded: Deferred[bytes] = Deferred()

    def finish(result: bytes | Failure) -> None:
        if not shielded.called:
            shielded.callback(result)

    running.addBoth(finish)
    return shielded


def _write_error(request: Request, problem: Exception, operation: str) -> bytes:
    response = to_error_response(problem, operation)
    if response.status == 500:
        log.failure("{operation} failed", failure=Failure(problem), operation=operation, request_id=request.request_id)
    return write_error(request, response)

"""From a route to an answer: the order of checks that every request goes through, so that no handler can forget one.

The order is the contract's (section 1.2): the object is there (404), the method is known (405), Accept (406), policy
(403), Content-Type (415), the body (400, 413), and only then the handler.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import cached_property
from typing import Any
from urllib.parse import parse_qsl

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from barbtx import activity
from barbtx.api import hrefs
from barbtx.api.dependencies import Dependencies
from barbtx.api.idempotency import IdempotentRequest
from barbtx.api.middleware.microversion import Version
from barbtx.api.negotiation import JSON, accepts_anything, accepts_json
from barbtx.api.responses import Response, add_vary, write_error, write_response
from barbtx.api.validation import Schema, read_json
from barbtx.errors import (
    Forbidden,
    InvalidQuery,
    MethodNotAllowed,
    NotAcceptable,
    UnsupportedMediaType,
    describe,
)
from barbtx.identity.context import RequestContext
from barbtx.model.records import Created
from barbtx.model.repositories.idempotency import IdempotencyRecord

log = Logger()

READS = frozenset({"GET", "HEAD"})
#: The methods that a controller may have an operation for.
METHODS = ("DELETE", "GET", "PATCH", "POST", "PUT")


@attrs.define(slots=False)
class Call:
    """A request as handlers see it.

    :ivar ids: what the route took from the path.
    """

    request: Any
    dependencies: Dependencies
    ids: Mapping[str, str]
    repeatable: IdempotentRequest | None = None

    def use(self, created: Created) -> IdempotencyRecord | None:
        """What to remember with what the request creates, so that its repetition gets the same answer."""
        return self.repeatable and self.repeatable.use(created, self.dependencies.conf)

    @property
    def context(self) -> RequestContext:
        return self.request.context

    @property
    def method(self) -> str:
        return self.request.method.decode("ascii", "replace")

    @property
    def microversion(self) -> Version:
        return self.request.microversion

    @property
    def body(self) -> bytes:
        return self.request.content.getvalue()

    @property
    def body_too_large(self) -> bool:
        return self.request.too_large

    @cached_property
    def base(self) -> str:
        """Where references in the answer start."""
        return hrefs.base_url(self.request, self.dependencies.conf)

    @cached_property
    def query(self) -> Mapping[str, str]:
        """Query parameters; of a repeated one the first. One without an equals sign is there, and empty.

        Only an ampersand separates them: twisted.web's own reading takes a semicolon in a name for another separator.

        :raises InvalidQuery: they are not UTF-8.
        """
        query: dict[str, str] = {}
        try:
            text = self.request.uri.partition(b"?")[2].decode()
            for name, value in parse_qsl(text, keep_blank_values=True, errors="strict"):
                query.setdefault(name, value)
        except UnicodeDecodeError:
            raise InvalidQuery from None
        return query

    def header(self, name: str) -> str | None:
        """A request header, if it is there; several of one name are joined as one list."""
        values = self.request.requestHeaders.getRawHeaders(name.encode())
        return b",".join(values).decode("utf-8", "replace") if values else None

    @property
    def content_type(self) -> str:
        """The body's media type as it is written, without parameters: upper case is another one."""
        return (self.header("content-type") or "").partition(";")[0].strip()

    def ref(self, collection: str, id: str) -> str:
        return f"{self.base}/v1/{collection}/{id}"


@attrs.frozen
class ResolvedResource:
    """What a path leads to.

    :ivar target: what policy may know of it.
    """

    object: Any = None
    target: Mapping[str, object] = attrs.field(factory=dict)


@attrs.frozen
class RawBody:
    """A body that is taken as it is, if it has one of these media types (exactly, parameters aside)."""

    media_types: tuple[str, ...]


@attrs.frozen
class UntypedBody:
    """A JSON body whose Content-Type does not matter."""

    schema: Schema


@attrs.frozen
class Operation:
    """What one method does on one kind of resource.

    :ivar name: in texts for clients.
    :ivar rule: the policy rule that decides; None only where everybody who is authenticated may.
    :ivar body: a schema for a JSON body, an :class:`UntypedBody`, a :class:`RawBody`, or None for whatever comes to be
        ignored.
    :ivar success: the statuses of success. With what follows it describes the operation to clients and tools.
    :ivar answer: JSON Schema of the answer, if that is JSON.
    :ivar media_types: what else the answer may be.
    :ivar query: the query parameters that count.
    :ivar repeatable: whether an Idempotency-Key counts; the handler passes :meth:`Call.use` to what creates.
    :ivar refers: whether the answer, if it has a body, has a reference in it or beside it.
    """

    handler: Callable[..., Awaitable[Response]]
    name: str
    rule: str | None
    accepts: Callable[[str | None], bool] = accepts_json
    body: Schema | UntypedBody | RawBody | None = None
    success: tuple[int, ...] = (200,)
    answer: Mapping[str, Any] | None = None
    media_types: tuple[str, ...] = ()
    query: tuple[str, ...] = ()
    repeatable: bool = False
    refers: bool = True

    @property
    def negotiates(self) -> bool:
        """Whether the answer depends on the Accept header: its form, or whether it is one of success."""
        return self.accepts is not accepts_anything or bool(self.media_types)

    @property
    def needs_base(self) -> bool:
        """Whether it needs to know by which name the client knows the service, before it changes anything."""
        return self.refers and self.success != (204,)


def operation(
    name: str,
    rule: str | None,
    *,
    accepts: Callable[[str | None], bool] = accepts_json,
    body: Schema | UntypedBody | RawBody | None = None,
    success: tuple[int, ...] = (200,),
    answer: Mapping[str, Any] | None = None,
    media_types: tuple[str, ...] = (),
    query: tuple[str, ...] = (),
    repeatable: bool = False,
    refers: bool = True,
) -> Callable[[Callable[..., Awaitable[Response]]], Operation]:
    """Make a handler an :class:`Operation`; it is called with the call, what was found and, if JSON, the body."""
    return lambda handler: Operation(
        handler, name, rule, accepts, body, success, answer, media_types, query, repeatable, refers
    )


class Controller:
    """One kind of resource; its ``on_get``, ``on_post``… are operations.

    ``on_other``, if there is one, takes the methods that have none.
    """

    #: Name of what is done here, in texts about requests that get no further.
    name = "Request"
    on_other: Operation | None = None

    async def find(self, call: Call) -> ResolvedResource:
        """What the path leads to.

        :raises NotFound: nothing.
        """
        return ResolvedResource()

    def operation_for(self, call: Call) -> Operation | None:
        known = getattr(self, f"on_{call.method.lower()}", None) if call.method in METHODS else None
        return known if isinstance(known, Operation) else self.on_other

    @property
    def allow(self) -> tuple[str, ...]:
        return tuple(method for method in METHODS if isinstance(getattr(self, f"on_{method.lower()}", None), Operation))


@attrs.frozen
class Endpoint:
    """What Klein calls: a controller with everything around it."""

    controller: Controller
    dependencies: Dependencies

    def __call__(self, request: Any, **ids: str) -> Deferred[bytes]:
        """Answer a request.

        A client that goes away cancels reading only: what has begun to change something is not left half done.
        """
        activity.note(project_id=request.context and request.context.project_id, order_id=ids.get("order_id"))
        running = Deferred.fromCoroutine(self._answer(request, ids))
        if request.method.decode("ascii", "replace") in READS:
            return running
        answer: Deferred[bytes] = Deferred()
        running.addBoth(lambda body: None if answer.called else answer.callback(body))
        return answer

    async def _answer(self, request: Any, ids: Mapping[str, str]) -> bytes:
        call = Call(request, self.dependencies, ids)
        operation = self.controller.operation_for(call)
        if operation is not None and operation.negotiates:
            add_vary(request, "Accept")
        try:
            return write_response(request, await self._perform(call, operation))
        except CancelledError:
            return b""
        except Exception as problem:
            name = operation.name if operation else self.controller.name
            return _fail(request, problem, name)

    async def _perform(self, call: Call, operation: Operation | None) -> Response:
        found = await self.controller.find(call)
        if operation is None:
            raise MethodNotAllowed(self.controller.allow)
        if not operation.accepts(call.header("accept")):
            raise NotAcceptable("There is no representation of this resource that the Accept header admits.")
        if operation.rule is not None:
            if not self.dependencies.policy.allows(operation.rule, call.context, found.target):
                raise Forbidden(rule=operation.rule)
        if isinstance(operation.body, RawBody):
            if call.content_type not in operation.body.media_types:
                raise UnsupportedMediaType(operation.body.media_types)
        elif operation.body is not None:
            schema = operation.body
            if isinstance(schema, UntypedBody):
                schema = schema.schema
            elif call.content_type != JSON:
                raise UnsupportedMediaType((JSON,))
            limit = self.dependencies.conf.max_allowed_request_size_in_bytes
            document = read_json(call.body, call.body_too_large, limit)
            schema.check(document)
            if operation.repeatable:
                call.repeatable = IdempotentRequest.of(call)
            if operation.needs_base:
                call.base  # noqa: B018
            if call.repeatable is not None:
                return await call.repeatable.answer(
                    call, lambda: operation.handler(self.controller, call, found, document)
                )
            return await operation.handler(self.controller, call, found, document)
        if call.method not in READS and operation.needs_base:
            call.base  # noqa: B018
        return await operation.handler(self.controller, call, found)


def _fail(request: Any, problem: Exception, operation: str) -> bytes:
    fault = describe(problem, operation)
    if fault.status == 500:
        log.failure("{operation} failed", failure=Failure(problem), operation=operation, request_id=request.request_id)
    return write_error(request, fault)

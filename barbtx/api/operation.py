"""Declarations of a resource's methods: arguments, checks and responses."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import attrs

from barbtx.api.negotiation import accepts_anything, accepts_json
from barbtx.api.responses import Response
from barbtx.api.validation import Schema

#: A controller's method. Its arguments are the controller, the call, the object that the path identifies and, if the
#: operation takes a JSON body, the document.
Handler = Callable[..., Awaitable[Response]]


@attrs.frozen
class RawBody:
    """A request body that is not parsed.

    :ivar media_types: media types without parameters, one of which the ``Content-Type`` must equal.
    """

    media_types: tuple[str, ...]


@attrs.frozen
class UntypedBody:
    """A JSON body that is accepted with any ``Content-Type``."""

    schema: Schema


async def _undefined(*arguments: Any) -> Response:
    raise NotImplementedError("an operation must decorate a handler")


@attrs.frozen(eq=False)
class Operation:
    """A method of a resource: its handler and its properties. Controllers use it as a decorator of the handler.

    :ivar name: name in error texts for clients, such as ``Secret creation``. Clients match on these texts.
    :ivar rule: name of the policy rule; None if every caller is allowed.
    :ivar title: summary in the OpenAPI document, such as ``Create a secret``; empty if the operation is not in it.
    :ivar accepts: decides by the ``Accept`` header, None if there is none, whether the client accepts the response.
    :ivar body: the schema of a JSON body, an :class:`UntypedBody`, a :class:`RawBody`, or None if a body is ignored.
    :ivar success: status codes of successful responses. This and the next three are for the OpenAPI document.
    :ivar response: JSON Schema of a successful response, if it may be JSON.
    :ivar media_types: media types of successful responses other than JSON.
    :ivar query: names of query parameters.
    :ivar supports_idempotency: whether ``Idempotency-Key`` is supported. The handler must pass the result of
        :meth:`~barbtx.api.call.Call.idempotency_record` to the repository that stores the new object.
    :ivar has_references: whether responses contain references, in the body or in a header.
    :ivar handler: the decorated method.
    """

    name: str
    rule: str | None
    title: str = attrs.field(default="", kw_only=True)
    accepts: Callable[[str | None], bool] = attrs.field(default=accepts_json, kw_only=True)
    body: Schema | UntypedBody | RawBody | None = attrs.field(default=None, kw_only=True)
    success: tuple[int, ...] = attrs.field(default=(200,), kw_only=True)
    response: Mapping[str, Any] | None = attrs.field(default=None, kw_only=True)
    media_types: tuple[str, ...] = attrs.field(default=(), kw_only=True)
    query: tuple[str, ...] = attrs.field(default=(), kw_only=True)
    supports_idempotency: bool = attrs.field(default=False, kw_only=True)
    has_references: bool = attrs.field(default=True, kw_only=True)
    handler: Handler = attrs.field(default=_undefined, kw_only=True)

    def __call__(self, handler: Handler) -> Operation:
        """Return the operation with a handler."""
        return attrs.evolve(self, handler=handler)

    @property
    def varies_by_accept(self) -> bool:
        """Whether the ``Accept`` header affects the response."""
        return self.accepts is not accepts_anything or bool(self.media_types)

    @property
    def needs_base_url(self) -> bool:
        """Whether the base URL must be known before the operation changes anything."""
        return self.has_references and self.success != (204,)

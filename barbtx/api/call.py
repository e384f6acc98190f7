"""A request as controllers see it."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import parse_qsl

import attrs

from barbtx.api import hrefs
from barbtx.api.dependencies import Dependencies
from barbtx.api.http import Request
from barbtx.api.idempotency import IdempotentRequest
from barbtx.api.middleware.microversion import Version
from barbtx.api.operation import Operation
from barbtx.errors import Forbidden, InvalidQuery
from barbtx.identity.context import RequestContext
from barbtx.model.records import Created
from barbtx.model.repositories.idempotency import IdempotencyRecord


@attrs.define(eq=False)
class Call:
    """A request as controllers see it.

    :ivar method: the HTTP method, in upper case.
    :ivar ids: the variable segments of the path, by the names that the route gives them.
    :ivar operation: the operation that handles the method; None if the resource has none.
    :ivar idempotent_request: set if the request has an ``Idempotency-Key`` and the operation supports it.
    """

    request: Request
    dependencies: Dependencies
    ids: Mapping[str, str]
    operation: Operation | None = None
    idempotent_request: IdempotentRequest | None = None
    method: str = attrs.field(init=False)
    _query: Mapping[str, str] | None = attrs.field(default=None, init=False)
    _base_url: str | None = attrs.field(default=None, init=False)

    @method.default
    def _method(self) -> str:
        return self.request.method.decode("ascii", "replace")

    @property
    def context(self) -> RequestContext:
        """The caller. Only pipelines with an authentication step set it."""
        if self.request.context is None:
            raise RuntimeError("the pipeline has no authentication step")
        return self.request.context

    @property
    def project_id(self) -> str:
        """External id of the caller's project.

        :raises Forbidden: the caller is anonymous.
        """
        if self.context.project_id is None:
            raise Forbidden
        return self.context.project_id

    @property
    def microversion(self) -> Version:
        """The API version that the request negotiated."""
        if self.request.microversion is None:
            raise RuntimeError("the pipeline has no microversion step")
        return self.request.microversion

    @property
    def body(self) -> bytes:
        """The body, or its beginning if it is too large."""
        return self.request.content.getvalue()

    @property
    def body_too_large(self) -> bool:
        """Whether the body exceeds the limit for all requests."""
        return self.request.too_large

    @property
    def query(self) -> Mapping[str, str]:
        """Query parameters. The first value of a repeated parameter counts; one without ``=`` has an empty value.

        Only ``&`` separates parameters. twisted.web's ``args`` is not used because it splits at ``;`` too.

        :raises InvalidQuery: the query string is not UTF-8.
        """
        if self._query is None:
            query: dict[str, str] = {}
            text = self.request.uri.partition(b"?")[2]
            try:
                for name, value in parse_qsl(text.decode(), keep_blank_values=True, errors="strict") if text else ():
                    query.setdefault(name, value)
            except UnicodeDecodeError:
                raise InvalidQuery from None
            self._query = query
        return self._query

    def header(self, name: str) -> str | None:
        """Return the value of a request header, or None. The values of repeated headers are joined by commas."""
        values = self.request.requestHeaders.getRawHeaders(name.encode())
        return b",".join(values).decode("utf-8", "replace") if values else None

    @property
    def content_type(self) -> str:
        """The body's media type without parameters. The API compares media types case-sensitively."""
        return (self.header("content-type") or "").partition(";")[0].strip()

    def base_url(self) -> str:
        """Return the URL that references start with, without a trailing slash.

        :raises BadRequest: the Host header is missing or not valid.
        """
        if self._base_url is None:
            self._base_url = hrefs.base_url(self.request, self.dependencies.conf)
        return self._base_url

    def collection_ref(self, collection: str) -> str:
        """Return the reference to a collection, such as ``secrets``."""
        return f"{self.base_url()}/v1/{collection}"

    def ref(self, collection: str, object_id: str) -> str:
        """Return the reference to an object in a collection."""
        return f"{self.base_url()}/v1/{collection}/{object_id}"

    def idempotency_record(self, created: Created) -> IdempotencyRecord | None:
        """Return the record to store with a new object, so that a retry of the request gets the same response.

        :return: None if the request has no ``Idempotency-Key``.
        """
        if self.idempotent_request is None:
            return None
        return self.idempotent_request.record(created, self.dependencies.conf)

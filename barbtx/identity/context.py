"""The caller of a request, as the authentication step found them to be."""

from __future__ import annotations

import attrs


@attrs.frozen
class RequestContext:
    """Who asks.

    :ivar project_id: the Keystone project that the request is scoped to.
    :ivar roles: role names in lower case.
    :ivar request_id: ``req-<uuid>``.
    """

    project_id: str
    user_id: str | None
    roles: frozenset[str]
    request_id: str
    domain_id: str | None = None
    user_domain_id: str | None = None
    project_domain_id: str | None = None

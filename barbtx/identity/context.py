"""The caller of a request, as the authentication middleware identified them."""

from __future__ import annotations

import attrs


@attrs.frozen
class RequestContext:
    """The caller of a request.

    :ivar project_id: the Keystone project that the request is scoped to; None only for anonymous callers, where the
        configuration allows them.
    :ivar user_id: None for anonymous callers too.
    :ivar roles: role names in lower case.
    :ivar request_id: ``req-<uuid>``.
    :ivar service_roles: role names of the service that acts for the user, if one does.
    :ivar is_admin_project: whether the project is the cloud's admin project; true if the cloud has none.
    """

    project_id: str | None
    user_id: str | None
    roles: frozenset[str]
    request_id: str
    domain_id: str | None = None
    user_domain_id: str | None = None
    project_domain_id: str | None = None
    service_user_id: str | None = None
    service_project_id: str | None = None
    service_roles: frozenset[str] = frozenset()
    service_user_domain_id: str | None = None
    service_project_domain_id: str | None = None
    is_admin_project: bool = True

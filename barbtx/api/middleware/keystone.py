"""Asks Keystone who they are: the way for everything but a laptop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import attrs
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from barbtx.api.dependencies import Dependencies
from barbtx.api.middleware.base import Filter
from barbtx.api.responses import Response, write_response
from barbtx.api.root import Builder
from barbtx.errors import ErrorResponse
from barbtx.identity.context import RequestContext
from barbtx.identity.keystone.access_rules import normalize
from barbtx.identity.keystone.fair_scheduler import Requester
from barbtx.identity.keystone.tokens import Identity, InvalidToken, TokenValidator

log = Logger()

# What keystonemiddleware would tell an application in. Here nothing reads them; they go all the same, so that nothing
# ever will.
_IDENTITY_HEADERS = tuple(
    f"x-{prefix}{name}".encode()
    for prefix in ("", "service-")
    for name in (
        "identity-status",
        "project-id",
        "project-name",
        "project-domain-id",
        "project-domain-name",
        "user-id",
        "user-name",
        "user-domain-id",
        "user-domain-name",
        "domain-id",
        "domain-name",
        "roles",
        "role",
        "tenant-id",
        "tenant-name",
        "tenant",
        "user",
        "is-admin-project",
        "system-scope",
    )
)


@attrs.frozen(eq=False)
class KeystoneAuth(Filter):
    """Makes the context from ``X-Auth-Token`` and, if a service acts for a user, ``X-Service-Token``.

    :ivar challenge: the ``WWW-Authenticate`` header of refusals, from which clients learn where Keystone is.
    :ivar service_roles: any of which makes a service token one.
    :ivar anonymous: whether requests without a valid token go on, as nobody.
    :ivar service_type: by which access rules name this service.
    :ivar prefix: the path under which clients know the service, if it is not the root.
    """

    validator: TokenValidator
    challenge: str
    service_roles: frozenset[str]
    service_roles_required: bool
    anonymous: bool
    service_type: str
    prefix: str

    def before(self, request: Any) -> Deferred[None] | None:
        for name in _IDENTITY_HEADERS:
            request.requestHeaders.removeHeader(name)
        try:
            tokens = _token(request, b"x-auth-token"), _token(request, b"x-service-token")
            if tokens[1] is None:
                known = self.validator.known(tokens[0] or b"")
                if known is not None:
                    request.context = self._context(request, known, None)
                    return None
        except InvalidToken as problem:
            self._refused(request, problem)
            return None
        return Deferred.fromCoroutine(self._settle(request, *tokens))

    async def _settle(self, request: Any, token: bytes | None, service_token: bytes | None) -> None:
        try:
            service = None
            if service_token is not None:
                service = await self._identity(request, service_token)
                if not service.roles & self.service_roles:
                    if self.service_roles_required:
                        raise InvalidToken
                    service = None
            identity = await self._identity(request, token or b"", allow_expired=service is not None)
            request.context = self._context(request, identity, service)
        except InvalidToken as problem:
            self._refused(request, problem)

    async def _identity(self, request: Any, token: bytes, *, allow_expired: bool = False) -> Identity:
        known = self.validator.known(token, allow_expired=allow_expired)
        if known is not None:
            return known
        asker = Requester(request.sender.group, request.client)
        return await self.validator.validate(token, allow_expired=allow_expired, asker=asker)

    def _context(self, request: Any, identity: Identity, service: Identity | None) -> RequestContext:
        """:raises InvalidToken: the token is for no project, or not for this request."""
        if identity.project_id is None:
            raise InvalidToken
        if service is None:
            self._check_access_rules(request, identity)
        return RequestContext(
            identity.project_id,
            identity.user_id,
            identity.roles,
            request.request_id,
            user_domain_id=identity.user_domain_id,
            project_domain_id=identity.project_domain_id,
            service_user_id=service and service.user_id,
            service_project_id=service and service.project_id,
            service_roles=service.roles if service else frozenset(),
            service_user_domain_id=service and service.user_domain_id,
            service_project_domain_id=service and service.project_domain_id,
            is_admin_project=identity.is_admin_project,
        )

    def _check_access_rules(self, request: Any, identity: Identity) -> None:
        """Rules are for requests of users. A service that acts for a user makes requests that no rule foresees.

        A rule may name the path with the prefix under which the service is published, or without it. Paths are compared
        in the one spelling by which routing decides.

        :raises InvalidToken: the token's access rules do not allow the request.
        """
        if identity.access_rules is None:
            return
        path = normalize(b"/".join(request.postpath).decode())
        method = request.method.decode("ascii", "replace")
        if not identity.access_rules.allow(self.service_type, method, {path, normalize(self.prefix + path)}):
            log.info(
                "the access rules of the caller's application credential do not allow {method} {path} of "
                "{service_type}",
                method=method,
                path=path,
                service_type=self.service_type,
                request_id=request.request_id,
                project_id=identity.project_id,
                user_id=identity.user_id,
            )
            raise InvalidToken

    def _refused(self, request: Any, problem: InvalidToken) -> None:
        if not self.anonymous:
            raise problem
        request.context = RequestContext(None, None, frozenset(), request.request_id)

    def refuse(self, request: Any, fault: ErrorResponse) -> bytes:
        """A 401 in two shapes at once: that of Keystone's middleware, which clients of Keystone read, and our own."""
        if fault.status != 401:
            return super().refuse(request, fault)
        request.fault = fault
        document = {
            "error": {"code": 401, "title": fault.title, "message": fault.description},
            "code": 401,
            "title": fault.title,
            "description": fault.description,
        }
        return write_response(request, Response(401, document, headers={"WWW-Authenticate": self.challenge}))


def _token(request: Any, name: bytes) -> bytes | None:
    values = request.requestHeaders.getRawHeaders(name, [])
    if len(values) > 1:
        raise InvalidToken
    return values[0] if values else None


def filter_factory(global_conf: object) -> Callable[[Builder], Builder]:
    """PasteDeploy filter factory.

    :raises ConfigurationError: (when built) Keystone cannot be asked as configured.
    """

    def build_filter(build: Builder, dependencies: Dependencies) -> KeystoneAuth:
        options = dependencies.conf.keystone_authtoken
        validator = TokenValidator.from_config(dependencies.reactor, dependencies.clock, dependencies.conf)
        dependencies.gauges["tokens"] = validator.gauges
        uri = options.www_authenticate_uri or options.auth_url
        return KeystoneAuth(
            build(dependencies),
            validator,
            f'Keystone uri="{uri}"',
            frozenset(role.lower() for role in options.service_token_roles),
            options.service_token_roles_required,
            options.delay_auth_decision and dependencies.conf.allow_anonymous_access,
            options.service_type,
            urlsplit(dependencies.conf.host_href or "").path,
        )

    return lambda build: lambda dependencies: build_filter(build, dependencies)

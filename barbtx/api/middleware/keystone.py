"""Authenticates requests by Keystone tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import attrs
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from barbtx.api.dependencies import PipelineContext
from barbtx.api.middleware.base import Filter
from barbtx.api.responses import Response, write_response
from barbtx.api.root import Builder
from barbtx.errors import ErrorResponse
from barbtx.identity.context import RequestContext
from barbtx.identity.keystone.access_rules import normalize
from barbtx.identity.keystone.fair_scheduler import Requester
from barbtx.identity.keystone.tokens import Identity, InvalidToken, TokenValidator

if TYPE_CHECKING:
    from barbtx.api.http import Request

log = Logger()

# The headers in which keystonemiddleware passes the identity to an application. barbtx does not read them; they are
# removed from requests so that code that reads them cannot be deceived by a client.
_IDENTITY_HEADERS = frozenset(
    f"X-{prefix}{name.title()}".encode()
    for prefix in ("", "Service-")
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
    """Sets ``request.context`` from ``X-Auth-Token`` and, if a service acts for a user, ``X-Service-Token``.

    :ivar validator: validates tokens and caches the results.
    :ivar challenge: the ``WWW-Authenticate`` header of 401 responses; it tells clients where Keystone is.
    :ivar service_roles: a service token is accepted if it has one of these roles.
    :ivar service_roles_required: whether a request is rejected if its service token has none of these roles; otherwise
        the service token is ignored.
    :ivar anonymous: whether a request without a valid token is processed, with a context that has no project.
    :ivar service_type: the name of this service in access rules.
    :ivar prefix: the path under which the service is published; empty if that is the root.
    """

    validator: TokenValidator = attrs.field(repr=False)
    challenge: str
    service_roles: frozenset[str]
    service_roles_required: bool
    anonymous: bool
    service_type: str
    prefix: str

    def before(self, request: Request) -> Deferred[None] | None:
        """Set the request's context, synchronously if the token's validation is cached.

        :raises InvalidToken: a token is missing, not valid, or not allowed for the request.
        """
        for name in request.received.keys() & _IDENTITY_HEADERS:
            request.requestHeaders.removeHeader(name)
        try:
            tokens = _token(request, b"X-Auth-Token"), _token(request, b"X-Service-Token")
            if tokens[1] is None:
                known = self.validator.cached(tokens[0] or b"")
                if known is not None:
                    request.context = self._context(request, known, None)
                    return None
        except InvalidToken as problem:
            self._reject(request, problem)
            return None
        return Deferred.fromCoroutine(self._authenticate(request, *tokens))

    async def _authenticate(self, request: Request, token: bytes | None, service_token: bytes | None) -> None:
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
            self._reject(request, problem)

    async def _identity(self, request: Request, token: bytes, *, allow_expired: bool = False) -> Identity:
        known = self.validator.cached(token, allow_expired=allow_expired)
        if known is not None:
            return known
        requester = Requester(request.sender.group, request.client)
        return await self.validator.validate(token, allow_expired=allow_expired, requester=requester)

    def _context(self, request: Request, identity: Identity, service: Identity | None) -> RequestContext:
        """Make the context of an authenticated request.

        :raises InvalidToken: the token has no project, or its access rules do not allow the request.
        """
        if identity.project_id is None:
            raise InvalidToken
        if service is None:
            # Access rules apply to requests of users, not to those of services that act for users.
            self._check_access_rules(request, identity)
        return RequestContext(
            identity.project_id,
            identity.user_id,
            identity.roles,
            request.request_id,
            user_domain_id=identity.user_domain_id,
            project_domain_id=identity.project_domain_id,
            service_user_id=service.user_id if service else None,
            service_project_id=service.project_id if service else None,
            service_roles=service.roles if service else frozenset(),
            service_user_domain_id=service.user_domain_id if service else None,
            service_project_domain_id=service.project_domain_id if service else None,
            is_admin_project=identity.is_admin_project,
        )

    def _check_access_rules(self, request: Request, identity: Identity) -> None:
        """Check the access rules of an application credential.

        A rule may contain the path with or without the prefix under which the service is published. The normalized path
        is compared, which is also the one that is routed.

        :raises InvalidToken: the access rules do not allow the request.
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

    def _reject(self, request: Request, problem: InvalidToken) -> None:
        if not self.anonymous:
            raise problem
        request.context = RequestContext(None, None, frozenset(), request.request_id)

    def render_error(self, request: Request, error: ErrorResponse) -> bytes:
        """Render a 401 so that it has the fields of keystonemiddleware's responses as well as those of this API."""
        if error.status != 401:
            return super().render_error(request, error)
        request.error = error
        document = {
            "error": {"code": 401, "title": error.title, "message": error.description},
            "code": 401,
            "title": error.title,
            "description": error.description,
        }
        return write_response(request, Response(401, document, headers={"WWW-Authenticate": self.challenge}))


def _token(request: Request, name: bytes) -> bytes | None:
    values = request.received.get(name, ())
    if len(values) > 1:
        raise InvalidToken
    return values[0] if values else None


def filter_factory(global_conf: object) -> Callable[[Builder], Builder]:
    """Make the step's builder. A PasteDeploy filter factory.

    The builder raises ConfigurationError if the options of ``[keystone_authtoken]`` are not valid.
    """

    def build_filter(build: Builder, context: PipelineContext) -> KeystoneAuth:
        options = context.conf.keystone_authtoken
        validator = TokenValidator.from_config(context.reactor, context.clock, context.conf)
        context.gauges["tokens"] = validator.gauges
        uri = options.www_authenticate_uri or options.auth_url
        return KeystoneAuth(
            build(context),
            validator,
            f'Keystone uri="{uri}"',
            frozenset(role.lower() for role in options.service_token_roles),
            options.service_token_roles_required,
            options.delay_auth_decision and context.conf.allow_anonymous_access,
            options.service_type,
            urlsplit(context.conf.host_href or "").path,
        )

    return lambda build: lambda context: build_filter(build, context)

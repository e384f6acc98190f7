"""Accepts the identity that a client claims in its headers. For development on one machine only."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import attrs
from twisted.logger import Logger

from barbtx.api.dependencies import PipelineContext
from barbtx.api.middleware.base import Filter
from barbtx.api.request_target import host_of, is_loopback
from barbtx.api.responses import Response, write_response
from barbtx.api.root import Builder
from barbtx.errors import BadRequest, ConfigurationError, ErrorResponse, MisdirectedRequest
from barbtx.identity.context import RequestContext

if TYPE_CHECKING:
    from barbtx.api.http import Request

log = Logger()

# WebOb's text for status 400, which clients of the reference implementation receive from this step.
_EXPLANATION = "The server could not comply with the request since it is either malformed or otherwise incorrect."


@attrs.frozen(eq=False)
class NoAuthContext(Filter):
    """Sets ``request.context`` from ``X-Project-Id``, ``X-User-Id`` and ``X-Roles``.

    A web page in a browser on this machine could let its own host name resolve to this machine (DNS rebinding) and send
    these headers. Therefore the ``Host`` header must name ``localhost``, a loopback address or a configured host.

    :ivar admin_role: the role of a request without ``X-Roles``.
    :ivar hosts: additional host names that are accepted, in lower case; None for all.
    """

    admin_role: str
    hosts: frozenset[str] | None

    def before(self, request: Request) -> None:
        """Set the request's context.

        :raises MisdirectedRequest: the ``Host`` header names another host.
        :raises BadRequest: ``X-Project-Id`` is missing, or one of the headers is not valid.
        """
        self._check_host(request)
        project_id = _header(request, b"X-Project-Id")
        if not project_id:
            raise BadRequest("Missing X-Project-Id")
        roles = {role.strip().lower() for role in (_header(request, b"X-Roles") or "").split(",")} - {""}
        request.context = RequestContext(
            project_id=project_id,
            user_id=_header(request, b"X-User-Id"),
            roles=frozenset(roles or {self.admin_role.lower()}),
            request_id=request.request_id,
            domain_id=_header(request, b"X-Domain-Id"),
            user_domain_id=_header(request, b"X-User-Domain-Id"),
            project_domain_id=_header(request, b"X-Project-Domain-Id"),
        )

    def _check_host(self, request: Request) -> None:
        authorities = request.received.get(b"Host")
        if self.hosts is None or not authorities or not authorities[-1]:
            # Browsers always send a Host header, so DNS rebinding is not possible without one.
            return
        host = host_of(authorities[-1])
        if host not in self.hosts and not is_loopback(host):
            raise MisdirectedRequest(
                "Without authentication the service accepts requests only for localhost and loopback addresses. Use "
                "one of these, or ask the operator to add the name to [api] noauth_hosts."
            )

    def render_error(self, request: Request, error: ErrorResponse) -> bytes:
        """Render the error as WebOb does: JSON in WebOb's format if ``Accept`` names JSON, else plain text."""
        if b"application/json" not in request.received.get(b"Accept", (b"",))[-1]:
            return super().render_error(request, error)
        request.error = error
        document = {
            "message": f"{_EXPLANATION}<br /><br />\n{error.description}\n\n",
            "code": f"{error.status} {error.title}",
            "title": error.title,
        }
        return write_response(request, Response(error.status, document))


def _header(request: Request, name: bytes) -> str | None:
    values = request.received.get(name)
    if not values:
        return None
    if len(values) > 1:
        raise BadRequest(f"The header {name.decode()} must not occur more than once.")
    if not values[0]:
        return None
    try:
        text = values[0].decode()
    except UnicodeDecodeError:
        raise BadRequest(f"The header {name.decode()} is not UTF-8.") from None
    if name != b"X-Roles" and len(text) > 255:
        raise BadRequest(f"The header {name.decode()} is longer than 255 characters.")
    return text


def filter_factory(global_conf: object) -> Callable[[Builder], Builder]:
    """Make the step's builder. A PasteDeploy filter factory.

    The builder raises ConfigurationError if other machines could reach the service.
    """

    def build_filter(build: Builder, context: PipelineContext) -> NoAuthContext:
        api = context.conf.api
        if not is_loopback(api.bind_host) and not api.allow_unauthenticated_remote:
            raise ConfigurationError(
                f"the pipeline has no authentication, yet [api] bind_host is {api.bind_host}: everybody who can "
                "connect can read every secret. Bind to 127.0.0.1, or set [api] allow_unauthenticated_remote"
            )
        log.warn(
            "no authentication: this mode trusts the X-Project-Id, X-User-Id and X-Roles headers of every "
            "client, so it listens on {host} only",
            host=api.bind_host,
        )
        hosts = None if api.allow_unauthenticated_remote else frozenset(host.lower() for host in api.noauth_hosts)
        return NoAuthContext(build(context), context.conf.admin_role, hosts)

    return lambda build: lambda context: build_filter(build, context)

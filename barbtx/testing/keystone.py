"""A Keystone in this process, with the part of the Identity API v3 that barbtx uses."""

from __future__ import annotations

import datetime
import json
import secrets
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar, cast
from urllib.parse import unquote

import attrs
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IListeningPort, IReactorTCP
from twisted.internet.protocol import ServerFactory
from twisted.web.resource import Resource
from twisted.web.server import Request, Site

from barbtx.times import Clock, WallClock

#: A reply: HTTP status and body.
Reply = tuple[int, bytes]

_DOMAIN = {"id": "default", "name": "Default"}
_TITLES = {400: "Bad Request", 401: "Unauthorized", 403: "Forbidden", 404: "Not Found"}
_VALIDATORS = frozenset({"admin", "service"})


@attrs.frozen
class _Project:
    id: str
    name: str
    enabled: bool = True


@attrs.frozen
class _User:
    """:ivar roles: role names by project id; those on the system have the key None."""

    id: str
    name: str
    password: str = attrs.field(repr=False)
    roles: dict[str | None, frozenset[str]] = attrs.field(factory=dict)


T = TypeVar("T", _User, _Project)


@attrs.frozen
class _Token:
    """:ivar project_id: its scope; None if it is for the system."""

    user: _User
    project_id: str | None
    roles: frozenset[str]
    expires_at: float
    access_rules: Sequence[Mapping[str, str]] | None


def error_reply(status: int, message: str) -> Reply:
    """Make an error reply in Keystone's form."""
    error = {"code": status, "title": _TITLES.get(status, "Error"), "message": message}
    return status, json.dumps({"error": error}).encode()


def project_reply(project_id: str, name: str = "n", **fields: object) -> Reply:
    """Make the reply to a request for a project that exists.

    :param fields: further fields of the project, or other values.
    """
    project = {"id": project_id, "name": name, "domain_id": "default", "enabled": True, **fields}
    return 200, json.dumps({"project": project}).encode()


_UNAUTHORIZED = error_reply(401, "The request you have made requires authentication.")
_FORBIDDEN = error_reply(403, "You are not authorized to perform the requested action.")


class FakeKeystone(Resource):
    """Answers ``POST`` and ``GET /v3/auth/tokens`` and ``GET /v3/projects/{id}``.

    Users, projects and tokens are added by methods. Tokens are random texts, neither Fernet nor JWS. Everything is in
    the domain ``default``.

    :param clock: wall clock, for the expiry of tokens.
    :param token_seconds: the lifetime of a token.
    :ivar requests: method and path, with its query, of every request so far.
    :ivar replies: replies that override the fake's own, by path without query, such as ``/v3/projects/abc``.
    """

    isLeaf = True

    def __init__(self, clock: Clock | None = None, token_seconds: float = 3600.0) -> None:
        Resource.__init__(self)
        self.requests: list[tuple[str, str]] = []
        self.replies: dict[str, Reply] = {}
        self._clock = clock or WallClock()
        self._token_seconds = token_seconds
        self._projects: dict[str, _Project] = {}
        self._users: dict[str, _User] = {}
        self._tokens: dict[str, _Token] = {}
        self._number = 0
        self._port: IListeningPort | None = None

    @property
    def url(self) -> str:
        """The value for ``[keystone_authtoken] auth_url``, once :meth:`listen` was called."""
        return f"http://127.0.0.1:{self._number}"

    def listen(self, reactor: IReactorTCP) -> None:
        """Listen on a free port of the loopback interface, or on the same port as before :meth:`close`."""
        site = Site(self)
        self._port = reactor.listenTCP(self._number, cast(ServerFactory[Any], site), interface="127.0.0.1")
        self._number = cast(IPv4Address, self._port.getHost()).port

    async def _stop_listening(self) -> None:
        port, self._port = self._port, None
        if port is not None:
            await maybeDeferred(port.stopListening)

    def close(self) -> Deferred[None]:
        """Stop listening; fires when the port is closed."""
        return Deferred.fromCoroutine(self._stop_listening())

    def add_project(self, name: str, project_id: str | None = None, *, enabled: bool = True) -> str:
        """Add or replace a project.

        :param project_id: its id; a new one if it is None.
        :return: its id.
        """
        project_id = project_id or uuid.uuid4().hex
        self._projects[project_id] = _Project(project_id, name, enabled)
        return project_id

    def remove_project(self, project_id: str) -> None:
        """Delete a project; its tokens become invalid."""
        del self._projects[project_id]

    def add_user(self, name: str, password: str) -> str:
        """Add a user without roles.

        :return: the user's id.
        """
        user = _User(uuid.uuid4().hex, name, password)
        self._users[user.id] = user
        return user.id

    def grant(self, user_id: str, role: str, project_id: str | None = None) -> None:
        """Give a user a role.

        :param project_id: the project; None for the system.
        """
        roles = self._users[user_id].roles
        roles[project_id] = roles.get(project_id, frozenset()) | {role}

    def issue_token(
        self, user_id: str, project_id: str | None, access_rules: Sequence[Mapping[str, str]] | None = None
    ) -> str:
        """Issue a token with the roles that a user has now.

        :param project_id: the project that it is for; None for the system.
        :param access_rules: the rules of the application credential that it is from; None if it is from none.
        :return: its text.
        """
        user, text = self._users[user_id], secrets.token_urlsafe(24)
        roles = user.roles.get(project_id, frozenset())
        self._tokens[text] = _Token(user, project_id, roles, self._clock.seconds() + self._token_seconds, access_rules)
        return text

    def revoke(self, token: str) -> None:
        """Make a token invalid."""
        del self._tokens[token]

    def render(self, request: Request) -> bytes:
        """Answer a request."""
        method, uri = request.method.decode("ascii"), request.uri.decode("ascii")
        self.requests.append((method, uri))
        path = request.path.decode("ascii")
        status, content = self.replies.get(path) or self._reply(method, path, request)
        request.setResponseCode(status)
        request.setHeader(b"content-type", b"application/json")
        return content

    def reply_about_project(self, project_id: str) -> Reply:
        """Make the reply to a caller who may read a project; a subclass may reply something else."""
        project = self._projects.get(project_id)
        if project is None:
            return error_reply(404, f"Could not find project: {project_id}.")
        return project_reply(project.id, project.name, enabled=project.enabled)

    def _reply(self, method: str, path: str, request: Request) -> Reply:
        if path == "/v3/auth/tokens" and method == "POST":
            return self._authenticate(request)
        caller = self._valid(request.getHeader("x-auth-token"))
        if caller is None:
            return _UNAUTHORIZED
        if path == "/v3/auth/tokens" and method == "GET":
            return self._validate(caller, request)
        if path.startswith("/v3/projects/") and method == "GET":
            project_id = unquote(path.removeprefix("/v3/projects/"))
            return self.reply_about_project(project_id) if self._may_read(caller, project_id) else _FORBIDDEN
        return error_reply(404, "The resource could not be found.")

    def _authenticate(self, request: Request) -> Reply:
        content = request.content.read() if request.content is not None else b""
        try:
            auth = json.loads(content)["auth"]
            login, scope = auth["identity"]["password"]["user"], auth["scope"]
            user = _find(self._users.values(), login)
            project = None if "system" in scope else _find(self._projects.values(), scope["project"])
            password = login["password"]
        except (ValueError, LookupError, TypeError):
            return error_reply(400, "The request is not a login with a password and a scope.")
        project_id = None if project is None else project.id
        if (
            user is None
            or user.password != password
            or not user.roles.get(project_id)
            or ("system" not in scope and (project is None or not project.enabled))
        ):
            return _UNAUTHORIZED
        text = self.issue_token(user.id, project_id)
        request.setHeader(b"x-subject-token", text.encode("ascii"))
        return 201, self._document(self._tokens[text])

    def _validate(self, caller: _Token, request: Request) -> Reply:
        text = request.getHeader("x-subject-token")
        token = self._valid(text, allow_expired=b"allow_expired" in (request.args or {}))
        if not caller.roles & _VALIDATORS and (token is None or token.user is not caller.user):
            return _FORBIDDEN
        if token is None:
            return error_reply(404, "Could not find token.")
        return 200, self._document(token)

    @staticmethod
    def _may_read(caller: _Token, project_id: str) -> bool:
        if "admin" in caller.roles or caller.project_id == project_id:
            return True
        return caller.project_id is None and "reader" in caller.roles

    def _valid(self, text: str | None, *, allow_expired: bool = False) -> _Token | None:
        token = self._tokens.get(text or "")
        if token is None or (token.expires_at <= self._clock.seconds() and not allow_expired):
            return None
        if token.project_id is not None:
            project = self._projects.get(token.project_id)
            if project is None or not project.enabled:
                return None
        return token

    def _document(self, token: _Token) -> bytes:
        expires_at = datetime.datetime.fromtimestamp(token.expires_at, datetime.UTC)
        document: dict[str, Any] = {
            "user": {"id": token.user.id, "name": token.user.name, "domain": _DOMAIN},
            "roles": [{"id": role, "name": role} for role in sorted(token.roles)],
            "expires_at": expires_at.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        }
        if token.project_id is None:
            document["system"] = {"all": True}
        else:
            project = self._projects[token.project_id]
            document["project"] = {"id": project.id, "name": project.name, "domain": _DOMAIN}
        if token.access_rules is not None:
            document["application_credential"] = {"access_rules": list(token.access_rules)}
        return json.dumps({"token": document}).encode()


def _find(candidates: Iterable[T], wanted: Mapping[str, Any]) -> T | None:
    """Find a user or project that a login names by id or by name; all are in one domain."""
    return next(
        (each for each in candidates if (each.id == wanted["id"] if "id" in wanted else each.name == wanted["name"])),
        None,
    )

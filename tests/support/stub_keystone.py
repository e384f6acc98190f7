"""A Keystone that answers as a test wants it to: no real one denies a project that it has, or is broken on demand."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import unquote

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.web.resource import Resource
from twisted.web.server import Site

OWN = "the-service-project"


def found(project_id: str, **fields: object) -> tuple[int, bytes]:
    """The answer about a project that is there."""
    return 200, json.dumps({"project": {"id": project_id, "name": "n", "enabled": True, **fields}}).encode()


def missing(code: int = 404) -> tuple[int, bytes]:
    """The answer about a project that is not there."""
    error = {"code": code, "title": "Not Found", "message": "Could not find project."}
    return code, json.dumps({"error": error}).encode()


class StubKeystone(Resource):
    """:ivar answers: by project.
    :ivar otherwise: what is answered about all other projects; the service's own one is found.
    :ivar asked: the projects that were asked about.
    """

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.answers: dict[str, tuple[int, bytes]] = {OWN: found(OWN)}
        self.otherwise = missing()
        self.asked: list[str] = []
        self._number, self._port = 0, None

    def listen(self) -> None:
        """Listen on a free port, and again on the same one after :meth:`close`."""
        from twisted.internet import reactor

        self._port = reactor.listenTCP(self._number, Site(self), interface="127.0.0.1")
        self._number = self._port.getHost().port

    def close(self) -> Deferred[None]:
        return maybeDeferred(self._port.stopListening)

    @property
    def settings(self) -> dict[str, object]:
        """What a deployment is configured with to ask this one."""
        return {
            "keystone_authtoken.auth_url": f"http://127.0.0.1:{self._number}",
            "keystone_authtoken.username": "barbtx",
            "keystone_authtoken.password": "p",
            "keystone_authtoken.project_name": "service",
            "keystone_authtoken.circuit_seconds": 0.1,
            "keystone_authtoken.http_request_max_retries": 0,
        }

    def render(self, request: Any) -> bytes:
        if request.method == b"POST":
            request.setResponseCode(201)
            request.setHeader(b"x-subject-token", b"our-own")
            return json.dumps({"token": {"expires_at": "2099-01-01T00:00:00Z", "project": {"id": OWN}}}).encode()
        project_id = unquote(request.path.decode().removeprefix("/v3/projects/"))
        if project_id != OWN:
            self.asked.append(project_id)
        status, content = self.answers.get(project_id, self.otherwise)
        request.setResponseCode(status)
        return content

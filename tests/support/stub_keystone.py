"""A Keystone that replies as a test tells it to: no real one denies a project that it has, or is broken on demand."""

from __future__ import annotations

from barbtx.testing import FakeKeystone
from barbtx.testing.keystone import Reply, error_reply, project_reply

OWN = "the-service-project"


def found(project_id: str, **fields: object) -> Reply:
    """The reply about a project that exists."""
    return project_reply(project_id, **fields)


def missing(code: int = 404) -> Reply:
    """The reply about a project that does not exist."""
    return error_reply(code, "Could not find project.")


class StubKeystone(FakeKeystone):
    """A Keystone whose replies about projects are set by the test, whoever asks.

    :ivar answers: replies by project.
    :ivar otherwise: the reply about all other projects; the service's own one is found.
    :ivar asked: the projects that were asked about, without the service's own one.
    """

    def __init__(self) -> None:
        super().__init__(token_seconds=10**9)
        self.answers: dict[str, Reply] = {OWN: found(OWN)}
        self.otherwise = missing()
        self.asked: list[str] = []
        self.grant(self.add_user("barbtx", "p"), "admin", self.add_project("service", OWN))

    def listen(self) -> None:
        from twisted.internet import reactor

        super().listen(reactor)

    @property
    def settings(self) -> dict[str, object]:
        """The options of a deployment that uses this Keystone."""
        return {
            "keystone_authtoken.auth_url": self.url,
            "keystone_authtoken.username": "barbtx",
            "keystone_authtoken.password": "p",
            "keystone_authtoken.project_name": "service",
            "keystone_authtoken.circuit_seconds": 0.1,
            "keystone_authtoken.http_request_max_retries": 0,
        }

    def reply_about_project(self, project_id: str) -> Reply:
        if project_id != OWN:
            self.asked.append(project_id)
        return self.answers.get(project_id, self.otherwise)

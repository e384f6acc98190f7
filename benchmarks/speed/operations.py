"""The operations that are measured, and the requests that wrk sends for them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import attrs

#: Projects, by what is in them. Nothing else is added to the first two, so that their sizes stay the same.
SMALL, LARGE, WRITES = "benchmark-small", "benchmark-large", "benchmark-writes"
PROJECTS = (SMALL, LARGE, WRITES)
#: Numbers of secrets in the projects whose secrets are listed and read.
SIZES = {SMALL: 50, LARGE: 20000}
PAYLOAD = "a payload of 32 characters, text"


@attrs.frozen
class Load:
    """What wrk sends.

    :ivar paths: they take turns.
    """

    method: str
    paths: Sequence[str]
    headers: Mapping[str, str]
    body: str | None = None


@attrs.frozen
class Operation:
    """An operation of the API.

    :ivar kind: ``read`` or ``write``.
    :ivar status: the status of a successful response.
    :ivar path: ``{id}`` stands for the id of each secret in the small project.
    """

    name: str
    title: str
    kind: str
    status: int
    project: str
    method: str
    path: str
    accept: str = "application/json"
    document: Mapping[str, object] | None = None

    def load(self, ids: Sequence[str], identity: Mapping[str, str]) -> Load:
        """Return the requests for this operation.

        :param ids: of the secrets in the small project.
        :param identity: the headers that say who the caller is.
        """
        paths = [self.path.format(id=each) for each in ids] if "{id}" in self.path else [self.path]
        headers = {**identity, "Accept": self.accept}
        if self.document is None:
            return Load(self.method, paths, headers)
        return Load(self.method, paths, {**headers, "Content-Type": "application/json"}, json.dumps(self.document))

    def is_right(self, content: bytes) -> bool:
        """Return whether the content of a successful response is what it should be."""
        match self.name:
            case "payload":
                return content == PAYLOAD.encode()
            case "secret":
                return json.loads(content)["status"] == "ACTIVE"
            case "list-50" | "list-20000":
                page = json.loads(content)
                return len(page["secrets"]) == 10 and page["total"] == SIZES[self.project]
        return next(iter(json.loads(content))).endswith("_ref")


SECRET = {"payload": PAYLOAD, "payload_content_type": "text/plain", "secret_type": "passphrase"}
_ORDER = {"type": "key", "meta": {"algorithm": "aes", "bit_length": 256, "mode": "cbc"}}
ORDER = Operation("order", "POST order", "write", 202, WRITES, "POST", "/v1/orders", document=_ORDER)

OPERATIONS: tuple[Operation, ...] = (
    Operation("payload", "GET payload", "read", 200, SMALL, "GET", "/v1/secrets/{id}/payload", accept="text/plain"),
    Operation("secret", "GET secret", "read", 200, SMALL, "GET", "/v1/secrets/{id}"),
    Operation("list-50", "list, 50 secrets", "read", 200, SMALL, "GET", "/v1/secrets?limit=10"),
    Operation("list-20000", "list, 20,000 secrets", "read", 200, LARGE, "GET", "/v1/secrets?limit=10"),
    Operation("store", "POST secret", "write", 201, WRITES, "POST", "/v1/secrets", document=SECRET),
    ORDER,
)
#: Further names that ``--operations`` knows.
DONE, PAIR = "done", "two-processes"
NAMES = (*(operation.name for operation in OPERATIONS), DONE, PAIR)
#: Operations that are measured with two API processes too.
PAIRED = ("payload", "secret")

"""Requests that may be repeated: ``Idempotency-Key`` on what creates something.

Source: draft-ietf-httpapi-idempotency-key-header; the key may be written with or without the quotes of a structured
field. A key belongs to one user of one project: nobody else can learn that it was used, or for what.

What is remembered of a request is a fingerprint and the id of what it created. The answer to a repetition is built
anew, so that its references follow the request that it answers.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Awaitable, Callable
from typing import Any

import attrs
from oslo_config import cfg

from barbtx.api.fingerprints import Content
from barbtx.api.responses import Response
from barbtx.errors import BadRequest, ServiceUnavailable, UnprocessableContent
from barbtx.model.records import Created
from barbtx.model.repositories.idempotency import DuplicateKey, IdempotencyRecord, StoredRequest

OPTIONS = {
    "idempotency": [
        cfg.FloatOpt(
            "life_seconds",
            default=86400.0,
            min=1,
            help="Time in seconds for which an Idempotency-Key is stored. A request that repeats the key later is a "
            "new request.",
        ),
        cfg.IntOpt(
            "max_keys",
            default=10000,
            min=1,
            help="Maximum number of stored Idempotency-Keys per project. When it is reached, requests with further "
            "keys are refused with 429 until stored keys expire.",
        ),
    ],
}

_KEY = re.compile(r'[!#-~]{1,255}|"[ !#-\[\]-~]{1,255}"')

# Another request with the key may win the race and have its object deleted before its answer is read.
_ATTEMPTS = 3

# Status and name of the reference in the answer, by collection.
_ANSWERS = {"secrets": (201, "secret_ref"), "containers": (201, "container_ref"), "orders": (202, "order_ref")}


def creation_response(call: Any, created: Created) -> Response:
    """The answer to a request that created something, the first time and when it is repeated."""
    status, name = _ANSWERS[created.collection]
    ref = call.ref(created.collection, created.id)
    document = {name: ref}
    if created.transport_key_id is not None:
        document["transport_key_ref"] = call.ref("transport_keys", created.transport_key_id)
    return Response(status, document, headers={"Location": ref})


@attrs.define
class IdempotentRequest:
    """A request under a key.

    :ivar digest: of the key and the user who sent it.
    :ivar content: what makes it the same request.
    """

    digest: str
    content: Content
    _fingerprint: str = ""

    @classmethod
    def of(cls, call: Any) -> IdempotentRequest | None:
        """The key that a request has, if it has one.

        :raises BadRequest: it cannot be one.
        """
        values = call.request.requestHeaders.getRawHeaders(b"idempotency-key", [])
        if not values:
            return None
        key = values[0].decode("ascii", "replace").strip()
        if len(values) > 1 or not _KEY.fullmatch(key):
            raise BadRequest("The Idempotency-Key must be there once, with 1 to 255 visible ASCII characters.")
        # In JSON no user at all differs from every text.
        owned = json.dumps([call.context.user_id, key.strip('"')])
        digest = hashlib.sha256(owned.encode()).hexdigest()
        # Whose key it is belongs to the content too: the same body has another fingerprint with everybody else, so that
        # nobody who has the database can try bodies of their own and compare.
        head = (
            call.context.project_id.encode(),
            digest.encode(),
            call.request.method,
            b"/".join(call.request.postpath),
            call.content_type.encode(),
        )
        return cls(digest, Content(head, call.body))

    async def answer(self, call: Any, create: Callable[[], Awaitable[Response]]) -> Response:
        """The first answer, if there was one; else that of ``create``, which asks :meth:`use` for what to remember.

        :raises UnprocessableContent: the caller used the key for another request.
        :raises ServiceUnavailable: it cannot be told at the moment.
        """
        dependencies, project_id = call.dependencies, call.context.project_id
        for _ in range(_ATTEMPTS):
            first = await dependencies.repositories.idempotency.find(project_id, self.digest)
            if first is not None:
                if not await dependencies.fingerprints.matches(first.fingerprint, self.content):
                    raise UnprocessableContent("This Idempotency-Key was used for another request; take a new one.")
                return creation_response(call, first.created)
            self._fingerprint = await dependencies.fingerprints.make(self.content)
            try:
                return await create()
            except DuplicateKey:
                continue
        raise ServiceUnavailable("Other requests use the same Idempotency-Key at the moment; please try again.")

    def use(self, created: Created, conf: cfg.ConfigOpts) -> IdempotencyRecord:
        """What to remember in the transaction that creates something."""
        return IdempotencyRecord(
            self.digest,
            StoredRequest(self._fingerprint, created),
            conf.idempotency.life_seconds,
            conf.idempotency.max_keys,
        )

"""Idempotent creation of objects: the ``Idempotency-Key`` header.

It follows draft-ietf-httpapi-idempotency-key-header; a key may be written with or without the quotes of a structured
field. A key belongs to one user of one project, so that nobody else can find out whether or how it was used.

Of the first request under a key, a fingerprint and the id of the new object are stored. The response to a retry is
built from the id, so that its references have the base URL of the retry.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import attrs
from oslo_config import cfg

from barbtx.api.fingerprints import Content
from barbtx.api.responses import Response
from barbtx.errors import BadRequest, ServiceUnavailable, UnprocessableContent
from barbtx.model.records import Created
from barbtx.model.repositories.idempotency import DuplicateKey, IdempotencyRecord, StoredRequest

if TYPE_CHECKING:
    from barbtx.api.call import Call

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

# A concurrent request with the same key may store its object first, and that object may be deleted before it is read.
_ATTEMPTS = 3

# Status and name of the reference in responses, by collection.
_RESPONSES = {"secrets": (201, "secret_ref"), "containers": (201, "container_ref"), "orders": (202, "order_ref")}


def creation_response(call: Call, created: Created) -> Response:
    """Return the response to a request that created an object, or to a retry of it."""
    status, name = _RESPONSES[created.collection]
    ref = call.ref(created.collection, created.id)
    document = {name: ref}
    if created.transport_key_id is not None:
        document["transport_key_ref"] = call.ref("transport_keys", created.transport_key_id)
    return Response(status, document, headers={"Location": ref})


@attrs.define
class IdempotentRequest:
    """A request with an ``Idempotency-Key``.

    :ivar digest: covers the key and the user who sent it.
    :ivar content: the parts that a retry must have in common with the first request.
    """

    digest: str
    content: Content
    _fingerprint: str = attrs.field(default="", init=False)

    @classmethod
    def from_call(cls, call: Call) -> IdempotentRequest | None:
        """Read the ``Idempotency-Key`` header; None if there is none.

        :raises BadRequest: the key is not valid, or there are several.
        """
        values = call.request.requestHeaders.getRawHeaders(b"idempotency-key", [])
        if not values:
            return None
        key = values[0].decode("ascii", "replace").strip()
        if len(values) > 1 or not _KEY.fullmatch(key):
            raise BadRequest("There must be one Idempotency-Key header, with 1 to 255 visible ASCII characters.")
        # JSON distinguishes a missing user (null) from every user id.
        owner_and_key = json.dumps([call.context.user_id, key.strip('"')])
        digest = hashlib.sha256(owner_and_key.encode()).hexdigest()
        # The content includes the owner, so that the same body has a different fingerprint for each user. Otherwise
        # someone who can read the database could send guessed bodies and compare their fingerprints.
        head = (
            call.project_id.encode(),
            digest.encode(),
            call.request.method,
            b"/".join(call.request.postpath),
            call.content_type.encode(),
        )
        return cls(digest, Content(head, call.body))

    async def respond(self, call: Call, create: Callable[[], Awaitable[Response]]) -> Response:
        """Create an object, unless an earlier request with the key did; return the response in both cases.

        :param create: creates the object and stores the result of :meth:`record` in the same transaction.
        :raises UnprocessableContent: the user sent another request with the key.
        :raises ServiceUnavailable: the requests cannot be compared now, or concurrent requests use the key.
        """
        dependencies, project_id = call.dependencies, call.project_id
        for _ in range(_ATTEMPTS):
            first = await dependencies.repositories.idempotency.find(project_id, self.digest)
            if first is not None:
                if not await dependencies.fingerprints.matches(first.fingerprint, self.content):
                    raise UnprocessableContent("This Idempotency-Key was used for another request; use a new one.")
                return creation_response(call, first.created)
            self._fingerprint = await dependencies.fingerprints.make(self.content)
            try:
                return await create()
            except DuplicateKey:
                continue
        raise ServiceUnavailable("Other requests use the same Idempotency-Key at the moment; please try again.")

    def record(self, created: Created, conf: cfg.ConfigOpts) -> IdempotencyRecord:
        """Return the record to store in the transaction that creates the object; for ``create`` of :meth:`respond`."""
        return IdempotencyRecord(
            self.digest,
            StoredRequest(self._fingerprint, created),
            conf.idempotency.life_seconds,
            conf.idempotency.max_keys,
        )

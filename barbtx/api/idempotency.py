"""Requests that may be repeated: ``Idempotency-Key`` on what creates something.

Source: draft-ietf-httpapi-idempotency-key-header; the key may be written with or without the quotes of a structured
field. A body may hold a payload, so that its fingerprint is made as a password's would be: with a salt, and at a cost.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
from collections.abc import Awaitable, Callable
from typing import Any

import attrs
from oslo_config import cfg
from twisted.internet.threads import deferToThreadPool

from barbtx.api.answers import Answer
from barbtx.errors import BadRequest, UnprocessableContent
from barbtx.model.repositories.idempotency import DuplicateKey, FirstAnswer, IdempotencyRepo, KeyUse

OPTIONS = {
    "idempotency": [
        cfg.FloatOpt("life_seconds", default=86400.0, min=1, help="How long an Idempotency-Key is remembered."),
        cfg.IntOpt("max_keys", default=10000, min=1,
                   help="Keys of a project that are remembered, at most; requests with further ones are refused."),
    ],
}

_KEY = re.compile(r'[!#-~]{1,255}|"[ !#-\[\]-~]{1,255}"')


@attrs.define
class Repeatable:
    """A request under a key.

    :ivar digest: of the key.
    :ivar content: what makes it the same request: method, path, type and body.
    """

    digest: str
    content: bytes = attrs.field(repr=False)
    _fingerprint: str = ""

    @classmethod
    def of(cls, call: Any) -> Repeatable | None:
        """The key that a request has, if it has one.

        :raises BadRequest: it cannot be one.
        """
        values = call.request.requestHeaders.getRawHeaders(b"idempotency-key", [])
        if not values:
            return None
        key = values[0].decode("ascii", "replace").strip()
        if len(values) > 1 or not _KEY.fullmatch(key):
            raise BadRequest("The Idempotency-Key must be there once, with 1 to 255 visible ASCII characters.")
        head = b"\n".join([call.request.method, b"/".join(call.request.postpath), call.content_type.encode()])
        return cls(hashlib.sha256(key.strip('"').encode()).hexdigest(), head + b"\n\n" + call.body)

    async def answer(self, call: Any, repo: IdempotencyRepo, create: Callable[[], Awaitable[Answer]]) -> Answer:
        """The first answer, if there was one; else what ``create`` answers, which asks :meth:`use` for what to remember.

        :raises UnprocessableContent: the key was used for another request.
        """
        project_id = call.context.project_id
        first = await repo.find(project_id, self.digest)
        if first is None:
            salt = os.urandom(16)
            self._fingerprint = f"{salt.hex()}${await self._hash(call, salt)}"
            try:
                return await create()
            except DuplicateKey:
                # Somebody was faster with the same key; what they made is there now.
                first = await repo.find(project_id, self.digest)
                if first is None:
                    raise
        salt_text, _, known = first.fingerprint.partition("$")
        if not hmac.compare_digest(known, await self._hash(call, bytes.fromhex(salt_text))):
            raise UnprocessableContent("This Idempotency-Key was used for another request; take a new one.")
        again = json.loads(first.answer)
        return Answer(again["status"], again["document"], headers=again["headers"])

    def use(self, answer: Answer, conf: cfg.ConfigOpts) -> KeyUse:
        """What to remember in the transaction that makes an answer true."""
        text = json.dumps({"status": answer.status, "document": answer.document, "headers": dict(answer.headers)})
        return KeyUse(self.digest, FirstAnswer(self._fingerprint, text), conf.idempotency.life_seconds,
                      conf.idempotency.max_keys)

    async def _hash(self, call: Any, salt: bytes) -> str:
        reactor = call.services.reactor
        return await deferToThreadPool(reactor, reactor.getThreadPool(), _scrypt, self.content, salt)


def _scrypt(content: bytes, salt: bytes) -> str:
    # RFC 7914; 16 MiB and some 50 ms for each guess.
    return hashlib.scrypt(content, salt=salt, n=2**14, r=8, p=1, maxmem=64 << 20, dklen=32).hex()

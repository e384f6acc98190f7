"""Secrets: list, create, read, add the payload, delete. Source: the contract, section 3."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

import attrs

from barbtx.api.controllers.ids import require_uuid4
from barbtx.api.dispatch import READS, Call, Controller, Operation, RawBody, ResolvedResource, operation
from barbtx.api.idempotency import creation_response
from barbtx.api.negotiation import accepts_anything
from barbtx.api.paging import Paging
from barbtx.api.responses import Response
from barbtx.api.schemas import responses
from barbtx.api.schemas.secret_list import read_conditions, read_sort
from barbtx.api.schemas.secrets import (
    OCTETS,
    PKCS8,
    SECRET,
    TEXT,
    TEXT_SPELLINGS,
    read_expiration,
    read_payload,
    read_put_payload,
)
from barbtx.errors import BadRequest, InvalidQuery, MethodNotAllowed, NotAcceptable, NotFound, SecretInUse
from barbtx.identity.policy_targets import secret_target
from barbtx.model.records import Created, NewSecret, Secret, TransportKey
from barbtx.model.repositories.secrets import HasPayload
from barbtx.plugin import resources
from barbtx.times import utcnow, whole_second

_TEXT_UTF8 = "text/plain; charset=utf-8"
_PAYLOAD_TYPES = (TEXT, OCTETS, PKCS8)

#: From this microversion on a secret shows its consumers.
_SHOWS_CONSUMERS = (1, 1)
#: From this one on a secret that has consumers is not deleted by accident.
_PROTECTS_USED = (1, 2)

_TRUE = frozenset({"true", "t", "1", "yes", "y", "on"})
_FALSE = frozenset({"false", "f", "0", "no", "n", "off"})


def read_force(query: Mapping[str, str]) -> bool:
    """The ``force`` parameter.

    :raises InvalidQuery: it is no boolean.
    """
    text = query.get("force", "false").lower()
    if text not in _TRUE | _FALSE:
        raise InvalidQuery
    return text in _TRUE


def secret_document(call: Call, secret: Secret) -> dict[str, Any]:
    """A secret's metadata as clients see it."""
    document = {
        "created": secret.created.isoformat(),
        "updated": secret.updated.isoformat(),
        "status": secret.status,
        "name": secret.name,
        "secret_type": secret.secret_type,
        "expiration": secret.expiration.isoformat() if secret.expiration else None,
        "algorithm": secret.algorithm,
        "bit_length": secret.bit_length,
        "mode": secret.mode,
        "creator_id": secret.creator_id,
        "secret_ref": call.ref("secrets", secret.id),
    }
    if secret.content_type is not None:
        document["content_types"] = {"default": secret.content_type}
    if call.microversion >= _SHOWS_CONSUMERS:
        document["consumers"] = [dict(consumer) for consumer in secret.consumers]
    return document


async def _transport_key(call: Call, key_id: str | None) -> TransportKey | None:
    """The transport key that a request names, if it does.

    :raises BadRequest: there is no such key.
    """
    if not key_id:
        return None
    key = await call.dependencies.repositories.transport_keys.get(key_id)
    if key is None:
        raise BadRequest("The transport key id is not known.")
    return key


async def _current_transport_key(call: Call, secret: NewSecret | Secret) -> str:
    """The id of the key for which a client may wrap a secret's payload.

    :raises NotSupported: the secret's store has none.
    """
    plugin_name, key = await resources.current_transport_key(call.dependencies.stores, secret)
    return await call.dependencies.repositories.transport_keys.publish(plugin_name, key)


class SecretsController(Controller):
    """``/v1/secrets``"""

    name = "Secret(s) retrieval"

    @operation(
        name,
        "secrets:get",
        answer=responses.SECRETS,
        query=(
            "limit",
            "offset",
            "name",
            "alg",
            "mode",
            "bits",
            "secret_type",
            "acl_only",
            "created",
            "updated",
            "expiration",
            "sort",
        ),
    )
    async def on_get(self, call: Call, found: ResolvedResource) -> Response:
        query = call.query
        paging = Paging.from_query(query, call.dependencies.conf)
        acl_only = query.get("acl_only", "").lower() == "true"
        page = await call.dependencies.repositories.secrets.list_page(
            call.context.project_id,
            read_conditions(query),
            read_sort(query),
            paging.limit,
            paging.offset,
            shared_with=call.context.user_id if acl_only else None,
            with_consumers=call.microversion >= _SHOWS_CONSUMERS,
        )
        items = [secret_document(call, secret) for secret in page.items]
        return Response(document=paging.document("secrets", items, page, f"{call.base}/v1/secrets", query))

    @operation(
        "Secret creation", "secrets:post", body=SECRET, success=(201,), answer=responses.SECRET_REF, repeatable=True
    )
    async def on_post(self, call: Call, found: ResolvedResource, document: Mapping[str, Any]) -> Response:
        dependencies, context = call.dependencies, call.context
        expiration = read_expiration(document, utcnow(dependencies.clock), SECRET.name)
        payload = read_payload(document, dependencies.conf.max_allowed_secret_in_bytes)
        secret = NewSecret(
            id=str(uuid.uuid4()),
            project_id=context.project_id,
            name=document.get("name"),
            secret_type=document.get("secret_type", "opaque"),
            expiration=expiration and whole_second(expiration),
            algorithm=document.get("algorithm"),
            bit_length=document.get("bit_length"),
            mode=document.get("mode"),
            creator_id=context.user_id,
        )
        created, key = Created("secrets", secret.id), None
        if payload is not None:
            key = await _transport_key(call, document.get("transport_key_id"))
        elif document.get("transport_key_needed") == "true":
            created = attrs.evolve(created, transport_key_id=await _current_transport_key(call, secret))

        async def write() -> None:
            new = secret
            if payload is not None:
                stored = await resources.store_secret(
                    dependencies.stores, secret, payload.content, payload.content_type, key
                )
                new = attrs.evolve(secret, payload=stored)
            async with resources.forgotten_if_refused(dependencies.stores, new.payload):
                await dependencies.repositories.secrets.create(new, call.use(created))

        await resources.with_current_key(dependencies.stores, context.project_id, write)
        return creation_response(call, created)


class SecretResource(Controller):
    """What the resources at and below one secret's path have in common."""

    name = "Secret retrieval"
    #: The methods whose answers show who uses the secret, from the microversion on that has that.
    shows_consumers: frozenset[str] = frozenset()

    async def find(self, call: Call) -> ResolvedResource:
        secret_id = require_uuid4(call.ids["secret_id"], "secret")
        secret = await call.dependencies.repositories.secrets.get(
            secret_id,
            call.context.user_id,
            with_payload=self.needs_payload(call),
            with_consumers=call.method in self.shows_consumers and call.microversion >= _SHOWS_CONSUMERS,
        )
        if secret is None:
            raise NotFound("Secret not found.")
        return ResolvedResource(secret, secret_target(secret))

    def needs_payload(self, call: Call) -> bool:
        """Whether the operation is going to look at where the payload is."""
        return False


async def _read_payload(call: Call, secret: Secret) -> Response:
    query = call.query
    if secret.payload is None:
        raise NotFound("Not Found. Sorry but your secret has no payload.")
    session_key, key = query.get("trans_wrapped_session_key"), None
    if session_key is not None:
        key = await _transport_key(call, query.get("transport_key_id"))
        if key is None:
            raise BadRequest("trans_wrapped_session_key needs the transport_key_id that it belongs to.")
    accept = call.header("accept")
    label = _label(accept, secret.payload.content_type)
    content = await resources.get_secret(call.dependencies.stores, secret, session_key, key)
    if label == _TEXT_UTF8 and not _is_text(content):
        if accept == "*/*":
            label = OCTETS
        else:
            raise _unacceptable()
    # An empty payload cannot be stored any more, but may come from elsewhere; 204 says so without a body.
    return Response(200 if content else 204, content=content, content_type=label)


def _label(accept: str | None, stored: str) -> str:
    wanted = (accept or "").strip()
    if not wanted:
        return OCTETS
    if wanted == "*/*":
        return _TEXT_UTF8 if stored == TEXT else stored
    if wanted in TEXT_SPELLINGS:
        return _TEXT_UTF8
    if wanted in (OCTETS, PKCS8):
        return wanted
    if wanted.lower() in (*TEXT_SPELLINGS, OCTETS, PKCS8):
        raise BadRequest("Write the media type in the Accept header in lower case.")
    raise _unacceptable()


def _is_text(content: bytes) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


def _unacceptable() -> NotAcceptable:
    return NotAcceptable(
        "Secret payload retrieval issue seen - the payload can be had as application/octet-stream, "
        "application/pkcs8 or, if it is UTF-8, text/plain."
    )


class SecretController(SecretResource):
    """``/v1/secrets/{id}``"""

    shows_consumers = READS

    def operation_for(self, call: Call) -> Operation | None:
        return self.on_get_payload if self._wants_payload(call) else super().operation_for(call)

    def needs_payload(self, call: Call) -> bool:
        return call.method == "DELETE" or self._wants_payload(call) or self._wants_transport_key(call)

    @staticmethod
    def _wants_transport_key(call: Call) -> bool:
        return call.method == "GET" and call.query.get("transport_key_needed", "").lower() == "true"

    @staticmethod
    def _wants_payload(call: Call) -> bool:
        return call.method == "GET" and call.header("accept") not in (None, "application/json", "*/*")

    @operation(
        "Secret retrieval",
        "secret:get",
        accepts=accepts_anything,
        success=(200, 204),
        answer=responses.SECRET,
        media_types=_PAYLOAD_TYPES,
        query=("transport_key_needed",),
    )
    async def on_get(self, call: Call, found: ResolvedResource) -> Response:
        document = secret_document(call, found.object)
        if self._wants_transport_key(call):
            key_id = await _current_transport_key(call, found.object)
            document["transport_key_ref"] = call.ref("transport_keys", key_id)
        return Response(document=document)

    @operation(
        "Secret payload retrieval",
        "secret:decrypt",
        accepts=accepts_anything,
        success=(200, 204),
        media_types=_PAYLOAD_TYPES,
    )
    async def on_get_payload(self, call: Call, found: ResolvedResource) -> Response:
        return await _read_payload(call, found.object)

    @operation(
        "Secret update",
        "secret:put",
        accepts=accepts_anything,
        body=RawBody((TEXT, OCTETS)),
        success=(204,),
        query=("transport_key_id",),
    )
    async def on_put(self, call: Call, found: ResolvedResource) -> Response:
        secret: Secret = found.object
        payload = read_put_payload(
            call.body,
            call.body_too_large,
            call.content_type,
            call.header("content-encoding"),
            call.dependencies.conf.max_allowed_secret_in_bytes,
        )
        if secret.content_type is not None:
            raise HasPayload(secret.payload)
        key = await _transport_key(call, call.query.get("transport_key_id"))

        async def write() -> None:
            stored = await resources.store_secret(
                call.dependencies.stores, secret, payload.content, payload.content_type, key
            )
            async with resources.forgotten_if_refused(call.dependencies.stores, stored):
                await call.dependencies.repositories.secrets.add_payload(secret.id, stored)

        await resources.with_current_key(call.dependencies.stores, secret.project_id, write)
        return Response(204)

    @operation("Secret deletion", "secret:delete", accepts=accepts_anything, success=(204,), query=("force",))
    async def on_delete(self, call: Call, found: ResolvedResource) -> Response:
        force = True
        if call.microversion >= _PROTECTS_USED:
            force = read_force(call.query)
            if not force and await call.dependencies.repositories.secret_consumers.exist(found.object.id):
                raise SecretInUse
        await resources.delete_secret(call.dependencies.stores, found.object)
        # A payload that its store has forgotten by now is gone, whoever came to use it in the meantime.
        gone = found.object.payload is not None and found.object.payload.datum is None
        while not await call.dependencies.repositories.secrets.delete(found.object.id, even_if_used=force or gone):
            # Many consumers are deleted in several transactions.
            pass
        return Response(204)


class SecretPayloadController(SecretResource):
    """``/v1/secrets/{id}/payload``"""

    name = "Secret payload retrieval"

    def needs_payload(self, call: Call) -> bool:
        return call.method == "GET"

    @operation(
        name,
        "secret:decrypt",
        accepts=accepts_anything,
        success=(200, 204),
        media_types=_PAYLOAD_TYPES,
        query=("trans_wrapped_session_key", "transport_key_id"),
    )
    async def on_get(self, call: Call, found: ResolvedResource) -> Response:
        return await _read_payload(call, found.object)

    @operation(name, "secret:decrypt", accepts=accepts_anything)
    async def on_other(self, call: Call, found: ResolvedResource) -> Response:
        raise MethodNotAllowed

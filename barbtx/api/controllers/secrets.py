"""Secrets and their payloads (contract, section 3)."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

import attrs

from barbtx.api.call import Call
from barbtx.api.controllers.ids import require_uuid4
from barbtx.api.controllers.payloads import PAYLOAD_TYPES, current_transport_key, find_transport_key, payload_response
from barbtx.api.dispatch import SAFE_METHODS, CollectionController, Controller, ResolvedResource
from barbtx.api.idempotency import creation_response
from barbtx.api.negotiation import JSON, accepts_anything
from barbtx.api.operation import Operation, RawBody
from barbtx.api.paging import Paging
from barbtx.api.responses import Response
from barbtx.api.schemas import responses
from barbtx.api.schemas.secret_list import read_conditions, read_sort
from barbtx.api.schemas.secrets import OCTETS, SECRET, TEXT, read_expiration, read_payload, read_put_payload
from barbtx.errors import InvalidQuery, MethodNotAllowed, NotFound, SecretInUse
from barbtx.identity.policy_targets import secret_target
from barbtx.model.records import Created, NewSecret, Secret
from barbtx.model.repositories.secrets import HasPayload
from barbtx.plugin import resources
from barbtx.times import utcnow, whole_second

#: The first microversion in which a secret's representation contains its consumers.
_SHOWS_CONSUMERS = (1, 1)
#: The first microversion in which a secret with consumers is deleted only with ``force=true``.
_REQUIRES_FORCE = (1, 2)

_FILTERS = ("name", "alg", "mode", "bits", "secret_type", "acl_only", "created", "updated", "expiration")
_LIST_PARAMETERS = ("limit", "offset", *_FILTERS, "sort")

_TRUE = frozenset({"true", "t", "1", "yes", "y", "on"})
_FALSE = frozenset({"false", "f", "0", "no", "n", "off"})


def read_force(query: Mapping[str, str]) -> bool:
    """Read the query parameter ``force``.

    :raises InvalidQuery: the value is not a boolean.
    """
    text = query.get("force", "false").lower()
    if text not in _TRUE | _FALSE:
        raise InvalidQuery
    return text in _TRUE


def secret_document(call: Call, secret: Secret) -> dict[str, Any]:
    """Return a secret's metadata as clients see it."""
    document: dict[str, Any] = {
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


class SecretsController(CollectionController):
    """``/v1/secrets``"""

    name = "Secret(s) retrieval"

    @Operation(
        name,
        "secrets:get",
        title="List secrets",
        response=responses.SECRETS,
        query=_LIST_PARAMETERS,
    )
    async def on_get(self, call: Call, _: None) -> Response:
        """Return a page of the project's secrets, or of all secrets whose ACL names the user (``acl_only=true``)."""
        query = call.query
        paging = Paging.from_query(query, call.dependencies.conf)
        acl_only = query.get("acl_only", "").lower() == "true"
        page = await call.dependencies.repositories.secrets.list_page(
            call.project_id,
            read_conditions(query),
            read_sort(query),
            paging.limit,
            paging.offset,
            shared_with=call.context.user_id if acl_only else None,
            with_consumers=call.microversion >= _SHOWS_CONSUMERS,
        )
        items = [secret_document(call, secret) for secret in page.items]
        return Response(document=paging.document("secrets", items, page, call.collection_ref("secrets"), query))

    @Operation(
        "Secret creation",
        "secrets:post",
        title="Create a secret",
        body=SECRET,
        success=(201,),
        response=responses.SECRET_REF,
        supports_idempotency=True,
    )
    async def on_post(self, call: Call, _: None, document: Mapping[str, Any]) -> Response:
        """Create a secret, with its payload if the document has one."""
        dependencies, context = call.dependencies, call.context
        expiration = read_expiration(document, utcnow(dependencies.clock), SECRET.name)
        payload = read_payload(document, dependencies.conf.max_allowed_secret_in_bytes)
        secret = NewSecret(
            id=str(uuid.uuid4()),
            project_id=call.project_id,
            name=document.get("name"),
            secret_type=document.get("secret_type", "opaque"),
            expiration=whole_second(expiration) if expiration else None,
            algorithm=document.get("algorithm"),
            bit_length=document.get("bit_length"),
            mode=document.get("mode"),
            creator_id=context.user_id,
        )
        created, key = Created("secrets", secret.id), None
        if payload is not None:
            key = await find_transport_key(call, document.get("transport_key_id"))
        elif document.get("transport_key_needed") == "true":
            created = attrs.evolve(created, transport_key_id=await current_transport_key(call, secret))

        async def write() -> None:
            new = secret
            if payload is not None:
                stored = await resources.store_secret(
                    dependencies.stores, secret, payload.content, payload.content_type, key
                )
                new = attrs.evolve(secret, payload=stored)
            async with resources.delete_orphans_on_error(dependencies.stores, new.payload):
                await dependencies.repositories.secrets.create(new, call.idempotency_record(created))

        await resources.retry_on_stale_key(dependencies.stores, secret.project_id, write)
        return creation_response(call, created)


class SecretResource(Controller[Secret]):
    """Base class for the resources at and below a secret's path.

    :cvar shows_consumers: methods whose responses contain the secret's consumers, if the microversion has them.
    """

    name = "Secret retrieval"
    shows_consumers: frozenset[str] = frozenset()

    async def resolve(self, call: Call) -> ResolvedResource[Secret]:
        """Find the secret.

        :raises NotFound: the id is not valid, or there is no such secret, or it has expired.
        """
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
        """Return whether the operation reads or deletes the payload, or needs to know its store."""
        return False


class SecretController(SecretResource):
    """``/v1/secrets/{id}``"""

    shows_consumers = SAFE_METHODS

    def operation_for(self, call: Call) -> Operation | None:
        """Return the operation. A GET whose ``Accept`` header names another type than JSON reads the payload."""
        if call.method == "GET" and call.header("accept") not in (None, JSON, "*/*"):
            return self.on_get_payload
        return super().operation_for(call)

    def needs_payload(self, call: Call) -> bool:
        """Return whether the operation reads or deletes the payload, or looks for its store's transport key."""
        return call.operation in (self.on_get_payload, self.on_delete) or self._wants_transport_key(call)

    def _wants_transport_key(self, call: Call) -> bool:
        return call.operation is self.on_get and call.query.get("transport_key_needed", "").lower() == "true"

    @Operation(
        "Secret retrieval",
        "secret:get",
        title="Show the metadata of a secret",
        accepts=accepts_anything,
        success=(200, 204),
        response=responses.SECRET,
        media_types=PAYLOAD_TYPES,
        query=("transport_key_needed",),
    )
    async def on_get(self, call: Call, secret: Secret) -> Response:
        """Return the secret's metadata."""
        document = secret_document(call, secret)
        if self._wants_transport_key(call):
            key_id = await current_transport_key(call, secret)
            document["transport_key_ref"] = call.ref("transport_keys", key_id)
        return Response(document=document)

    @Operation(
        "Secret payload retrieval",
        "secret:decrypt",
        title="Read the payload of a secret",
        accepts=accepts_anything,
        success=(200, 204),
        media_types=PAYLOAD_TYPES,
    )
    async def on_get_payload(self, call: Call, secret: Secret) -> Response:
        """Return the secret's payload."""
        return await payload_response(call, secret)

    @Operation(
        "Secret update",
        "secret:put",
        title="Add the payload of a secret",
        accepts=accepts_anything,
        body=RawBody((TEXT, OCTETS)),
        success=(204,),
        query=("transport_key_id",),
    )
    async def on_put(self, call: Call, secret: Secret) -> Response:
        """Add the payload to a secret that has none."""
        payload = read_put_payload(
            call.body,
            call.body_too_large,
            call.content_type,
            call.header("content-encoding"),
            call.dependencies.conf.max_allowed_secret_in_bytes,
        )
        if secret.content_type is not None:
            raise HasPayload(secret.payload)
        key = await find_transport_key(call, call.query.get("transport_key_id"))

        async def write() -> None:
            stored = await resources.store_secret(
                call.dependencies.stores, secret, payload.content, payload.content_type, key
            )
            async with resources.delete_orphans_on_error(call.dependencies.stores, stored):
                await call.dependencies.repositories.secrets.add_payload(secret.id, stored)

        await resources.retry_on_stale_key(call.dependencies.stores, secret.project_id, write)
        return Response(204)

    @Operation(
        "Secret deletion",
        "secret:delete",
        title="Delete a secret",
        accepts=accepts_anything,
        success=(204,),
        query=("force",),
    )
    async def on_delete(self, call: Call, secret: Secret) -> Response:
        """Delete the secret and its payload."""
        force = True
        if call.microversion >= _REQUIRES_FORCE:
            force = read_force(call.query)
            if not force and await call.dependencies.repositories.secret_consumers.exist(secret.id):
                raise SecretInUse
        await resources.delete_secret(call.dependencies.stores, secret)
        # The store has deleted the payload, so the row must go even if a consumer was registered in the meantime.
        payload_deleted = secret.payload is not None and secret.payload.datum is None
        while not await call.dependencies.repositories.secrets.delete(secret.id, even_if_used=force or payload_deleted):
            # Each transaction deletes a limited number of consumers.
            pass
        return Response(204)


class SecretPayloadController(SecretResource):
    """``/v1/secrets/{id}/payload``"""

    name = "Secret payload retrieval"

    def needs_payload(self, call: Call) -> bool:
        """Return whether the payload is requested."""
        return call.operation is self.on_get

    @Operation(
        name,
        "secret:decrypt",
        title="Read the payload of a secret",
        accepts=accepts_anything,
        success=(200, 204),
        media_types=PAYLOAD_TYPES,
        query=("trans_wrapped_session_key", "transport_key_id"),
    )
    async def on_get(self, call: Call, secret: Secret) -> Response:
        """Return the secret's payload."""
        return await payload_response(call, secret)

    @Operation(name, "secret:decrypt", accepts=accepts_anything)
    async def on_other(self, call: Call, secret: Secret) -> Response:
        """Reject a method that the resource does not have, without the ``Allow`` header."""
        raise MethodNotAllowed

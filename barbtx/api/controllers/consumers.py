"""Consumers of secrets and containers. Source: the contract, sections 5 and 8."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import attrs

from barbtx.api.controllers.containers import ContainerResource, container_document
from barbtx.api.controllers.ids import require_uuid4
from barbtx.api.controllers.secrets import SecretResource, secret_document
from barbtx.api.dispatch import Call, Controller, ResolvedResource, operation
from barbtx.api.paging import Paging
from barbtx.api.responses import Response
from barbtx.api.schemas import responses
from barbtx.api.schemas.consumers import CONTAINER_CONSUMER, SECRET_CONSUMER
from barbtx.api.validation import Schema
from barbtx.errors import NotFound
from barbtx.model.records import Consumer
from barbtx.model.repositories.consumers import ConsumerRepo, Consumers


def _document(consumer: Consumer) -> dict[str, str]:
    return {
        **consumer.fields,
        "created": consumer.created.isoformat(),
        "updated": consumer.updated.isoformat(),
        "status": consumer.status,
    }


def _controllers(
    kind: str,
    base: type[Controller],
    schema: Schema,
    one: dict[str, Any],
    whole: dict[str, Any],
    show: Callable[[Call, Any], dict[str, Any]],
) -> tuple[type[Controller], type[Controller]]:
    """The controllers of ``…/{id}/consumers`` and ``…/{id}/consumers/{cid}`` for one kind of object.

    :param one: JSON Schema of a consumer; ``whole`` that of the object, which ``show`` makes.
    """
    title = f"{kind.capitalize()}Consumer"

    def repo(call: Call) -> ConsumerRepo:
        return getattr(call.dependencies, f"{kind}_consumers")

    def shown(call: Call, found: ResolvedResource, consumers: Consumers) -> dict[str, Any]:
        return show(call, attrs.evolve(found.object, consumers=consumers.embedded, updated=consumers.updated))

    class ConsumersController(base):
        name = f"{title}s(s) retrieval"

        @operation(name, f"{kind}_consumers:get", answer=responses.page("consumers", one), query=("limit", "offset"))
        async def on_get(self, call: Call, found: ResolvedResource) -> Response:
            paging = Paging.from_query(call.query, call.dependencies.conf)
            page = await repo(call).list_page(found.object.id, paging.limit, paging.offset)
            collection = f"{call.ref(f'{kind}s', found.object.id)}/consumers"
            items = [_document(consumer) for consumer in page.items]
            return Response(document=paging.document("consumers", items, page, collection, call.query))

        @operation(f"{title} creation", f"{kind}_consumers:post", body=schema, answer=whole)
        async def on_post(self, call: Call, found: ResolvedResource, document: Mapping[str, Any]) -> Response:
            consumers = await repo(call).add(found.object.id, call.context.project_id, document)
            # Clients of the reference know the location in this odd form.
            location = f"{call.ref('consumers', found.object.id)}/consumers"
            return Response(document=shown(call, found, consumers), headers={"Location": location})

        @operation(f"{title} deletion", f"{kind}_consumers:delete", body=schema, answer=whole)
        async def on_delete(self, call: Call, found: ResolvedResource, document: Mapping[str, Any]) -> Response:
            consumers = await repo(call).remove(
                found.object.id, found.object.project_id, call.context.project_id, document
            )
            return Response(document=shown(call, found, consumers))

    class ConsumerController(base):
        name = f"{title} retrieval"

        @operation(name, "consumer:get", answer=one)
        async def on_get(self, call: Call, found: ResolvedResource) -> Response:
            consumer_id = require_uuid4(call.ids["consumer_id"], "consumer")
            consumer = await repo(call).get(found.object.id, consumer_id)
            if consumer is None:
                raise NotFound("Consumer not found.")
            return Response(document=_document(consumer))

    ConsumersController.__name__ = ConsumersController.__qualname__ = f"{title}sController"
    ConsumerController.__name__ = ConsumerController.__qualname__ = f"{title}Controller"
    return ConsumersController, ConsumerController


def _secret_with_consumers(call: Call, secret: Any) -> dict[str, Any]:
    """A secret with its consumers, which this resource shows in every microversion."""
    return secret_document(call, secret) | {"consumers": [dict(consumer) for consumer in secret.consumers]}


class _ContainerAfterChange(ContainerResource):
    """A container that is the answer to changes of its consumers."""

    shows_entries = frozenset({"POST", "DELETE"})


SecretConsumersController, SecretConsumerController = _controllers(
    "secret", SecretResource, SECRET_CONSUMER, responses.SECRET_CONSUMER, responses.SECRET, _secret_with_consumers
)
ContainerConsumersController, ContainerConsumerController = _controllers(
    "container",
    _ContainerAfterChange,
    CONTAINER_CONSUMER,
    responses.CONTAINER_CONSUMER,
    responses.CONTAINER,
    container_document,
)

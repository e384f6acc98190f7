"""Consumers of secrets and containers (contract, sections 5 and 8)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Generic, TypeVar

import attrs

from barbtx.api.call import Call
from barbtx.api.controllers.containers import ContainerResource, container_document
from barbtx.api.controllers.ids import require_uuid4
from barbtx.api.controllers.secrets import SecretResource, secret_document
from barbtx.api.operation import Operation
from barbtx.api.paging import Paging
from barbtx.api.responses import Response
from barbtx.api.schemas import responses
from barbtx.api.schemas.consumers import CONTAINER_CONSUMER, SECRET_CONSUMER
from barbtx.errors import NotFound
from barbtx.model.records import Consumer, Container, Secret
from barbtx.model.repositories.consumers import ConsumerRepo, Consumers

OwnerT = TypeVar("OwnerT", Secret, Container)


def _consumer_document(consumer: Consumer) -> dict[str, str]:
    return {
        **consumer.fields,
        "created": consumer.created.isoformat(),
        "updated": consumer.updated.isoformat(),
        "status": consumer.status,
    }


class ConsumerHandlers(Generic[OwnerT]):
    """Handlers for ``…/{id}/consumers`` and below, which the controllers of secrets' and containers' consumers share.

    :cvar collection: the API's name of the collection of the objects.
    """

    collection: str

    def repository(self, call: Call) -> ConsumerRepo:
        """Return the repository of the consumers of this kind of object."""
        raise NotImplementedError

    def owner_document(self, call: Call, owner: OwnerT, consumers: Consumers) -> dict[str, Any]:
        """Return the object as clients see it after a change of its consumers."""
        raise NotImplementedError

    async def list_consumers(self, call: Call, owner: OwnerT) -> Response:
        """Return a page of the object's consumers."""
        paging = Paging.from_query(call.query, call.dependencies.conf)
        page = await self.repository(call).list_page(owner.id, paging.limit, paging.offset)
        items = [_consumer_document(consumer) for consumer in page.items]
        collection = f"{call.ref(self.collection, owner.id)}/consumers"
        return Response(document=paging.document("consumers", items, page, collection, call.query))

    async def add_consumer(self, call: Call, owner: OwnerT, document: Mapping[str, Any]) -> Response:
        """Register a consumer, and return the object."""
        consumers = await self.repository(call).add(owner.id, call.project_id, document)
        # The reference implementation sends this location, which names the object as if it were a consumer.
        location = f"{call.ref('consumers', owner.id)}/consumers"
        return Response(document=self.owner_document(call, owner, consumers), headers={"Location": location})

    async def remove_consumer(self, call: Call, owner: OwnerT, document: Mapping[str, Any]) -> Response:
        """Remove a consumer, and return the object."""
        consumers = await self.repository(call).remove(owner.id, owner.project_id, call.project_id, document)
        return Response(document=self.owner_document(call, owner, consumers))

    async def get_consumer(self, call: Call, owner: OwnerT) -> Response:
        """Return one consumer."""
        consumer_id = require_uuid4(call.ids["consumer_id"], "consumer")
        consumer = await self.repository(call).get(owner.id, consumer_id)
        if consumer is None:
            raise NotFound("Consumer not found.")
        return Response(document=_consumer_document(consumer))


class _SecretConsumers(ConsumerHandlers[Secret], SecretResource):
    """Base class of the two resources of a secret's consumers."""

    collection = "secrets"

    def repository(self, call: Call) -> ConsumerRepo:
        return call.dependencies.repositories.secret_consumers

    def owner_document(self, call: Call, owner: Secret, consumers: Consumers) -> dict[str, Any]:
        """Return the secret with its consumers, in every microversion."""
        secret = attrs.evolve(owner, consumers=consumers.embedded, updated=consumers.updated)
        return secret_document(call, secret) | {"consumers": [dict(consumer) for consumer in secret.consumers]}


class SecretConsumersController(_SecretConsumers):
    """``/v1/secrets/{id}/consumers``"""

    name = "SecretConsumers(s) retrieval"

    on_get = Operation(
        name,
        "secret_consumers:get",
        title="List the consumers of a secret",
        response=responses.SECRET_CONSUMERS,
        query=("limit", "offset"),
    )(_SecretConsumers.list_consumers)
    on_post = Operation(
        "SecretConsumer creation",
        "secret_consumers:post",
        title="Register a consumer of a secret",
        body=SECRET_CONSUMER,
        response=responses.SECRET,
    )(_SecretConsumers.add_consumer)
    on_delete = Operation(
        "SecretConsumer deletion",
        "secret_consumers:delete",
        title="Remove a consumer of a secret",
        body=SECRET_CONSUMER,
        response=responses.SECRET,
    )(_SecretConsumers.remove_consumer)


class SecretConsumerController(_SecretConsumers):
    """``/v1/secrets/{id}/consumers/{consumer_id}``"""

    name = "SecretConsumer retrieval"

    on_get = Operation(name, "consumer:get", title="Show a consumer of a secret", response=responses.SECRET_CONSUMER)(
        _SecretConsumers.get_consumer
    )


class _ContainerConsumers(ConsumerHandlers[Container], ContainerResource):
    """Base class of the two resources of a container's consumers."""

    collection = "containers"
    shows_entries = frozenset({"POST", "DELETE"})

    def repository(self, call: Call) -> ConsumerRepo:
        return call.dependencies.repositories.container_consumers

    def owner_document(self, call: Call, owner: Container, consumers: Consumers) -> dict[str, Any]:
        return container_document(call, attrs.evolve(owner, consumers=consumers.embedded, updated=consumers.updated))


class ContainerConsumersController(_ContainerConsumers):
    """``/v1/containers/{id}/consumers``"""

    name = "ContainerConsumers(s) retrieval"

    on_get = Operation(
        name,
        "container_consumers:get",
        title="List the consumers of a container",
        response=responses.CONTAINER_CONSUMERS,
        query=("limit", "offset"),
    )(_ContainerConsumers.list_consumers)
    on_post = Operation(
        "ContainerConsumer creation",
        "container_consumers:post",
        title="Register a consumer of a container",
        body=CONTAINER_CONSUMER,
        response=responses.CONTAINER,
    )(_ContainerConsumers.add_consumer)
    on_delete = Operation(
        "ContainerConsumer deletion",
        "container_consumers:delete",
        title="Remove a consumer of a container",
        body=CONTAINER_CONSUMER,
        response=responses.CONTAINER,
    )(_ContainerConsumers.remove_consumer)


class ContainerConsumerController(_ContainerConsumers):
    """``/v1/containers/{id}/consumers/{consumer_id}``"""

    name = "ContainerConsumer retrieval"

    on_get = Operation(
        name, "consumer:get", title="Show a consumer of a container", response=responses.CONTAINER_CONSUMER
    )(_ContainerConsumers.get_consumer)

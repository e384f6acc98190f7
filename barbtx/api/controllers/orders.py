"""Orders, by which clients request the generation of keys and key pairs (contract, section 9)."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

from twisted.logger import Logger
from twisted.python.failure import Failure

from barbtx import activity
from barbtx.api import json_documents
from barbtx.api.call import Call
from barbtx.api.dispatch import CollectionController, Controller, ResolvedResource
from barbtx.api.idempotency import creation_response
from barbtx.api.negotiation import accepts_anything
from barbtx.api.operation import Operation
from barbtx.api.order_watch import Waiter, preferred_wait
from barbtx.api.paging import Paging
from barbtx.api.responses import Response
from barbtx.api.schemas import responses
from barbtx.api.schemas.orders import ORDER, read_meta
from barbtx.errors import MethodNotAllowed, NotFound
from barbtx.identity.policy_targets import order_target
from barbtx.model.records import PENDING, Created, Order, lane_of
from barbtx.plugin import resources
from barbtx.queue.transport import PublishRefused
from barbtx.tasks.order_task import order_task
from barbtx.times import utcnow

log = Logger()


def order_document(call: Call, order: Order) -> dict[str, Any]:
    """Return an order as clients see it, without the properties that are not set."""
    optional = {
        "creator_id": order.creator_id,
        "sub_status": order.sub_status,
        "sub_status_message": order.sub_status_message,
        "error_status_code": order.error_status_code,
        "error_reason": order.error_reason,
        "secret_ref": call.ref("secrets", order.secret_id) if order.secret_id else None,
        "container_ref": call.ref("containers", order.container_id) if order.container_id else None,
    }
    return {
        "created": order.created.isoformat(),
        "updated": order.updated.isoformat(),
        "status": order.status,
        "type": order.type,
        "meta": json_documents.read_stored(order.meta),
        "order_ref": call.ref("orders", order.id),
    } | {key: value for key, value in optional.items() if value is not None}


def _log_refusal(failure: Failure, request_id: str) -> None:
    failure.trap(PublishRefused)
    log.info("an order waits for the scheduler: {reason}", reason=str(failure.value), request_id=request_id)


def _waiter(call: Call) -> Waiter:
    sender = call.request.sender
    return Waiter(call.project_id, None if sender.is_proxy else sender.group)


class OrdersController(CollectionController):
    """``/v1/orders``"""

    name = "Order(s) retrieval"

    @Operation(name, "orders:get", title="List orders", response=responses.ORDERS, query=("limit", "offset", "meta"))
    async def on_get(self, call: Call, _: None) -> Response:
        """Return a page of the project's orders."""
        paging = Paging.from_query(call.query, call.dependencies.conf)
        page = await call.dependencies.repositories.orders.list_page(
            call.project_id, call.query.get("meta"), paging.limit, paging.offset
        )
        items = [order_document(call, order) for order in page.items]
        return Response(document=paging.document("orders", items, page, call.collection_ref("orders"), call.query))

    @Operation(
        "Order creation",
        "orders:post",
        title="Create an order",
        body=ORDER,
        success=(202,),
        response=responses.ORDER_REF,
        supports_idempotency=True,
    )
    async def on_post(self, call: Call, _: None, document: Mapping[str, Any]) -> Response:
        """Store an order and its task, and send the task to the workers."""
        dependencies, context, project_id = call.dependencies, call.context, call.project_id
        order_request = read_meta(document, utcnow(dependencies.clock))
        order_id = str(uuid.uuid4())
        activity.note(order_id=order_id)
        task = order_task(order_id, project_id, context.request_id, lane_of(document["type"]))
        created = Created("orders", order_id)

        async def write() -> None:
            passphrase = None
            if order_request.passphrase is not None:
                passphrase = await resources.store_passphrase(
                    dependencies.stores, order_id, project_id, order_request.passphrase
                )
            async with resources.delete_orphans_on_error(dependencies.stores, passphrase):
                await dependencies.repositories.orders.create(
                    order_id,
                    project_id,
                    document["type"],
                    order_request.meta,
                    context.user_id,
                    task,
                    dependencies.conf.retry_scheduler.first_publish_seconds,
                    passphrase,
                    call.idempotency_record(created),
                )

        await resources.retry_on_stale_key(dependencies.stores, project_id, write)
        sent = dependencies.task_client.send(task)
        # The order and its task are committed: if the message is lost, the retry scheduler sends it again.
        sent.addErrback(_log_refusal, context.request_id)
        timeout = dependencies.task_client.timeout
        if timeout:
            await sent.addTimeout(timeout, dependencies.reactor, lambda outcome, timeout: None)
        return creation_response(call, created)

    @Operation("Order update", "orders:put", title="Not supported: an order cannot be changed", success=())
    async def on_put(self, call: Call, _: None) -> Response:
        """Reject the method: an order cannot be changed."""
        raise MethodNotAllowed


class OrderController(Controller[Order]):
    """``/v1/orders/{id}``"""

    name = "Order retrieval"

    async def resolve(self, call: Call) -> ResolvedResource[Order]:
        """Find the order in the caller's project.

        :raises NotFound: there is no such order.
        """
        project_id = call.context.project_id
        order = None
        if project_id is not None:
            order = await call.dependencies.repositories.orders.get(call.ids["order_id"], project_id)
        if order is None:
            raise NotFound("Order not found.")
        return ResolvedResource(order, order_target(order))

    @Operation(name, "order:get", title="Show an order", response=responses.ORDER)
    async def on_get(self, call: Call, order: Order) -> Response:
        """Return the order. ``Prefer: wait=<seconds>`` delays the response until it has ended."""
        seconds = preferred_wait(call.header("prefer"))
        if seconds is None:
            return Response(document=order_document(call, order))
        headers = {"Vary": "Prefer"}
        seconds = min(seconds, call.dependencies.conf.api.max_wait_seconds)
        if seconds > 0:
            # For an order that has ended already, the preference is honoured without waiting.
            honoured = True
            if order.status == PENDING:
                honoured = await call.dependencies.order_watch.wait(order.id, seconds, _waiter(call))
                order = (await self.resolve(call)).record
            if honoured:
                headers["Preference-Applied"] = f"wait={seconds}"
        return Response(document=order_document(call, order), headers=headers)

    @Operation("Order deletion", "order:delete", title="Delete an order", accepts=accepts_anything, success=(204,))
    async def on_delete(self, call: Call, order: Order) -> Response:
        """Delete the order, and the passphrase that it came with."""
        passphrase = await call.dependencies.repositories.orders.delete(order.id, call.project_id)
        # The order is deleted even if the store fails to delete the passphrase.
        await resources.delete_orphans(call.dependencies.stores, [passphrase])
        return Response(204)

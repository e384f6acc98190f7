"""Orders: have a key or a key pair made. Source: the contract, section 9."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

from twisted.logger import Logger
from twisted.python.failure import Failure

from barbtx import activity
from barbtx.api import json_documents
from barbtx.api.dispatch import Call, Controller, ResolvedResource, operation
from barbtx.api.idempotency import creation_response
from barbtx.api.negotiation import accepts_anything
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
    """An order as clients see it; what is not set is left out."""
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


def _not_sent(failure: Failure, request_id: str) -> None:
    failure.trap(PublishRefused)
    log.info("an order waits for the scheduler: {reason}", reason=str(failure.value), request_id=request_id)


def _waiter(call: Call) -> Waiter:
    sender = call.request.sender
    return Waiter(call.context.project_id, None if sender.is_proxy else sender.group)


class OrdersController(Controller):
    """``/v1/orders``"""

    name = "Order(s) retrieval"

    @operation(name, "orders:get", answer=responses.ORDERS, query=("limit", "offset", "meta"))
    async def on_get(self, call: Call, found: ResolvedResource) -> Response:
        paging = Paging.from_query(call.query, call.dependencies.conf)
        page = await call.dependencies.repositories.orders.list_page(
            call.context.project_id, call.query.get("meta"), paging.limit, paging.offset
        )
        items = [order_document(call, order) for order in page.items]
        return Response(document=paging.document("orders", items, page, f"{call.base}/v1/orders", call.query))

    @operation("Order creation", "orders:post", body=ORDER, success=(202,), answer=responses.ORDER_REF, repeatable=True)
    async def on_post(self, call: Call, found: ResolvedResource, document: Mapping[str, Any]) -> Response:
        dependencies, context = call.dependencies, call.context
        wanted = read_meta(document, utcnow(dependencies.clock))
        order_id = str(uuid.uuid4())
        activity.note(order_id=order_id)
        task = order_task(order_id, context.project_id, context.request_id, lane_of(document["type"]))
        created = Created("orders", order_id)

        async def write() -> None:
            passphrase = None
            if wanted.passphrase is not None:
                passphrase = await resources.store_passphrase(
                    dependencies.stores, order_id, context.project_id, wanted.passphrase
                )
            async with resources.forgotten_if_refused(dependencies.stores, passphrase):
                await dependencies.repositories.orders.create(
                    order_id,
                    context.project_id,
                    document["type"],
                    wanted.meta,
                    context.user_id,
                    task,
                    dependencies.conf.retry_scheduler.first_publish_seconds,
                    passphrase,
                    call.use(created),
                )

        await resources.with_current_key(dependencies.stores, context.project_id, write)
        sent = dependencies.task_client.send(task)
        # The order is safe in the database, whatever comes of the message: the scheduler brings it back.
        sent.addErrback(_not_sent, context.request_id)
        timeout = dependencies.task_client.timeout
        if timeout:
            await sent.addTimeout(timeout, dependencies.reactor, lambda outcome, timeout: None)
        return creation_response(call, created)

    @operation("Order update", "orders:put", success=())
    async def on_put(self, call: Call, found: ResolvedResource) -> Response:
        raise MethodNotAllowed


class OrderController(Controller):
    """``/v1/orders/{id}``"""

    name = "Order retrieval"

    async def find(self, call: Call) -> ResolvedResource:
        order = await call.dependencies.repositories.orders.get(call.ids["order_id"], call.context.project_id)
        if order is None:
            raise NotFound("Order not found.")
        return ResolvedResource(order, order_target(order))

    @operation(name, "order:get", answer=responses.ORDER)
    async def on_get(self, call: Call, found: ResolvedResource) -> Response:
        order, headers = found.object, {}
        seconds = preferred_wait(call.header("prefer"))
        if seconds is not None:
            headers["Vary"] = "Prefer"
            seconds = min(seconds, call.dependencies.conf.api.max_wait_seconds)
        if seconds:
            # An order that has ended is what waiting is for.
            honoured = True
            if order.status == PENDING:
                honoured = await call.dependencies.order_watch.wait(order.id, seconds, _waiter(call))
                order = (await self.find(call)).object
            if honoured:
                headers["Preference-Applied"] = f"wait={seconds}"
        return Response(document=order_document(call, order), headers=headers)

    @operation("Order deletion", "order:delete", accepts=accepts_anything, success=(204,))
    async def on_delete(self, call: Call, found: ResolvedResource) -> Response:
        passphrase = await call.dependencies.repositories.orders.delete(found.object.id, call.context.project_id)
        # The order is gone, whatever its store says.
        await resources.forget_payloads(call.dependencies.stores, [passphrase])
        return Response(204)

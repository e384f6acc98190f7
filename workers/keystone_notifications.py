"""The consumer of Keystone's notifications, which records the projects that they report as deleted.

Anyone who can publish to the broker can send such a notification, so that the project remover verifies each of them
with Keystone.

Formats: the two envelopes of oslo.messaging's notifications.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import attrs
from oslo_config import cfg
from tenacity import AsyncRetrying, RetryCallState, stop_after_attempt, wait_random_exponential
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from barbtx.errors import ServiceUnavailable
from barbtx.model.records import Removal
from barbtx.model.repositories.pending_removals import PendingRemovalRepo
from barbtx.queue.amqp.channel import Channel
from barbtx.queue.amqp.connection import Brokers
from barbtx.queue.amqp.consumer import Consumer
from barbtx.queue.amqp.topology import notifications_dead_queue, task_queue_arguments
from barbtx.queue.transport import InvalidMessage, is_text
from barbtx.reactor import IReactor

log = Logger()


@attrs.frozen
class NotificationSource:
    """The queue of Keystone's notifications: barbtx's own or the one that all consumers of the topic share.

    :ivar exchange: Keystone's ``control_exchange``.
    :ivar routing_key: ``<topic>.info``, where ``info`` is the priority of Keystone's notifications.
    :ivar pool: name of barbtx's own queue; None to consume from the shared queue.
    :ivar delivery_limit: number of deliveries after which a message becomes a dead letter.
    :ivar max_length: maximum number of messages in each queue that barbtx declares.
    """

    exchange: str
    routing_key: str
    pool: str | None
    delivery_limit: int
    max_length: int

    name = "notifications"

    @property
    def queue(self) -> str:
        """Name of the queue to consume from."""
        return self.pool or self.routing_key

    @property
    def dead_queue(self) -> str:
        """Name of the queue for dead letters."""
        return notifications_dead_queue(self.pool)

    async def declare(self, channel: Channel) -> None:
        """Declare barbtx's queues and bind them to Keystone's exchange, which must exist.

        Keystone's exchange and queue are not declared here, because their arguments depend on Keystone's configuration.

        :raises ChannelClosed: Keystone's exchange or queue does not exist, or barbtx's has other arguments.
        """
        await channel.queue_declare(
            queue=self.dead_queue, durable=True, arguments={"x-queue-type": "quorum", "x-max-length": self.max_length}
        )
        if self.pool is None:
            await channel.queue_declare(queue=self.routing_key, passive=True)
            return
        await channel.exchange_declare(exchange=self.exchange, type="topic", passive=True)
        await channel.queue_declare(
            queue=self.pool,
            durable=True,
            arguments=task_queue_arguments(self.delivery_limit, self.max_length, "", self.dead_queue),
        )
        await channel.queue_bind(queue=self.pool, exchange=self.exchange, routing_key=self.routing_key)


def deleted_project(body: bytes) -> str | None:
    """Return the ID of the project that a notification reports as deleted, or None if it reports another event.

    :raises InvalidMessage: the body is not a notification, or has an unknown version.
    """
    event = _load(body)
    if "oslo.version" in event:
        version = event["oslo.version"]
        major, _, minor = version.partition(".") if isinstance(version, str) else ("", "", "")
        if major != "2" or minor not in ("", "0"):
            raise InvalidMessage("an envelope of another version")
        inner = event.get("oslo.message")
        if not isinstance(inner, str):
            raise InvalidMessage("an envelope without a message")
        event = _load(inner)
    kind, payload = event.get("event_type"), event.get("payload")
    if not isinstance(kind, str):
        raise InvalidMessage("no event type")
    parts = kind.lower().split(".")
    if len(parts) < 3 or parts[-2:] != ["project", "deleted"] or not isinstance(payload, dict):
        return None
    project_id = payload.get("resource_info")
    if not isinstance(project_id, str) or not project_id:
        return None
    # MariaDB ignores trailing spaces in comparisons, so that such an ID would match a project that still exists.
    if not is_text(project_id) or not project_id.isprintable() or " " in project_id or project_id in (".", ".."):
        raise InvalidMessage("the project ID is not valid")
    return project_id


def _load(text: bytes | str) -> Mapping[str, Any]:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        raise InvalidMessage("not JSON") from None
    if not isinstance(document, dict):
        raise InvalidMessage("not an object")
    return document


@attrs.frozen
class NotificationHandler:
    """Records the project that a notification reports as deleted.

    :ivar wake: called when a removal was recorded.
    :ivar max_attempts: number of attempts to record a removal; those that fail in an outage do not count.
    :ivar longest_wait: maximum number of seconds between two attempts.
    """

    clock: IReactorTime
    removals: PendingRemovalRepo
    wake: Callable[[], None]
    max_attempts: int
    longest_wait: float

    async def __call__(self, body: bytes) -> None:
        """Handle the body of a message.

        :raises InvalidMessage: it is not a notification, or the removal cannot be recorded.
        """
        project_id = deleted_project(body)
        if project_id is None:
            return
        try:
            removal = await self._record(project_id)
        except Exception:
            log.failure("the deletion of project {project_id} could not be recorded", project_id=project_id)
            raise InvalidMessage("the project's removal could not be recorded") from None
        if removal.kept_until is not None:
            log.info(
                "a notification says again that project {project_id} was deleted; it is removed already",
                project_id=project_id,
            )
            return
        log.info("a notification says that project {project_id} was deleted", project_id=project_id)
        self.wake()

    async def _record(self, project_id: str) -> Removal:
        enough = stop_after_attempt(self.max_attempts)

        def is_over(state: RetryCallState) -> bool:
            # Waiting for the end of an outage loses nothing, since the message stays unacknowledged.
            return not isinstance(_failure(state), ServiceUnavailable) and enough(state)

        def log_retry(state: RetryCallState) -> None:
            log.warn(
                "the deletion of project {project_id} could not be recorded; retrying: {reason}",
                project_id=project_id,
                reason=type(_failure(state)).__name__,
            )

        async def attempt() -> Removal:
            return await self.removals.request(project_id)

        return await AsyncRetrying(
            stop=is_over,
            wait=wait_random_exponential(max=self.longest_wait),
            sleep=lambda seconds: deferLater(self.clock, seconds, lambda: None),
            before_sleep=log_retry,
            reraise=True,
        )(attempt)


def _failure(state: RetryCallState) -> BaseException | None:
    return None if state.outcome is None else state.outcome.exception()


def make_notification_consumer(
    reactor: IReactor,
    conf: cfg.ConfigOpts,
    removals: PendingRemovalRepo,
    wake: Callable[[], None],
    refuse: Callable[[str], None],
) -> Consumer:
    """Make the consumer with the options of ``[keystone_notifications]`` and ``[queue]``.

    :param wake: called when a removal was recorded.
    :param refuse: see :func:`barbtx.queue.amqp.connection.client_service`.
    :raises ConfigurationError: the transport URL is invalid, or a file for TLS cannot be used.
    """
    options = conf.keystone_notifications
    source = NotificationSource(
        options.control_exchange,
        f"{options.topic}.info",
        options.pool_name or None,
        conf.queue.delivery_limit,
        conf.queue.max_length,
    )
    return Consumer(
        reactor=reactor,
        brokers=Brokers.from_config(conf),
        source=source,
        handle=NotificationHandler(reactor, removals, wake, options.max_attempts, options.retry_seconds_max),
        heartbeat=conf.queue.heartbeat_seconds,
        concurrency=options.concurrency,
        grace=conf.queue.shutdown_seconds,
        refuse=refuse,
    )

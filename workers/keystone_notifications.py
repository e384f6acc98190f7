"""The consumer of Keystone's notifications: it notes which projects are said to be deleted.

Whoever can write to the broker can say so. What comes of it, ``project_remover`` settles with Keystone.

Source: the contract's behaviour, section 9; oslo.messaging's notifications in their two envelopes.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import attrs
from oslo_config import cfg
from tenacity import AsyncRetrying, stop_after_attempt, wait_random_exponential
from twisted.internet.task import deferLater
from twisted.logger import Logger

from barbtx.errors import ServiceUnavailable
from barbtx.model.records import Removal
from barbtx.model.repositories.pending_removals import PendingRemovalRepo
from barbtx.queue.amqp.connection import Brokers
from barbtx.queue.amqp.consumer import Consumer
from barbtx.queue.amqp.protocol import Channel
from barbtx.queue.amqp.topology import notifications_dead_queue, task_queue_arguments
from barbtx.queue.transport import InvalidMessage, is_text

log = Logger()


@attrs.frozen
class NotificationSource:
    """A queue of our own for Keystone's notifications or, without a name for it, the one that all consumers share.

    :ivar exchange: Keystone's control_exchange.
    :ivar routing_key: ``<topic>.info``, the priority that Keystone sends with.
    :ivar pool: our queue's name.
    """

    exchange: str
    routing_key: str
    pool: str | None
    delivery_limit: int
    max_length: int

    name = "notifications"

    @property
    def queue(self) -> str:
        return self.pool or self.routing_key

    @property
    def dead_queue(self) -> str:
        return notifications_dead_queue(self.pool)

    async def declare(self, channel: Channel) -> None:
        """Declare what is ours, bound to Keystone's exchange, and look whether the rest is there.

        How Keystone declares its own depends on its configuration, so that it is left to Keystone.

        :raises ChannelClosed: Keystone's exchange or queue is not there (yet), or ours is of another kind.
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
    """The id of the project whose deletion a notification tells of, or None if it is about anything else.

    :raises BadMessage: it is no notification, or one of another version.
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
    # MariaDB takes an id with spaces at its end for the one without, which Keystone would not have been asked about.
    if not is_text(project_id) or not project_id.isprintable() or " " in project_id or project_id in (".", ".."):
        raise InvalidMessage("a project id that cannot be one")
    return project_id


def _load(text: bytes | str) -> Mapping[str, Any]:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        raise InvalidMessage("not JSON") from None
    if not isinstance(document, dict):
        raise InvalidMessage("not an object")
    return document


def notification_handler(
    reactor: Any, removals: PendingRemovalRepo, wake: Callable[[], None], attempts: int, longest_wait: float
) -> Callable[[bytes], Awaitable[None]]:
    """What handles a notification: notes the project whose deletion it tells of; then the message is done with.

    :param wake: called when something was noted.
    :param attempts: how often that may fail; that the database was out of reach is no failure.
    :param longest_wait: seconds between two tries, at most.
    """

    async def handle(body: bytes) -> None:
        project_id = deleted_project(body)
        if project_id is None:
            return

        async def note() -> Removal:
            return await removals.request(project_id)

        enough = stop_after_attempt(attempts)
        retrying = AsyncRetrying(
            # What is out of reach will be there again, and until then nothing is lost by waiting.
            stop=lambda state: not isinstance(state.outcome.exception(), ServiceUnavailable) and enough(state),
            wait=wait_random_exponential(max=longest_wait),
            sleep=lambda seconds: deferLater(reactor, seconds, lambda: None),
            before_sleep=lambda state: log.warn(
                "the deletion of project {project_id} could not be noted and is tried again: {reason}",
                project_id=project_id,
                reason=type(state.outcome.exception()).__name__,
            ),
            reraise=True,
        )
        try:
            removal = await retrying(note)
        except Exception:
            log.failure("the deletion of project {project_id} could not be noted", project_id=project_id)
            raise InvalidMessage("the project's removal could not be noted") from None
        if removal.kept_until is not None:
            log.info(
                "a notification says again that project {project_id} was deleted; it is removed already",
                project_id=project_id,
            )
            return
        log.info("a notification says that project {project_id} was deleted", project_id=project_id)
        wake()

    return handle


def make_notification_consumer(
    reactor: Any,
    conf: cfg.ConfigOpts,
    removals: PendingRemovalRepo,
    wake: Callable[[], None],
    refuse: Callable[[str], None],
) -> Consumer:
    """The consumer, as ``[keystone_notifications]`` wants it.

    :raises ConfigurationError: the brokers' addresses are none, or a file for TLS cannot be used.
    """
    options = conf.keystone_notifications
    source = NotificationSource(
        options.control_exchange,
        f"{options.topic}.info",
        options.pool_name or None,
        conf.queue.delivery_limit,
        conf.queue.max_length,
    )
    handle = notification_handler(reactor, removals, wake, options.max_attempts, options.retry_seconds_max)
    return Consumer(
        reactor,
        Brokers.from_config(conf),
        source,
        handle,
        conf.queue.heartbeat_seconds,
        options.concurrency,
        conf.queue.shutdown_seconds,
        refuse,
    )

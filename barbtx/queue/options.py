"""Options of the task queue, of the workers, of Keystone's notifications and of the retry scheduler."""

from __future__ import annotations

from oslo_config import cfg

OPTIONS = {
    "DEFAULT": [
        cfg.StrOpt(
            "transport_url",
            default="rabbit://guest:guest@127.0.0.1:5672/",
            secret=True,
            help="URL of RabbitMQ: rabbit://user:password@host:port/virtual-host, or amqps://... for TLS. For a "
            "cluster, separate several user:password@host:port by commas. Set it if [queue] or "
            "[keystone_notifications] is enabled.",
        ),
    ],
    "oslo_messaging_rabbit": [
        cfg.BoolOpt(
            "ssl", default=False, help="Whether to use TLS even if transport_url does not start with amqps://."
        ),
        cfg.StrOpt(
            "ssl_ca_file", help="PEM file with the trusted certificate authorities; those of the system if unset."
        ),
        cfg.StrOpt(
            "ssl_cert_file", help="PEM file with the client certificate that is presented to RabbitMQ; none if unset."
        ),
        cfg.StrOpt(
            "ssl_key_file",
            help="PEM file with the private key of ssl_cert_file; not needed if ssl_cert_file contains it.",
        ),
    ],
    "queue": [
        cfg.BoolOpt(
            "enable",
            default=False,
            help="Whether orders are processed by workers, which receive them through RabbitMQ. If not, the API "
            "process processes them itself. Set it to the same value for API processes and workers.",
        ),
        cfg.StrOpt(
            "topic",
            default="barbtx.workers",
            regex=r"[A-Za-z0-9_.:-]{1,200}",
            help="Name of the task queue. Orders with key pairs use <topic>.asymmetric. API processes and workers "
            "must have the same name; drain the old queue before you change it.",
        ),
        cfg.StrOpt(
            "dead_letter_queue",
            regex=r"[A-Za-z0-9_.:-]{1,200}",
            help="Name of the queue for dead letters: messages that cannot be processed. <topic>.dead if unset. "
            "RabbitMQ refuses to redeclare an existing task queue with another name, which prevents the "
            "startup.",
        ),
        cfg.StrOpt(
            "dead_letter_exchange",
            default="",
            regex=r"[A-Za-z0-9_.:-]{0,200}",
            help="Exchange to which dead letters are published; the default exchange of RabbitMQ if empty. RabbitMQ "
            "refuses to redeclare an existing task queue with another exchange, which prevents the startup.",
        ),
        cfg.StrOpt(
            "namespace",
            default="barbtx",
            help="Namespace in task messages. Workers move messages with another namespace to the dead letter queue.",
        ),
        cfg.StrOpt(
            "version",
            default="1.1",
            regex=r"\d+\.\d+",
            help="Version in task messages. Workers accept every minor version of the same major version.",
        ),
        cfg.IntOpt(
            "asynchronous_workers",
            default=32,
            min=1,
            max=256,
            help="Maximum number of tasks in flight per process. Tasks in flight share transactions, so that a larger "
            "number costs less per task. Tasks that generate key pairs have their own limit, asymmetric_workers.",
        ),
        cfg.IntOpt(
            "asymmetric_workers",
            default=2,
            min=1,
            max=64,
            help="Maximum number of tasks in flight per process that generate key pairs. Each of them uses one "
            "processor core for up to several seconds.",
        ),
        cfg.IntOpt(
            "niceness",
            default=5,
            min=0,
            max=19,
            help="Added to the niceness of worker processes, so that API processes on a busy machine answer first.",
        ),
        cfg.FloatOpt(
            "local_wait_seconds",
            default=5.0,
            min=0,
            help="Without RabbitMQ: maximum time in seconds for which the response to a new order waits for the "
            "outcome of its task. With 0 it does not wait.",
        ),
        cfg.IntOpt(
            "local_max_waiting",
            default=10000,
            min=1,
            help="Without RabbitMQ: maximum number of tasks in the memory of the API process. Further tasks stay in "
            "the database, and the retry scheduler starts them later.",
        ),
        cfg.IntOpt(
            "max_unconfirmed",
            default=1000,
            min=1,
            help="Maximum number of published messages that RabbitMQ has not confirmed yet. Further tasks stay in "
            "the database, and the retry scheduler publishes them later.",
        ),
        cfg.FloatOpt(
            "heartbeat_seconds",
            default=10.0,
            min=1,
            help="Interval of AMQP heartbeats in seconds. The connection is closed when nothing was received for two "
            "intervals.",
        ),
        cfg.IntOpt(
            "delivery_limit",
            default=20,
            min=1,
            help="Number of deliveries after which a message becomes a dead letter. RabbitMQ refuses to redeclare an "
            "existing queue with another limit, which prevents the startup.",
        ),
        cfg.IntOpt(
            "max_length",
            default=1000000,
            min=1,
            help="Maximum number of messages in each queue. When a queue is full, tasks stay in the database and are "
            "published later. RabbitMQ refuses to redeclare an existing queue with another length, which "
            "prevents the startup.",
        ),
        cfg.FloatOpt(
            "outage_seconds",
            default=600.0,
            min=1,
            max=1500,
            help="Maximum time in seconds for which a task retries during an outage of the database before its "
            "message is returned to the end of the queue. It must be less than the acknowledgement timeout of "
            "RabbitMQ (30 minutes by default).",
        ),
        cfg.FloatOpt(
            "lease_seconds",
            default=30.0,
            min=1,
            max=3600,
            help="Duration of a worker's lease on an order, in seconds. Workers renew their leases; when a worker "
            "dies, another one takes over its orders after this time.",
        ),
        cfg.IntOpt(
            "max_attempts",
            default=10,
            min=1,
            help="Number of attempts to process an order, after which it fails. Attempts without the required master "
            "key or plugin do not count.",
        ),
        cfg.FloatOpt(
            "retry_seconds",
            default=5.0,
            min=0,
            help="Delay in seconds before an order is retried after its first attempt failed for a transient reason. "
            "It doubles with each attempt, up to one hour.",
        ),
        cfg.FloatOpt(
            "missing_key_seconds",
            default=30.0,
            min=0.1,
            help="Delay in seconds before an order is retried if the worker lacks the master key or the plugin that "
            "the order needs.",
        ),
        cfg.FloatOpt(
            "shutdown_seconds",
            default=30.0,
            min=0,
            help="How long a shutdown waits for tasks in flight, in seconds; the messages of the remaining tasks are "
            "redelivered. With 0 it does not wait. Keep it below [DEFAULT] graceful_shutdown_timeout.",
        ),
    ],
    "keystone_notifications": [
        cfg.BoolOpt(
            "enable",
            default=False,
            help="Whether workers remove the objects of projects that were deleted in Keystone. They confirm each "
            "deletion with Keystone first, so [keystone_authtoken] must be set.",
        ),
        cfg.StrOpt(
            "control_exchange",
            default="keystone",
            help="Exchange to which Keystone publishes its notifications: its [DEFAULT] control_exchange.",
        ),
        cfg.StrOpt(
            "topic",
            default="notifications",
            help="Topic of Keystone's notifications: its [oslo_messaging_notifications] topics.",
        ),
        cfg.StrOpt(
            "pool_name",
            default="barbtx.notifications",
            help="Name of a separate queue for Keystone's notifications. If empty, barbtx consumes from the shared "
            "queue <topic>.info, and every other consumer of that queue takes notifications away from it.",
        ),
        cfg.IntOpt(
            "concurrency", default=2, min=1, help="Maximum number of projects that one worker removes at the same time."
        ),
        cfg.IntOpt(
            "batch_size", default=100, min=1, help="Maximum number of objects that are removed in one transaction."
        ),
        cfg.FloatOpt(
            "grace_seconds",
            default=86400.0,
            min=0,
            help="Time in seconds between Keystone's confirmation that a project was deleted and the removal of its "
            "objects. Meanwhile the project cannot get new objects, and barbtx-manage removals cancel can "
            "cancel the removal. With 0 the removal begins at once.",
        ),
        cfg.FloatOpt(
            "closed_seconds",
            default=86400.0,
            min=0,
            help="Time in seconds after the removal of a project for which it cannot get new objects, even with a "
            "token that is still cached. It is at least [keystone_authtoken] token_cache_time plus one minute.",
        ),
        cfg.BoolOpt(
            "system_scope",
            default=False,
            help="Whether requests about projects use a system-scoped token, for which the role reader on the system "
            "is enough. Otherwise the token is scoped to the project of [keystone_authtoken], where the user "
            "needs the role admin.",
        ),
        cfg.FloatOpt(
            "interval_seconds",
            default=5.0,
            min=0.1,
            help="Interval in seconds at which the database is queried for removals that are due.",
        ),
        cfg.IntOpt(
            "max_unconfirmed",
            default=10000,
            min=1,
            help="Maximum number of removals that wait until Keystone confirms the deletion. Further notifications "
            "stay in the queue.",
        ),
        cfg.IntOpt(
            "max_attempts",
            default=10,
            min=1,
            help="Number of failed attempts after which a removal waits for barbtx-manage removals retry, or for "
            "another notification. Attempts that fail because the database or Keystone is unavailable do not "
            "count.",
        ),
        cfg.FloatOpt(
            "retry_seconds_max",
            default=60.0,
            min=0,
            help="Maximum delay in seconds between two attempts to remove a project or to record a notification.",
        ),
    ],
    "retry_scheduler": [
        cfg.FloatOpt(
            "initial_delay_seconds",
            default=1.0,
            min=0,
            help="Delay in seconds between startup and the first query for due tasks.",
        ),
        cfg.FloatOpt(
            "periodic_interval_max_seconds",
            default=5.0,
            min=0.1,
            help="Interval in seconds between queries for due tasks, varied at random by a fifth.",
        ),
        cfg.IntOpt("batch_size", default=100, min=1, help="Maximum number of due tasks that one query takes."),
        cfg.FloatOpt(
            "first_publish_seconds",
            default=5.0,
            min=0,
            max=3600,
            help="Time in seconds after which the retry scheduler publishes the task of a new order, if the task has "
            "not begun by then. While workers complete other orders of the same kind, it waits for republish_seconds "
            "longer, because the message is probably only queued.",
        ),
        cfg.FloatOpt(
            "republish_seconds",
            default=60.0,
            min=1,
            max=3600,
            help="Minimum time in seconds after which a published task that has not begun is published again.",
        ),
    ],
}

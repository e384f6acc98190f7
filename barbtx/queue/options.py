"""Options of the task queue, of the workers, of Keystone's notifications and of the retry scheduler."""

from __future__ import annotations

from oslo_config import cfg

OPTIONS = {
    "DEFAULT": [
        cfg.StrOpt(
            "transport_url",
            default="rabbit://guest:guest@127.0.0.1:5672/",
            secret=True,
            help="Where RabbitMQ is: rabbit://user:password@host:port/virtual-host; several hosts with commas between "
            "them; amqps://… for TLS.",
        ),
    ],
    "oslo_messaging_rabbit": [
        cfg.BoolOpt("ssl", default=False, help="Whether to use TLS, whatever transport_url says."),
        cfg.StrOpt("ssl_ca_file", help="PEM file with the authorities to believe; the system's if not set."),
        cfg.StrOpt("ssl_cert_file", help="PEM file with a client certificate."),
        cfg.StrOpt("ssl_key_file", help="PEM file with the client certificate's key."),
    ],
    "queue": [
        cfg.BoolOpt(
            "enable",
            default=False,
            help="Whether orders go to workers through RabbitMQ; if not, the API process runs them itself.",
        ),
        cfg.StrOpt("topic", default="barbtx.workers", regex=r"[A-Za-z0-9_.:-]{1,200}", help="Name of the task queue."),
        cfg.StrOpt(
            "dead_letter_queue",
            regex=r"[A-Za-z0-9_.:-]{1,200}",
            help="Queue of the messages that cannot be got rid of; <topic>.dead if not set.",
        ),
        cfg.StrOpt(
            "dead_letter_exchange",
            default="",
            regex=r"[A-Za-z0-9_.:-]{0,200}",
            help="Exchange through which they go; if empty, RabbitMQ's default one.",
        ),
        cfg.StrOpt("namespace", default="barbtx", help="Namespace in the messages; others are refused."),
        cfg.StrOpt(
            "version",
            default="1.1",
            regex=r"\d+\.\d+",
            help="Version in the messages; workers take every minor version of the same major.",
        ),
        cfg.IntOpt(
            "asynchronous_workers",
            default=4,
            min=1,
            max=256,
            help="Tasks that one worker process has in hand at the same time, at most; those that make key "
            "pairs are counted on their own.",
        ),
        cfg.IntOpt(
            "asymmetric_workers",
            default=2,
            min=1,
            max=64,
            help="Tasks that make key pairs, each of which keeps a processor busy, that one process has in "
            "hand at the same time, at most.",
        ),
        cfg.FloatOpt(
            "local_wait_seconds",
            default=5.0,
            min=0,
            help="Without RabbitMQ: how long the answer to an order waits for its outcome, at most.",
        ),
        cfg.IntOpt(
            "local_max_waiting",
            default=10000,
            min=1,
            help="Without RabbitMQ: tasks that may wait in memory; further ones wait in the database.",
        ),
        cfg.IntOpt(
            "max_unconfirmed",
            default=1000,
            min=1,
            help="Messages that may wait for RabbitMQ to confirm them; further ones wait in the database.",
        ),
        cfg.FloatOpt(
            "heartbeat_seconds",
            default=10.0,
            min=1,
            help="Interval of heartbeats; a broker silent for two of them is taken for dead.",
        ),
        cfg.IntOpt("delivery_limit", default=20, min=1, help="Deliveries after which a message is a dead letter."),
        cfg.IntOpt("max_length", default=1000000, min=1, help="Messages in the queue, at most."),
        cfg.FloatOpt(
            "outage_seconds",
            default=600.0,
            min=1,
            max=1500,
            help="How long a task waits for a database that is out of reach before its message goes back to "
            "the end of the queue; less than the broker waits for an acknowledgement (30 minutes).",
        ),
        cfg.FloatOpt(
            "lease_seconds",
            default=30.0,
            min=1,
            max=3600,
            help="How long an order stays with a worker that gives no sign of life.",
        ),
        cfg.IntOpt("max_attempts", default=10, min=1, help="How often an order is begun before it is given up."),
        cfg.FloatOpt(
            "retry_seconds",
            default=5.0,
            min=0,
            help="Wait before the second attempt, if what failed may be there again by then; it doubles from "
            "there, up to an hour.",
        ),
        cfg.FloatOpt(
            "missing_key_seconds",
            default=30.0,
            min=0.1,
            help="Wait before the next attempt if the worker lacks the master key, or the plugin, that an "
            "order needs; such an attempt does not count.",
        ),
        cfg.FloatOpt(
            "shutdown_seconds",
            default=30.0,
            min=0,
            help="How long a stopping worker may take to finish what it has in hand.",
        ),
    ],
    "keystone_notifications": [
        cfg.BoolOpt(
            "enable",
            default=False,
            help="Whether workers remove what belonged to projects that Keystone deletes; needs "
            "[keystone_authtoken], since Keystone is asked first.",
        ),
        cfg.StrOpt("control_exchange", default="keystone", help="Keystone's exchange."),
        cfg.StrOpt("topic", default="notifications", help="Keystone's topic for notifications."),
        cfg.StrOpt(
            "pool_name",
            default="barbtx.notifications",
            help="Our own queue for them; if empty, the queue that all consumers share, each of which then gets "
            "only some.",
        ),
        cfg.IntOpt("concurrency", default=2, min=1, help="Projects that are removed at the same time, at most."),
        cfg.IntOpt("batch_size", default=100, min=1, help="Objects that are removed in one transaction, at most."),
        cfg.FloatOpt(
            "grace_seconds",
            default=86400.0,
            min=0,
            help="Seconds between Keystone's confirmation that a project is gone and its removal; meanwhile "
            "nothing can be added to it, and barbtx-manage can cancel the removal.",
        ),
        cfg.FloatOpt(
            "closed_seconds",
            default=86400.0,
            min=0,
            help="Seconds after its removal in which nothing can be added to a project under a token that is "
            "still remembered; never less than [keystone_authtoken] token_cache_time and a minute.",
        ),
        cfg.BoolOpt(
            "system_scope",
            default=False,
            help="Whether to ask Keystone about projects with a token for the whole system, for which the role "
            "reader on it is enough; one for the project of [keystone_authtoken] needs the role admin.",
        ),
        cfg.FloatOpt("interval_seconds", default=5.0, min=0.1, help="Interval of the looks for removals that are due."),
        cfg.IntOpt(
            "max_unconfirmed",
            default=10000,
            min=1,
            help="Projects that may wait for Keystone to confirm that they are gone; further notifications wait "
            "in the queue.",
        ),
        cfg.IntOpt(
            "max_attempts",
            default=10,
            min=1,
            help="How often a removal may fail before it waits for an operator, or for its notification to come "
            "again; that something is out of reach is no failure.",
        ),
        cfg.FloatOpt("retry_seconds_max", default=60.0, min=0, help="Longest wait between two tries."),
    ],
    "retry_scheduler": [
        cfg.FloatOpt("initial_delay_seconds", default=1.0, min=0, help="Wait before the first look for due tasks."),
        cfg.FloatOpt(
            "periodic_interval_max_seconds",
            default=5.0,
            min=0.1,
            help="Interval of the looks for due tasks; each varies by a fifth at random.",
        ),
        cfg.IntOpt("batch_size", default=100, min=1, help="Due tasks taken in one transaction, at most."),
        cfg.FloatOpt(
            "first_publish_seconds",
            default=5.0,
            min=0,
            max=3600,
            help="How long after an order was accepted its task is due if it was never begun.",
        ),
        cfg.FloatOpt(
            "republish_seconds",
            default=60.0,
            min=1,
            max=3600,
            help="Wait before a published task that nobody has begun is published again.",
        ),
    ],
}

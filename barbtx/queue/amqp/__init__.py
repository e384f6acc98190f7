"""The RabbitMQ transport, built on txAMQP. Subclasses extend txAMQP 0.8.2 and correct its defects.

:mod:`codec <barbtx.queue.amqp.codec>` and :mod:`frames <barbtx.queue.amqp.frames>` read and write the wire format;
``channel`` and ``protocol`` are a connection; ``topology`` declares the queues; ``publisher`` and ``consumer`` are the
services; ``dead_letters`` shows and requeues dead letters.
"""

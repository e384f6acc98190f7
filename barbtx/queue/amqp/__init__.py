"""RabbitMQ through txAMQP, with what txAMQP 0.8.2 lacks or gets wrong mended in subclasses.

``codec`` and ``frames`` read and write the wire, ``protocol`` is a connection, ``topology`` what is declared at the
broker, ``publisher`` and ``consumer`` the two services that stand on it.
"""

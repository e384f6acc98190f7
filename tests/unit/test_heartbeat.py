"""Heartbeats on AMQP connections: the connection to a silent broker is closed after two intervals."""

from __future__ import annotations

import pytest
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransportWithDisconnection

from barbtx.queue.amqp.protocol import Client, load_spec

_HEARTBEAT_FRAME = b"\x08\x00\x00\x00\x00\x00\x00\xce"


def connected(clock: Clock, wanted: float, proposed: int) -> StringTransportWithDisconnection:
    """A connection after its handshake."""
    client = Client(load_spec(), clock, "/", ("guest", "guest"), "a connection", wanted)
    transport = StringTransportWithDisconnection()
    client.makeConnection(transport)
    client.tune(0, 0, proposed)
    transport.clear()
    transport.protocol = client
    return transport


@pytest.mark.parametrize(("wanted", "proposed", "agreed"), [(10, 60, 10), (60, 10, 10), (10, 0, 10)])
def test_a_silent_broker_is_given_up_within_three_heartbeats(wanted: float, proposed: int, agreed: int) -> None:
    clock = Clock()
    transport = connected(clock, wanted, proposed)
    clock.pump([agreed / 2] * 4)
    assert transport.connected
    clock.pump([agreed / 2] * 2)
    assert not transport.connected


def test_heartbeats_are_sent_and_keep_a_connection() -> None:
    clock = Clock()
    transport = connected(clock, 10, 60)
    for _ in range(20):
        clock.advance(5)
        transport.protocol.dataReceived(_HEARTBEAT_FRAME)
        assert _HEARTBEAT_FRAME in transport.value()
        transport.clear()
    assert transport.connected

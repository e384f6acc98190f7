"""Networks and addresses, as the configuration names them."""

from __future__ import annotations

import ipaddress

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def network(text: str) -> Network:
    """An oslo.config item type: an address, or a network in CIDR notation.

    :raises ValueError: it is neither.
    """
    return ipaddress.ip_network(text.strip(), strict=False)

"""Networks and addresses, as the configuration names them."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# Proxies may write a port behind an address, and then write an IPv6 address in brackets.
_WITH_PORT = re.compile(r"\[([^\]]+)\](?::\d+)?|([^:]+):\d+")
_IPV6_SITE = 64


def network(text: str) -> Network:
    """An oslo.config item type: an address, or a network in CIDR notation.

    :raises ValueError: it is neither.
    """
    return ipaddress.ip_network(text.strip(), strict=False)


def parse_address(text: str) -> Address | None:
    """An address as a socket or a proxy writes it, or None if it is no address."""
    text = text.strip()
    match = _WITH_PORT.fullmatch(text)
    if match:
        text = match[1] or match[2]
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    # On a socket for both families, IPv4 addresses are written as IPv6 ones.
    return getattr(address, "ipv4_mapped", None) or address


def is_within(address: Address | None, networks: Iterable[Network]) -> bool:
    """Whether an address is in any of some networks."""
    return address is not None and any(address in network for network in networks)


def client_group(address: Address) -> str:
    """What counts as one client when clients are limited: an IPv4 address, or the /64 network of an IPv6 address."""
    if address.version == 6:
        return str(ipaddress.ip_network((address, _IPV6_SITE), strict=False))
    return str(address)


def reported_client(forwarded_for: Sequence[str], trusted: Iterable[Network]) -> Address | None:
    """The client's address by the ``X-Forwarded-For`` header of a trusted proxy.

    Addresses are read from the last one, which the nearest proxy wrote, as long as they are those of trusted proxies.

    :param forwarded_for: the header's values, in the order in which they came.
    :return: None if the proxy names no address.
    """
    client = None
    for text in reversed([item for value in forwarded_for for item in value.split(",") if item.strip()]):
        address = parse_address(text)
        if address is None:
            break
        client = address
        if not is_within(address, trusted):
            break
    return client

"""IP addresses and networks of clients and proxies."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# Some proxies append a port to the address; an IPv6 address is then in brackets.
_WITH_PORT = re.compile(r"\[([^\]]+)\](?::\d+)?|([^:]+):\d+")
_IPV6_SITE = 64


def network(text: str) -> Network:
    """Parse an address, or a network in CIDR notation.

    :raises ValueError: the text is neither.
    """
    return ipaddress.ip_network(text.strip(), strict=False)


def parse_address(text: str) -> Address | None:
    """Parse an address as a socket or a proxy formats it; return None if the text is not an address."""
    text = text.strip()
    match = _WITH_PORT.fullmatch(text)
    if match:
        text = match[1] or match[2]
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    # A dual-stack socket reports IPv4 addresses as IPv6 ones (::ffff:192.0.2.1).
    return getattr(address, "ipv4_mapped", None) or address


def is_within(address: Address | None, networks: Iterable[Network]) -> bool:
    """Return whether an address is in one of the networks."""
    return address is not None and any(address in network for network in networks)


def client_group(address: Address) -> str:
    """Return the key by which limits count a client: an IPv4 address, or the /64 network of an IPv6 address."""
    if address.version == 6:
        return str(ipaddress.ip_network((address, _IPV6_SITE), strict=False))
    return str(address)


def reported_client(forwarded_for: Sequence[str], trusted: Iterable[Network]) -> Address | None:
    """Return the client's address from the ``X-Forwarded-For`` headers of a request that a trusted proxy has sent.

    The addresses are read from the last to the first. The first one that is not a trusted proxy's is the client's.

    :param forwarded_for: the values of the headers, in the order of their arrival.
    :return: None if the headers name no valid address.
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

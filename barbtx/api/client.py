"""The client that sent a request."""

from __future__ import annotations

import attrs

from barbtx.networks import Address, client_group


@attrs.frozen
class Client:
    """The client that sent a request.

    :ivar address: its address. If a trusted proxy does not report one, the proxy's; None for a UNIX socket.
    :ivar is_proxy: whether the address is the proxy's, so that requests of several clients may have it.
    :ivar text: the address for the log, ``-`` if there is none.
    """

    address: Address | None
    is_proxy: bool
    text: str = attrs.field(init=False, eq=False, repr=False)

    @text.default
    def _text(self) -> str:
        return str(self.address or "-")

    @property
    def group(self) -> str:
        """The key by which limits per client count this client; see :func:`client_group`."""
        return client_group(self.address) if self.address else "-"

"""Keys for purposes other than encryption, which are never stored in the database.

barbtx keeps values that it computes from secrets, such as the fingerprints of idempotent requests, and computes them
with a key. A crypto plugin or secret store that provides :class:`IKeyDerivation` supplies that key. If no enabled
plugin does, the operator configures a key for each purpose, or the feature is disabled.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs
from zope.interface import Interface

from barbtx.plugin.interface.results import MaybeAwaitable


@attrs.frozen
class DerivedKey:
    """A key and its name.

    :ivar id: distinguishes the keys of a deployment; the same in every process and after a restart; reveals nothing
        about the key; 1 to 64 letters and digits.
    :ivar key: 32 bytes.
    """

    id: str
    key: bytes = attrs.field(repr=False)


class IKeyDerivation(Interface):
    """An optional interface of crypto plugins and secret stores."""

    def derive_keys(purpose: str) -> MaybeAwaitable[Sequence[DerivedKey]]:
        """Return the keys for a purpose, one derived from each master key that the plugin has, the current one first.

        The same master key and purpose always give the same key. It must not be possible to compute from it the master
        key or the key for another purpose. The method is called for every use, so a slow plugin should cache the keys.

        :param purpose: ASCII text.
        """

"""Keys for other purposes than encryption, which the database never holds.

A crypto plugin or a secret store may provide :class:`IKeyDerivation` beside its own interface. What barbtx computes
from secrets and has to keep in the database, such as the fingerprints of repeatable requests, is then keyed. Where no
enabled plugin provides it, the operator configures a key for each purpose, or the feature does without.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs
from zope.interface import Interface


@attrs.frozen
class DerivedKey:
    """A key and its name.

    :ivar id: tells the keys of a deployment apart, is the same in every process and after a restart, and says nothing
        of the key; 1 to 64 letters and digits.
    :ivar key: 32 bytes.
    """

    id: str
    key: bytes = attrs.field(repr=False)


class IKeyDerivation(Interface):
    """An optional interface of crypto plugins and secret stores. The method may return a Deferred."""

    def derive_keys(purpose: str) -> Sequence[DerivedKey]:
        """The keys for a purpose, derived from each of the master keys that the plugin knows, the current one first.

        The same master key and purpose give the same key; neither a master key nor the key for another purpose can be
        computed from it. The plugin is asked for every use, so one that needs long should remember the keys.

        :param purpose: ASCII text.
        """

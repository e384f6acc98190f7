"""Verified fakes for tests of plugins and of barbtx itself.

"Verified" means that ``tests/functional/test_fakes.py`` runs the same tests against each fake and the real thing. The
package needs no test framework.
"""

from barbtx.testing.keystone import FakeKeystone
from barbtx.testing.secret_store import MemoryStore
from barbtx.testing.transport import MemoryTransport

__all__ = ["FakeKeystone", "MemoryStore", "MemoryTransport"]

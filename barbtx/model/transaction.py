"""The state that the reactor's thread and a database thread share about one transaction."""

from __future__ import annotations

import threading

import attrs


class ConcurrentChange(Exception):
    """Another transaction removed a row that this one relies on. :meth:`Database.interact` retries the work."""


class TransactionAbandoned(Exception):
    """The caller no longer waits for this transaction; it was rolled back."""


@attrs.define(eq=False)
class TransactionState:
    """Whether the caller has abandoned a transaction, and whether its COMMIT has begun.

    The reactor may abandon a transaction while a thread is about to commit it; a lock ensures that only one of the two
    happens.
    """

    abandoned: bool = False
    committing: bool = False
    _lock: threading.Lock = attrs.field(factory=threading.Lock, init=False, repr=False)

    def abandon(self) -> bool:
        """Abandon the transaction.

        :return: whether its outcome is unknown, because COMMIT has begun.
        """
        with self._lock:
            self.abandoned = True
            return self.committing

    def begin_attempt(self) -> None:
        """Note the start of an attempt.

        :raises TransactionAbandoned: the caller no longer waits.
        """
        self._set_committing(False)

    def begin_commit(self) -> None:
        """Note that COMMIT is about to be sent.

        :raises TransactionAbandoned: the caller no longer waits.
        """
        self._set_committing(True)

    def _set_committing(self, committing: bool) -> None:
        with self._lock:
            if self.abandoned:
                raise TransactionAbandoned
            self.committing = committing

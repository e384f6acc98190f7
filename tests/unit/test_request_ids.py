"""The ids of requests."""

from __future__ import annotations

import os
import uuid

from barbtx.api.request_ids import new_request_id


def test_ids_are_random_uuids_and_unique() -> None:
    ids = [new_request_id() for _ in range(3000)]
    assert len(set(ids)) == 3000
    for text in ids:
        found = uuid.UUID(text.removeprefix("req-"))
        assert (found.version, found.variant, f"req-{found}") == (4, uuid.RFC_4122, text)
    # Every digit takes every value, except the version's and the variant's.
    digits = [{uuid.UUID(text[4:]).hex[place] for text in ids} for place in range(32)]
    assert [len(seen) for seen in digits] == [1 if place == 12 else 4 if place == 16 else 16 for place in range(32)]


def test_a_forked_process_has_ids_of_its_own() -> None:
    new_request_id()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, new_request_id().encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reading, 100).decode() not in [new_request_id() for _ in range(300)]
    os.close(reading)
    os.close(writing)

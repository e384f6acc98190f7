"""The recorded exchanges with the reference service, replayed against each deployment."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conformance import kit, replay
from tests.support.service import Api

HERE = Path(__file__).parent
SCENARIOS = kit.load(HERE)
WAIVERS = json.loads((HERE / "waivers.json").read_text())


@pytest.mark.parametrize("name", sorted(SCENARIOS))
def test_answers_as_recorded(service: Api, name: str) -> None:
    golden = json.loads((HERE / "golden" / f"{name}.json").read_text())
    results = replay.play(service.url, name, SCENARIOS[name], golden, WAIVERS)
    assert results
    failures = [
        "\n".join([f"{result['id']}: {result['request']}", *result["diff"]])
        for result in results
        if not result["passed"]
    ]
    assert not failures, "\n\n".join(failures)

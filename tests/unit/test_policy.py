"""Policy: the compiled predicates say what oslo.policy says."""

from __future__ import annotations

from itertools import product

import pytest

from barbtx.config import load
from barbtx.errors import ConfigurationError
from barbtx.identity.context import RequestContext
from barbtx.identity.policy import Policy, get_enforcer, list_rules

ROLES = ("admin", "creator", "observer", "audit", "key-manager:service-admin", "reader", "member", "nobody")
RULES = [rule.name for rule in list_rules() if ":" in rule.name]


def context(*roles: str, project: str = "p", user: str | None = "u") -> RequestContext:
    return RequestContext(project, user, frozenset(roles), "req")


def target(kind: str, project: str, creator: str | None, private: bool, listed: bool) -> dict[str, object]:
    found = {f"target.{kind}.project_id": project, f"target.{kind}.creator_id": creator}
    if kind != "order":
        found[f"target.{kind}.read_project_access"] = not private
        if listed:
            found[f"target.{kind}.read"] = "read"
    return found


@pytest.mark.parametrize("new_defaults", [True, False])
def test_every_rule_decides_as_oslo_policy_does(new_defaults: bool) -> None:
    conf = load([], [f"oslo_policy.enforce_new_defaults={new_defaults}"])
    policy, enforcer = Policy.from_config(conf), get_enforcer(conf)
    cases = list(product(ROLES, ("secret", "container", "order"), ("p", "q"), ("u", "v"), (True, False), (True, False)))
    assert RULES
    for role, kind, project, creator, private, listed in cases:
        who, what = context(role), target(kind, project, creator, private, listed)
        oslo_target = {**what, "enforce_new_defaults": new_defaults}
        credentials = {"roles": [role], "user_id": "u", "project_id": "p"}
        for rule in RULES:
            expected = bool(enforcer.rules[rule](oslo_target, credentials, enforcer))
            assert policy.allows(rule, who, what) is expected, (rule, role, what)


def test_a_rule_that_does_not_exist_allows_nobody() -> None:
    assert not Policy.from_config(load()).allows("no:such", context("admin"), {})


def test_an_override_takes_the_place_of_both_defaults(tmp_path) -> None:
    (tmp_path / "policy.yaml").write_text('"secrets:post": "role:scribe and not role:guest"\n')
    policy = Policy.from_config(load([], [f"oslo_policy.policy_file={tmp_path}/policy.yaml"]))
    assert policy.allows("secrets:post", context("SCRIBE".lower()), {})
    assert not policy.allows("secrets:post", context("scribe", "guest"), {})
    assert not policy.allows("secrets:post", context("member"), {})


@pytest.mark.parametrize("text", ['"secrets:post": "role:a or or"', "[not a mapping", '"secrets:post": "rule:secrets:post"'])
def test_a_policy_file_with_an_error_stops_the_start(tmp_path, text: str) -> None:
    (tmp_path / "policy.yaml").write_text(text)
    with pytest.raises(ConfigurationError, match="policy"):
        Policy.from_config(load([], [f"oslo_policy.policy_file={tmp_path}/policy.yaml"]))

"""Policy: the compiled predicates say what oslo.policy says."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oslo_policy import policy as oslo_policy

from barbtx.api.operation import Operation
from barbtx.api.routes import ROOT_ROUTES, V1_ROUTES
from barbtx.config import load
from barbtx.errors import ConfigurationError
from barbtx.identity.context import RequestContext
from barbtx.identity.policy import Policy, credentials_of, get_enforcer, list_rules
from barbtx.identity.policy_audit import find_risks
from barbtx.identity.predicates import compile_rules

ROLES = ("admin", "creator", "observer", "audit", "key-manager:service-admin", "reader", "member", "nobody")
CONFIG = Path(__file__).parents[2] / "config"
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


_ROLE_NAMES = ("admin", "member", "reader", "Ops", "key-manager:service-admin")
_KEYS = ("target.secret.project_id", "target.secret.creator_id", "target.secret.read", "missing", "user_id")
_VALUES = st.sampled_from(["p", "q", "u", "read", "", None, True, False, 1])
_LEAVES = st.one_of(
    st.sampled_from(["@", "!"]),
    st.sampled_from(_ROLE_NAMES).map(lambda role: f"role:{role}"),
    st.sampled_from(["r0", "r1", "r2", "absent"]).map(lambda rule: f"rule:{rule}"),
    st.builds(
        lambda name, key: f"{name}:%({key})s",
        st.sampled_from(
            ["project_id", "user_id", "roles", "True", "'read'", "None", "1", "domain_id", "token.project.id"]
        ),
        st.sampled_from(_KEYS),
    ),
    st.sampled_from(
        ["project_id:p", "user_id:u", "'p':p", "role:%(user_id)s", "user_id:%(target.secret.creator_id)s x"]
    ),
)
_CHECKS = st.recursive(
    _LEAVES,
    lambda inner: st.one_of(
        inner.map(lambda check: f"not {check}" if " " not in check else f"not ({check})"),
        st.builds(
            lambda parts, word: "(" + f" {word} ".join(parts) + ")",
            st.lists(inner, min_size=2, max_size=3),
            st.sampled_from(["and", "or"]),
        ),
    ),
    max_leaves=8,
)


@settings(max_examples=400, deadline=None)
@given(
    checks=st.lists(_CHECKS, min_size=3, max_size=3),
    roles=st.sets(st.sampled_from([*_ROLE_NAMES, "ADMIN", "none"])),
    found=st.dictionaries(st.sampled_from(_KEYS), _VALUES),
    user=st.sampled_from(["u", "v", None]),
    project=st.sampled_from(["p", "q"]),
)
def test_any_rules_decide_as_oslo_policy_does(
    checks: list[str], roles: set[str], found: dict[str, object], user: str | None, project: str
) -> None:
    # r2 may name r0 and r1, r1 only r0, and r0 none: rules in a circle are refused when they are loaded.
    rules = {f"r{n}": check for n, check in enumerate(checks)}
    for n, name in enumerate(rules):
        for later in range(n, 3):
            rules[name] = rules[name].replace(f"rule:r{later}", "rule:absent")
    enforcer = oslo_policy.Enforcer(load(), use_conf=False)
    enforcer.set_rules(oslo_policy.Rules.from_dict(rules), use_conf=False)
    who = context(*roles, project=project, user=user)
    compiled = compile_rules(enforcer)
    # Where it differs on purpose: to oslo.policy a null equals the text "None", which only the role "none" shows here.
    known = {name: value for name, value in credentials_of(who).items() if value is not None}
    known["roles"] = [role for role in known["roles"] if role != "none"]
    for name, check in enforcer.rules.items():
        expected = bool(check(dict(found), dict(known), enforcer))
        assert compiled[name](found, credentials_of(who)) is expected, rules


def test_a_rule_that_does_not_exist_allows_nobody() -> None:
    assert not Policy.from_config(load()).allows("no:such", context("admin"), {})


def test_an_override_takes_the_place_of_both_defaults(tmp_path) -> None:
    (tmp_path / "policy.yaml").write_text('"secrets:post": "role:scribe and not role:guest"\n')
    policy = Policy.from_config(load([], [f"oslo_policy.policy_file={tmp_path}/policy.yaml"]))
    assert policy.allows("secrets:post", context("SCRIBE".lower()), {})
    assert not policy.allows("secrets:post", context("scribe", "guest"), {})
    assert not policy.allows("secrets:post", context("member"), {})


@pytest.mark.parametrize(
    "text",
    [
        '"secrets:post": "role:a or or"',
        "[not a mapping",
        '"secrets:post": "rule:secrets:post"',
        # oslo.policy alone would take each of these, and let everybody in with some.
        '"secret:decrypt": "not roleaudit and not role:audit"',
        '"secret:decrypt": !',
        '"secret:decrypt": ~',
        '"secret:decrypt": ""',
        '"secrets:post": "role:x or nonsense"',
        '"secrets:post": 5',
        '"secrets:post": true',
        '"secrets:post": {"role": "x"}',
        "- secrets:post",
        "just a text",
        '"secrets:post": "http://127.0.0.1:1/ask"',
    ],
)
def test_a_policy_file_with_an_error_stops_the_start(tmp_path, text: str) -> None:
    (tmp_path / "policy.yaml").write_text(text)
    with pytest.raises(ConfigurationError, match="policy"):
        Policy.from_config(load([], [f"oslo_policy.policy_file={tmp_path}/policy.yaml"]))


def test_every_operation_of_every_route_has_a_rule_that_exists() -> None:
    open_to_all = {
        route: controller
        for route, controller in (ROOT_ROUTES | V1_ROUTES).items()
        for operation in _operations(controller)
        if operation.rule is None
    }
    assert set(open_to_all) == {"/", "/v1"}
    used = {operation.rule for controller in V1_ROUTES.values() for operation in _operations(controller)}
    assert used - {None} <= set(RULES)


def _operations(controller: type) -> list[Operation]:
    """Those that do something: ``on_other`` is for methods that are not allowed, and says so."""
    return [
        value
        for name in dir(controller)
        if name != "on_other" and isinstance(value := getattr(controller, name, None), Operation)
    ]


def test_what_reaches_beyond_a_project_is_named_and_the_hardened_rules_close_it() -> None:
    risks = list(find_risks(Policy.from_config(load())))
    named = {risk.partition(": ")[0] for risk in risks}
    assert {"secret:get", "secret:delete", "project_quotas:put", "transport_key:delete"} <= named
    hardened = Policy.from_config(load([], [f"oslo_policy.policy_file={CONFIG}/policy-hardened.yaml"]))
    assert list(find_risks(hardened)) == []
    member = context("member", "reader")
    assert hardened.allows("secret:get", member, target("secret", "p", "v", False, False))
    assert hardened.allows("secret:delete", context("admin"), target("secret", "p", "v", True, False))
    assert not hardened.allows("secret:delete", context("admin"), target("secret", "q", "v", False, True))


def test_rules_that_let_anybody_in_are_named(tmp_path) -> None:
    (tmp_path / "policy.yaml").write_text('"secret:decrypt": "@"\n"orders:get": "@"\n')
    risks = "\n".join(find_risks(Policy.from_config(load([], [f"oslo_policy.policy_file={tmp_path}/policy.yaml"]))))
    assert "secret:decrypt: nobody, reader" in risks and "orders:get: nobody without any role" in risks


def test_a_literal_refusal_may_stand_anywhere(tmp_path) -> None:
    (tmp_path / "policy.yaml").write_text('"secrets:post": "!"\n"secrets:get": "role:a or (not ! and role:b)"\n')
    policy = Policy.from_config(load([], [f"oslo_policy.policy_file={tmp_path}/policy.yaml"]))
    assert not policy.allows("secrets:post", context("admin"), {}) and policy.allows("secrets:get", context("b"), {})


@pytest.mark.parametrize(
    "check", ["class:x", "user_id.x:y", "user_id:%(target.secret.project_id)d", "user_id:%(broken"]
)
def test_a_check_that_makes_no_sense_admits_nobody(tmp_path, check: str) -> None:
    (tmp_path / "policy.yaml").write_text(f'"secret:get": "{check}"\n')
    policy = Policy.from_config(load([], [f"oslo_policy.policy_file={tmp_path}/policy.yaml"]))
    assert not policy.allows("secret:get", context("admin"), target("secret", "p", "u", False, True))


def test_whether_the_project_is_the_admin_project_counts(tmp_path) -> None:
    (tmp_path / "policy.yaml").write_text('"secrets:get": "role:admin and is_admin_project:True"')
    policy = Policy.from_config(load([], [f"oslo_policy.policy_file={tmp_path}/policy.yaml"]))
    anywhere = RequestContext("p", "u", frozenset({"admin"}), "req", is_admin_project=False)
    assert policy.allows("secrets:get", context("admin"), {}) and not policy.allows("secrets:get", anywhere, {})


def test_a_reload_takes_the_new_rules_or_keeps_the_old(tmp_path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text('"secrets:get": "role:a"')
    policy = Policy.from_config(load([], [f"oslo_policy.policy_file={path}"]))
    path.write_text('"secrets:get": "role:b"')
    policy.reload()
    assert policy.allows("secrets:get", context("b"), {}) and not policy.allows("secrets:get", context("a"), {})
    path.write_text('"secrets:get": "role:c"\n"secrets:post": "role:a or or"')
    with pytest.raises(ConfigurationError):
        policy.reload()
    assert policy.allows("secrets:get", context("b"), {}) and not policy.allows("secrets:get", context("c"), {})


@pytest.mark.parametrize(
    "tool", ["oslopolicy-sample-generator", "oslopolicy-policy-generator", "oslopolicy-list-redundant"]
)
def test_oslo_policy_s_tools_know_barbtx(tool: str, tmp_path) -> None:
    done = subprocess.run(
        [Path(sys.executable).parent / tool, "--namespace", "barbtx"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    if "generator" in tool:
        assert '"secret:decrypt": "True:%(enforce_new_defaults)s and' in done.stdout


def test_oslopolicy_checker_understands_the_generated_policy(tmp_path) -> None:
    tools = Path(sys.executable).parent
    subprocess.run(
        [tools / "oslopolicy-policy-generator", "--namespace", "barbtx", "--output-file", "all.yaml"],
        cwd=tmp_path,
        check=True,
        capture_output=True,
    )
    (tmp_path / "access.json").write_text(
        json.dumps({"token": {"roles": [{"name": "member"}], "user": {"id": "u"}, "project": {"id": "p"}}})
    )
    (tmp_path / "target.json").write_text(json.dumps({"enforce_new_defaults": True}))
    done = subprocess.run(
        [tools / "oslopolicy-checker", "--policy", "all.yaml", "--access", "access.json", "--target", "target.json"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert "passed: secrets:post" in done.stdout and "failed: project_quotas:put" in done.stdout, done

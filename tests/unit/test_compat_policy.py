"""oslo.policy still has what ``barbtx.compat_policy`` uses of its private parts."""

from __future__ import annotations

import inspect
import logging
from importlib.metadata import EntryPoint, entry_points

import pytest
from oslo_policy import policy as oslo_policy

from barbtx import compat_policy as compat
from barbtx.config import load

CHANGED = "this release of oslo.policy differs from the one that barbtx.compat_policy was written for: "


class TheirCheck(compat.GenericCheck):
    pass


def parse(check: str) -> object:
    compat.load_rule_checks()
    enforcer = oslo_policy.Enforcer(load())
    enforcer.set_rules(oslo_policy.Rules.load(f'"rule": "{check}"'), use_conf=False)
    return enforcer.rules["rule"]


@pytest.mark.parametrize(
    ("check", "kind"),
    [
        ("@", "TrueCheck"),
        ("!", "FalseCheck"),
        ("not role:a", "NotCheck"),
        ("role:a and role:b", "AndCheck"),
        ("role:a or role:b", "OrCheck"),
        ("rule:a", "RuleCheck"),
        ("role:a", "RoleCheck"),
        ("project_id:%(target.secret.project_id)s", "GenericCheck"),
        ("http://example.com/", "RemoteCheck"),
        ("https://example.com/", "RemoteCheck"),
    ],
)
def test_a_rule_is_parsed_into_the_class_that_barbtx_compiles(check: str, kind: str) -> None:
    expected = getattr(compat, kind)
    assert type(parse(check)) is expected and issubclass(expected, compat.BaseCheck), (
        CHANGED + f"'{check}' is not parsed into a {kind}"
    )


def test_the_parts_of_checks_have_the_names_that_barbtx_reads() -> None:
    generic, negation, both = parse("kind:match"), parse("not role:a"), parse("role:a and role:b")
    assert (generic.kind, generic.match) == ("kind", "match"), CHANGED + "Check.kind, Check.match"
    assert isinstance(negation.rule, compat.RoleCheck), CHANGED + "NotCheck.rule"
    assert [rule.match for rule in both.rules] == ["a", "b"], CHANGED + "AndCheck.rules"
    assert [rule.match for rule in parse("role:a or role:b").rules] == ["a", "b"], CHANGED + "OrCheck.rules"


def test_oslo_policy_s_own_checks_in_other_modules_are_those_for_other_servers() -> None:
    """barbtx does not load them. Others might be needed."""
    points = entry_points(group="oslo.policy.rule_checks")
    own = {point.name for point in points if point.value.startswith("oslo_policy.")}
    assert own == {"http", "https"}, CHANGED + "its entry points in oslo.policy.rule_checks"


def test_a_check_of_another_distribution_is_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = EntryPoint("ours", f"{__name__}:TheirCheck", "oslo.policy.rule_checks")
    monkeypatch.setattr(compat, "entry_points", lambda group: [theirs])
    assert isinstance(parse("ours:anything"), TheirCheck)


def test_a_check_for_another_server_allows_nobody() -> None:
    assert parse("http://example.com/")({}, {}, oslo_policy.Enforcer(load())) is False


def test_a_check_is_called_with_target_credentials_and_enforcer() -> None:
    parameters = list(inspect.signature(compat.BaseCheck.__call__).parameters)
    assert parameters[1:4] == ["target", "creds", "enforcer"], CHANGED + "the parameters of a check"


def test_what_cannot_be_parsed_is_a_check_that_allows_nobody() -> None:
    logging.getLogger("oslo_policy").setLevel(logging.CRITICAL)
    assert type(parse("role:a or")) is compat.FalseCheck, CHANGED + "rules that cannot be parsed"


def test_the_check_of_rules_can_be_disabled() -> None:
    enforcer = oslo_policy.Enforcer(load())
    assert enforcer._need_check_rule is True, CHANGED + "Enforcer._need_check_rule"
    calls = []
    enforcer.check_rules = lambda **options: calls.append(options)
    enforcer.load_rules()
    assert calls, CHANGED + "load_rules() does not call check_rules()"
    enforcer = oslo_policy.Enforcer(load())
    enforcer.check_rules = lambda **options: calls.append(options)
    compat.disable_rule_check(enforcer)
    calls.clear()
    enforcer.load_rules()
    assert not calls, CHANGED + "_need_check_rule does not disable check_rules()"

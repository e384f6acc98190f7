"""The rules of who may do what: oslo.policy reads them, and here they become plain predicates.

oslo.policy's check objects look at their own signature at each call, which costs a third of a millisecond a decision.
Their trees are therefore compiled once, when the rules are loaded, into functions of a target and credentials. A kind
of check that is not known here keeps its object, and so its meaning.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Mapping
from importlib.resources import files
from typing import Any

import attrs
from oslo_config import cfg
from oslo_policy import _checks as checks
from oslo_policy import policy as oslo_policy

from barbtx.errors import ConfigurationError
from barbtx.identity.context import RequestContext

Target = Mapping[str, object]
Credentials = Mapping[str, object]
Predicate = Callable[[Target, Credentials], bool]


def list_rules() -> list[oslo_policy.RuleDefault]:
    """The default rules, new and deprecated, for oslo.policy and its command line tools."""
    source = json.loads((files(__package__) / "policy_rules.json").read_text())
    rules = [oslo_policy.RuleDefault(name, check) for name, check in source["helpers"].items()]
    for name, rule in source["rules"].items():
        deprecated = oslo_policy.DeprecatedRule(
            name, rule["deprecated"], deprecated_since="0.1",
            deprecated_reason="The roles reader, member and admin take the place of the service's own roles.",
        )
        rules.append(oslo_policy.RuleDefault(name, rule["check"], scope_types=["project"],
                                             deprecated_rule=deprecated))
    return rules


def get_enforcer(conf: cfg.ConfigOpts) -> oslo_policy.Enforcer:
    """oslo.policy's own enforcer with barbtx's defaults and the operator's overrides.

    :raises ConfigurationError: a rule cannot be parsed, or a policy file cannot be read.
    """
    enforcer = oslo_policy.Enforcer(conf)
    enforcer.suppress_deprecation_warnings = True
    enforcer.suppress_default_change_warnings = True
    enforcer.register_defaults(list_rules())
    try:
        enforcer.load_rules()
        enforcer.check_rules(raise_on_violation=True)
    except (oslo_policy.InvalidDefinitionError, oslo_policy.PolicyNotAuthorized, ValueError, OSError) as problem:
        raise ConfigurationError(f"policy: {' '.join(str(problem).split())}") from None
    for name, rule in enforcer.file_rules.items():
        # oslo.policy takes a text that it cannot parse for one that allows nobody.
        if isinstance(rule.check, checks.FalseCheck) and rule.check_str.strip() != "!":
            raise ConfigurationError(f"policy: the rule '{name}' cannot be parsed: {rule.check_str}")
    return enforcer


@attrs.frozen
class Policy:
    """Decides. A rule that does not exist allows nobody.

    :ivar enforce_new_defaults: part of every target, since the rules' texts ask for it.
    """

    predicates: Mapping[str, Predicate]
    enforce_new_defaults: bool

    @classmethod
    def from_config(cls, conf: cfg.ConfigOpts) -> Policy:
        """Load and compile the rules.

        :raises ConfigurationError: they have an error.
        """
        enforcer = get_enforcer(conf)
        return cls(_compile_all(enforcer), conf.oslo_policy.enforce_new_defaults)

    def allows(self, rule: str, context: RequestContext, target: Target) -> bool:
        """Whether the caller may do what a rule is about.

        :param target: what policy may know of the object; made by the service alone, never from a request.
        """
        predicate = self.predicates.get(rule)
        if predicate is None:
            return False
        credentials = {"user_id": context.user_id, "project_id": context.project_id, "roles": list(context.roles),
                       "domain_id": context.domain_id, "user_domain_id": context.user_domain_id,
                       "project_domain_id": context.project_domain_id}
        return predicate({**target, "enforce_new_defaults": self.enforce_new_defaults}, credentials)


def _compile_all(enforcer: oslo_policy.Enforcer) -> dict[str, Predicate]:
    predicates: dict[str, Predicate] = {}
    for name, check in enforcer.rules.items():
        predicates[name] = _compile(check, predicates, enforcer)
    return predicates


def _compile(check: Any, predicates: Mapping[str, Predicate], enforcer: oslo_policy.Enforcer) -> Predicate:
    kind = type(check)
    if kind is checks.TrueCheck:
        return lambda target, creds: True
    if kind is checks.FalseCheck:
        return lambda target, creds: False
    if kind is checks.NotCheck:
        inner = _compile(check.rule, predicates, enforcer)
        return lambda target, creds: not inner(target, creds)
    if kind in (checks.AndCheck, checks.OrCheck):
        parts = [_compile(rule, predicates, enforcer) for rule in check.rules]
        if kind is checks.AndCheck:
            return lambda target, creds: all(part(target, creds) for part in parts)
        return lambda target, creds: any(part(target, creds) for part in parts)
    if kind is checks.RuleCheck:
        # Looked up when it is asked: rules may name each other in any order.
        name = check.match
        return lambda target, creds: name in predicates and predicates[name](target, creds)
    if kind is checks.RoleCheck and "%" not in check.match:
        role = check.match.lower()
        return lambda target, creds: any(role == held.lower() for held in creds["roles"])
    if kind is checks.GenericCheck:
        return _compile_generic(check)
    return lambda target, creds: bool(check(dict(target), dict(creds), enforcer))


def _compile_generic(check: checks.GenericCheck) -> Predicate:
    template = check.match
    key = template[2:-2] if template.startswith("%(") and template.endswith(")s") and template.count("%") == 1 else None
    try:
        literal = str(ast.literal_eval(check.kind))
    except ValueError:
        literal = None

    def wanted(target: Target) -> str | None:
        try:
            return str(target[key]) if key is not None else template % target
        except KeyError:
            return None

    if literal is not None:
        return lambda target, creds: wanted(target) == literal
    path = check.kind.split(".")

    def matches(target: Target, creds: Credentials) -> bool:
        match = wanted(target)
        return match is not None and check._find_in_dict(creds, path, match)

    return matches

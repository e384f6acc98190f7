"""Policy: oslo.policy parses the rules, barbtx compiles and evaluates them."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from importlib.resources import files

import attrs
from oslo_config import cfg
from oslo_policy import policy as oslo_policy

from barbtx.compat_policy import disable_rule_check, load_rule_checks
from barbtx.errors import ConfigurationError, one_line
from barbtx.identity.context import RequestContext
from barbtx.identity.policy_errors import find_errors
from barbtx.identity.policy_files import read_policy_files
from barbtx.identity.predicates import Credentials, Predicate, RequestTarget, compile_rules


def list_rules() -> list[oslo_policy.RuleDefault]:
    """Return the default rules, new and deprecated, for oslo.policy and its command line tools."""
    source = json.loads((files(__package__) / "policy_rules.json").read_text())
    rules = [
        oslo_policy.RuleDefault(name, helper["check"], helper["description"])
        for name, helper in source["helpers"].items()
    ]
    for name, rule in source["rules"].items():
        deprecated = oslo_policy.DeprecatedRule(
            name,
            rule["deprecated"],
            deprecated_since="0.1",
            deprecated_reason="Keystone's default roles reader, member and admin replace the roles of the Key Manager "
            "service: audit, observer, creator and key-manager:service-admin.",
        )
        operations: list[oslo_policy.Operation] = [
            {"method": method, "path": path} for method, path in (text.split(" ") for text in rule["operations"])
        ]
        rules.append(
            oslo_policy.DocumentedRuleDefault(
                name,
                rule["check"],
                rule["description"],
                operations,
                scope_types=["project"],
                deprecated_rule=deprecated,
            )
        )
    return rules


def get_enforcer(conf: cfg.ConfigOpts) -> oslo_policy.Enforcer:
    """Make oslo.policy's enforcer with barbtx's default rules and the operator's overrides.

    :raises ConfigurationError: a policy file is missing or cannot be read, or rules have errors; each is named.
    """
    enforcer = oslo_policy.Enforcer(conf)
    enforcer.suppress_deprecation_warnings = True
    enforcer.suppress_default_change_warnings = True
    # find_errors reports the same and more; oslo.policy's own check would write to standard error only.
    disable_rule_check(enforcer)
    logging.getLogger("oslo_policy").setLevel(logging.CRITICAL)
    overrides = {name: text for rules in read_policy_files(conf).values() for name, text in rules.items()}
    try:
        load_rule_checks()
        enforcer.register_defaults(list_rules())
        enforcer.load_rules()
    except Exception as problem:
        # oslo.policy may raise anything for a malformed file; the operator gets one line.
        raise ConfigurationError(f"policy: {one_line(problem) or type(problem).__name__}") from None
    if {name: rule.check_str for name, rule in enforcer.file_rules.items()} != overrides:
        raise ConfigurationError("policy: the files changed while they were read; reload once more")
    errors = find_errors(enforcer, overrides, _ATTRIBUTES)
    if errors:
        raise ConfigurationError(*(f"policy: {error}" for error in errors))
    return enforcer


def enforcer_for_tools() -> oslo_policy.Enforcer:
    """Make an enforcer for oslo.policy's command line tools, with the configuration files that oslo.config finds.

    :raises ConfigurationError: as :func:`get_enforcer`.
    """
    conf = cfg.ConfigOpts()
    conf(args=[], project="barbtx")
    return get_enforcer(conf)


@attrs.define(eq=False)
class Policy:
    """Decides whether a caller may perform an operation on an object.

    A rule that does not exist allows nobody.

    :ivar enforce_new_defaults: part of every target, because the default rules refer to it.
    """

    conf: cfg.ConfigOpts
    enforce_new_defaults: bool
    _predicates: Mapping[str, Predicate]
    _overridden: frozenset[str]

    @classmethod
    def from_config(cls, conf: cfg.ConfigOpts) -> Policy:
        """Load and compile the rules.

        :raises ConfigurationError: as :func:`get_enforcer`.
        """
        enforcer = get_enforcer(conf)
        return cls(conf, conf.oslo_policy.enforce_new_defaults, compile_rules(enforcer), _overridden(enforcer))

    def reload(self) -> None:
        """Read the rules again. Blocks, so call it in a thread; the new rules take effect all at once.

        If the files no longer override a rule, the default rule, which may allow more, would take its place. Because a
        file that was lost by mistake looks the same, such a reload is refused and requires a restart.

        :raises ConfigurationError: rules have errors, or fewer rules are overridden than before; the old rules stay in
            force.
        """
        enforcer = get_enforcer(self.conf)
        overridden = _overridden(enforcer)
        lost = sorted(self._overridden - overridden)
        if lost:
            raise ConfigurationError(
                f"policy: the files no longer override {', '.join(lost)}; to return to "
                "the default rules, restart the process"
            )
        self._predicates, self._overridden = compile_rules(enforcer), overridden

    def allows(self, rule: str, context: RequestContext, target: RequestTarget) -> bool:
        """Return whether a rule allows the caller to perform its operation.

        :param target: the object's attributes for policy; made by the service alone, never from a request.
        """
        predicate = self._predicates.get(rule)
        if predicate is None:
            return False
        return predicate({**target, "enforce_new_defaults": self.enforce_new_defaults}, credentials_of(context))


def _overridden(enforcer: oslo_policy.Enforcer) -> frozenset[str]:
    return frozenset(enforcer.file_rules.keys() & enforcer.registered_rules.keys())


def credentials_of(context: RequestContext) -> Credentials:
    """Return the attributes of a caller under the names that rules use, which are those of oslo.context."""
    return {
        "user_id": context.user_id,
        "project_id": context.project_id,
        "roles": list(context.roles),
        "domain_id": context.domain_id,
        "user_domain_id": context.user_domain_id,
        "project_domain_id": context.project_domain_id,
        "system_scope": None,
        "is_admin_project": context.is_admin_project,
        "service_user_id": context.service_user_id,
        "service_project_id": context.service_project_id,
        "service_roles": list(context.service_roles),
        "service_user_domain_id": context.service_user_domain_id,
        "service_project_domain_id": context.service_project_domain_id,
    }


_ATTRIBUTES = frozenset(credentials_of(RequestContext(None, None, frozenset(), "")))

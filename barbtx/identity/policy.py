"""The rules of who may do what: oslo.policy reads them, and what they mean is decided here."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import attrs
import yaml
from oslo_config import cfg
from oslo_policy import _checks as checks
from oslo_policy import _external
from oslo_policy import policy as oslo_policy

from barbtx.errors import ConfigurationError
from barbtx.identity.context import RequestContext
from barbtx.identity.predicates import Credentials, Predicate, Target, compile_rules


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
        for path in policy_files(conf):
            _check_texts(path)
        enforcer.load_rules()
        enforcer.check_rules(raise_on_violation=True)
    except ConfigurationError:
        raise
    except Exception as problem:
        # Whatever is in the files, and whatever oslo.policy makes of it, the operator gets a line.
        raise ConfigurationError(f"policy: {' '.join(str(problem).split()) or type(problem).__name__}") from None
    for name, rule in enforcer.file_rules.items():
        refusals = [leaf for leaf in _leaves(rule.check) if isinstance(leaf, checks.FalseCheck)]
        # oslo.policy takes what it cannot parse for something that allows nobody: under a "not", everybody.
        if len(refusals) != _literal_refusals(rule.check_str):
            raise ConfigurationError(f"policy: the rule '{name}' cannot be parsed: {rule.check_str}")
        if any(isinstance(leaf, (_external.HttpCheck, _external.HttpsCheck)) for leaf in _leaves(rule.check)):
            raise ConfigurationError(f"policy: the rule '{name}' asks another server, which would hold up every request")
    return enforcer


def _check_texts(path: Path) -> None:
    """:raises ConfigurationError: a policy file is no mapping of names to texts."""
    rules = yaml.safe_load(path.read_text())
    if rules is None:
        return
    if not isinstance(rules, dict):
        raise ConfigurationError(f"policy: {path} is no mapping of rule names to check strings")
    for name, check in rules.items():
        if not isinstance(check, str) or not check.strip():
            raise ConfigurationError(f"policy: {path}: the rule '{name}' has no check string; write \"@\" for always and "
                                     '"!" for never, with the quotes')


def _leaves(check: Any) -> list[Any]:
    if isinstance(check, checks.NotCheck):
        return _leaves(check.rule)
    if isinstance(check, (checks.AndCheck, checks.OrCheck)):
        return [leaf for rule in check.rules for leaf in _leaves(rule)]
    return [check]


def _literal_refusals(text: str) -> int:
    return sum(word.strip("()") == "!" for word in text.split())


def policy_files(conf: cfg.ConfigOpts) -> list[Path]:
    """The operator's override files that are there, in the order in which they count."""
    options = conf.oslo_policy
    main = options.policy_file and conf.find_file(options.policy_file)
    found = [Path(main)] if main else []
    for name in options.policy_dirs:
        directory = conf.find_file(name)
        if directory and Path(directory).is_dir():
            found += sorted(path for path in Path(directory).iterdir()
                            if path.is_file() and not path.name.startswith("."))
    return found


def enforcer_for_tools() -> oslo_policy.Enforcer:
    """oslo.policy's entry point for its command line tools; the configuration is found as oslo.config finds it.

    :raises ConfigurationError: see :func:`get_enforcer`.
    """
    conf = cfg.ConfigOpts()
    conf(args=[], project="barbtx")
    return get_enforcer(conf)


@attrs.define(eq=False)
class Policy:
    """Decides: the one place where it is settled whether a caller may do something to an object.

    A rule that does not exist allows nobody.

    :ivar enforce_new_defaults: part of every target, since the rules' texts ask for it.
    """

    conf: cfg.ConfigOpts
    enforce_new_defaults: bool
    _predicates: Mapping[str, Predicate]

    @classmethod
    def from_config(cls, conf: cfg.ConfigOpts) -> Policy:
        """Load and compile the rules.

        :raises ConfigurationError: they have an error.
        """
        return cls(conf, conf.oslo_policy.enforce_new_defaults, compile_rules(get_enforcer(conf)))

    def reload(self) -> None:
        """Read the rules again. It takes a while, and may be done in a thread: the new ones count all at once.

        :raises ConfigurationError: they have an error; the old ones stay.
        """
        self._predicates = compile_rules(get_enforcer(self.conf))

    def allows(self, rule: str, context: RequestContext, target: Target) -> bool:
        """Whether the caller may do what a rule is about.

        :param target: what policy may know of the object; made by the service alone, never from a request.
        """
        predicate = self._predicates.get(rule)
        if predicate is None:
            return False
        return predicate({**target, "enforce_new_defaults": self.enforce_new_defaults}, credentials_of(context))


def credentials_of(context: RequestContext) -> Credentials:
    """A caller in the words of rules: oslo.context's attributes."""
    return {
        "user_id": context.user_id, "project_id": context.project_id, "roles": list(context.roles),
        "domain_id": context.domain_id, "user_domain_id": context.user_domain_id,
        "project_domain_id": context.project_domain_id, "system_scope": None, "is_admin_project": context.is_admin_project,
        "service_user_id": context.service_user_id, "service_project_id": context.service_project_id,
        "service_roles": list(context.service_roles),
        "service_user_domain_id": context.service_user_domain_id,
        "service_project_domain_id": context.service_project_domain_id,
    }

"""Finds errors in rules that oslo.policy has parsed and would use nevertheless."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from oslo_policy import policy as oslo_policy

from barbtx.compat_policy import (
    AndCheck,
    BaseCheck,
    FalseCheck,
    GenericCheck,
    NotCheck,
    OrCheck,
    RemoteCheck,
    RoleCheck,
    RuleCheck,
)
from barbtx.config_sources import hint
from barbtx.identity.policy_targets import TARGET_KEYS, keys_for
from barbtx.identity.predicates import literal_of

_KEY = re.compile(r"%\(([^)]*)\)s")


def find_errors(enforcer: oslo_policy.Enforcer, overrides: Mapping[str, str], attributes: frozenset[str]) -> list[str]:
    """Return a line for each error in the rules of an enforcer.

    :param overrides: the check strings of the policy files, by rule name.
    :param attributes: the names of a caller's attributes.
    """
    rules: Mapping[str, BaseCheck] = enforcer.rules or {}
    operations = set(enforcer.registered_rules)
    if isinstance(enforcer.default_rule, str):
        operations.add(enforcer.default_rule)
    named = {name: _references(check) for name, check in rules.items()}
    return [
        *_unparsed(rules, overrides),
        *_unknown(named, overrides, operations),
        *_undefined(named),
        *_cycles(named),
        *_vacuous(rules, attributes),
    ]


def _unparsed(rules: Mapping[str, BaseCheck], overrides: Mapping[str, str]) -> Iterator[str]:
    for name, text in overrides.items():
        leaves = [leaf for leaf, _ in _leaves(rules[name])]
        # oslo.policy parses malformed text as a check that allows nobody; under a "not" it allows everybody.
        if sum(isinstance(leaf, FalseCheck) for leaf in leaves) != _literal_refusals(text):
            yield f"the rule '{name}' cannot be parsed: {text}"
        if any(isinstance(leaf, RemoteCheck) for leaf in leaves):
            yield f"the rule '{name}' queries another server, which would delay every request"


def _literal_refusals(text: str) -> int:
    return sum(word.strip("()") == "!" for word in text.split())


def _unknown(named: Mapping[str, set[str]], overrides: Mapping[str, str], known: set[str]) -> Iterator[str]:
    """Yield the overridden rules that no operation uses, either directly or through another rule."""
    reached, pending = set(known), [*known]
    while pending:
        new = named.get(pending.pop(), set()) - reached
        reached |= new
        pending += new
    for name in overrides:
        if name not in reached:
            yield f"there is no rule '{name}', and no rule refers to it{hint(name, known)}"


def _undefined(named: Mapping[str, set[str]]) -> Iterator[str]:
    for name, references in named.items():
        for reference in sorted(references - named.keys()):
            yield f"the rule '{name}' uses rule:{reference}, which is not defined{hint(reference, named)}"


def _cycles(named: Mapping[str, set[str]]) -> Iterator[str]:
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> Iterator[str]:
        if name in path:
            cycle = path[path.index(name) :]
            if cycle[0] == min(cycle):
                yield f"the rules {' -> '.join((*cycle, name))} refer to each other in a cycle"
        elif name not in done:
            for reference in sorted(named.get(name, ())):
                yield from visit(reference, (*path, name))
            done.add(name)

    for name in sorted(named):
        yield from visit(name, ())


def _vacuous(rules: Mapping[str, BaseCheck], attributes: frozenset[str]) -> Iterator[str]:
    """Yield the checks that match nobody under a "not", which turns that into everybody."""
    seen: set[tuple[str, bool, frozenset[str]]] = set()
    # Rules of operations have a colon in their names; the others are evaluated with the targets of the operations.
    pending = [(name, False, keys_for(name) if ":" in name else TARGET_KEYS) for name in rules]
    reported: set[str] = set()
    while pending:
        name, is_negated, keys = entry = pending.pop()
        if entry in seen or name not in rules:
            continue
        seen.add(entry)
        for leaf, negated in _leaves(rules[name]):
            negated ^= is_negated
            if isinstance(leaf, RuleCheck):
                pending.append((leaf.match, negated, keys))
            elif negated and (wrong := _matches_nobody(leaf, attributes, keys)):
                line = f"the rule '{name}' negates the check {leaf}, which never matches ({wrong}), so everybody passes"
                if line not in reported:
                    reported.add(line)
                    yield line


def _matches_nobody(leaf: BaseCheck, attributes: frozenset[str], keys: frozenset[str]) -> str | None:
    """Return why a check matches nobody; None if it may match somebody."""
    if not isinstance(leaf, GenericCheck | RoleCheck) or type(leaf) not in (GenericCheck, RoleCheck):
        return None
    if not leaf.match.strip():
        return "its right side is empty"
    for key in _KEY.findall(leaf.match):
        if key not in TARGET_KEYS:
            return f"there is no '{key}'{hint(key, TARGET_KEYS)}"
        if key not in keys:
            return f"there is no '{key}' where the rule is used"
    if "%" in _KEY.sub("", leaf.match):
        return "its right side cannot be read"
    if type(leaf) is GenericCheck and literal_of(leaf.kind) is None:
        attribute = leaf.kind.partition(".")[0]
        if attribute not in attributes or attribute != leaf.kind:
            return f"a caller has no '{leaf.kind}'{hint(attribute, attributes)}"
    return None


def _references(check: BaseCheck) -> set[str]:
    return {leaf.match for leaf, _ in _leaves(check) if isinstance(leaf, RuleCheck)}


def _leaves(check: BaseCheck, negated: bool = False) -> Iterator[tuple[BaseCheck, bool]]:
    """Yield the leaves of a tree of checks, each with whether it is negated."""
    if isinstance(check, NotCheck):
        yield from _leaves(check.rule, not negated)
    elif isinstance(check, AndCheck | OrCheck):
        for rule in check.rules:
            yield from _leaves(rule, negated)
    else:
        yield check, negated

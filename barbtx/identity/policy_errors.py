"""What is wrong with rules that oslo.policy has parsed, and would decide with all the same."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from oslo_policy import _checks as checks
from oslo_policy import _external
from oslo_policy import policy as oslo_policy

from barbtx.config_sources import hint
from barbtx.identity.policy_targets import TARGET_KEYS, keys_for
from barbtx.identity.predicates import literal_of

_KEY = re.compile(r"%\(([^)]*)\)s")


def find_errors(enforcer: oslo_policy.Enforcer, overrides: Mapping[str, str], attributes: frozenset[str]) -> list[str]:
    """A line for each error in the rules of an enforcer.

    :param overrides: the check strings of the policy files, by rule name.
    :param attributes: what credentials consist of.
    """
    rules: Mapping[str, Any] = enforcer.rules or {}
    named = {name: _references(check) for name, check in rules.items()}
    return [
        *_unparsed(rules, overrides),
        *_unknown(named, overrides, {*enforcer.registered_rules, enforcer.default_rule}),
        *_undefined(named),
        *_cycles(named),
        *_vacuous(rules, attributes),
    ]


def _unparsed(rules: Mapping[str, Any], overrides: Mapping[str, str]) -> Iterator[str]:
    for name, text in overrides.items():
        leaves = [leaf for leaf, _ in _leaves(rules[name])]
        # oslo.policy takes what it cannot parse for something that allows nobody: under a "not", everybody.
        if sum(isinstance(leaf, checks.FalseCheck) for leaf in leaves) != _literal_refusals(text):
            yield f"the rule '{name}' cannot be parsed: {text}"
        if any(isinstance(leaf, (_external.HttpCheck, _external.HttpsCheck)) for leaf in leaves):
            yield f"the rule '{name}' asks another server, which would hold up every request"


def _literal_refusals(text: str) -> int:
    return sum(word.strip("()") == "!" for word in text.split())


def _unknown(named: Mapping[str, set[str]], overrides: Mapping[str, str], known: set[str]) -> Iterator[str]:
    """Names that no operation asks for, not even through another rule."""
    reached, to_do = set(known), [*known]
    while to_do:
        new = named.get(to_do.pop(), set()) - reached
        reached |= new
        to_do += new
    for name in overrides:
        if name not in reached:
            yield f"there is no rule '{name}', nor does another rule use it{hint(name, known)}"


def _undefined(named: Mapping[str, set[str]]) -> Iterator[str]:
    for name, references in named.items():
        for reference in sorted(references - named.keys()):
            yield f"the rule '{name}' uses rule:{reference}, which is not defined{hint(reference, named)}"


def _cycles(named: Mapping[str, set[str]]) -> Iterator[str]:
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> Iterator[str]:
        if name in path:
            circle = path[path.index(name) :]
            if circle[0] == min(circle):
                yield f"the rules {' -> '.join((*circle, name))} use each other in a circle"
        elif name not in done:
            for reference in sorted(named.get(name, ())):
                yield from visit(reference, (*path, name))
            done.add(name)

    for name in sorted(named):
        yield from visit(name, ())


def _vacuous(rules: Mapping[str, Any], attributes: frozenset[str]) -> Iterator[str]:
    """Checks that match nobody, where a "not" turns that into everybody."""
    seen: set[tuple[str, bool, frozenset[str]]] = set()
    # Operations have a colon in their names; other rules are used by them, and decide about what they are asked about.
    to_do = [(name, False, keys_for(name) if ":" in name else TARGET_KEYS) for name in rules]
    said: set[str] = set()
    while to_do:
        name, turned, keys = entry = to_do.pop()
        if entry in seen or name not in rules:
            continue
        seen.add(entry)
        for leaf, negated in _leaves(rules[name]):
            negated ^= turned
            if isinstance(leaf, checks.RuleCheck):
                to_do.append((leaf.match, negated, keys))
            elif negated and (wrong := _matches_nobody(leaf, attributes, keys)):
                line = f"the rule '{name}' has, under a 'not', the check {leaf}: {wrong}, so that everybody passes"
                if line not in said:
                    said.add(line)
                    yield line


def _matches_nobody(leaf: Any, attributes: frozenset[str], keys: frozenset[str]) -> str | None:
    if type(leaf) not in (checks.GenericCheck, checks.RoleCheck):
        return None
    if not leaf.match.strip():
        return "its right side is empty"
    for key in _KEY.findall(leaf.match):
        if key not in TARGET_KEYS:
            return f"there is no '{key}'{hint(key, TARGET_KEYS)}"
        if key not in keys:
            return f"where the rule is used there is no '{key}'"
    if "%" in _KEY.sub("", leaf.match):
        return "its right side cannot be read"
    if type(leaf) is checks.GenericCheck and literal_of(leaf.kind) is None:
        attribute = leaf.kind.partition(".")[0]
        if attribute not in attributes or attribute != leaf.kind:
            return f"a caller has no '{leaf.kind}'{hint(attribute, attributes)}"
    return None


def _references(check: Any) -> set[str]:
    return {leaf.match for leaf, _ in _leaves(check) if isinstance(leaf, checks.RuleCheck)}


def _leaves(check: Any, negated: bool = False) -> Iterator[tuple[Any, bool]]:
    """The checks that a check consists of, and whether each counts the other way round."""
    if isinstance(check, checks.NotCheck):
        yield from _leaves(check.rule, not negated)
    elif isinstance(check, (checks.AndCheck, checks.OrCheck)):
        for rule in check.rules:
            yield from _leaves(rule, negated)
    else:
        yield check, negated

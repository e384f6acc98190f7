"""Rules compiled into plain functions.

oslo.policy's check objects inspect their own signatures at each call, which costs a third of a millisecond per
decision. Therefore their trees are compiled once, when the rules are loaded, into functions of a target and
credentials. A check of an unknown class is called as oslo.policy calls it.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from typing import TypeAlias, cast

from oslo_policy import policy as oslo_policy

from barbtx.compat_policy import (
    AndCheck,
    BaseCheck,
    FalseCheck,
    GenericCheck,
    NotCheck,
    OrCheck,
    RoleCheck,
    RuleCheck,
    TrueCheck,
)

RequestTarget: TypeAlias = Mapping[str, object]
Credentials: TypeAlias = Mapping[str, object]
Predicate: TypeAlias = Callable[[RequestTarget, Credentials], bool]


def compile_rules(enforcer: oslo_policy.Enforcer) -> dict[str, Predicate]:
    """Compile all rules of an enforcer; by name."""
    predicates: dict[str, Predicate] = {}
    for name, check in (enforcer.rules or {}).items():
        predicates[name] = _compile(check, predicates, enforcer)
    return predicates


def _compile(check: BaseCheck, predicates: Mapping[str, Predicate], enforcer: oslo_policy.Enforcer) -> Predicate:
    # Types are compared exactly: a subclass may mean something else.
    kind = type(check)
    if kind is TrueCheck:
        return lambda target, creds: True
    if kind is FalseCheck:
        return lambda target, creds: False
    if isinstance(check, NotCheck) and kind is NotCheck:
        inner = _compile(check.rule, predicates, enforcer)
        return lambda target, creds: not inner(target, creds)
    if isinstance(check, AndCheck | OrCheck) and kind in (AndCheck, OrCheck):
        return _combine([_compile(rule, predicates, enforcer) for rule in check.rules], decisive=kind is OrCheck)
    if isinstance(check, RuleCheck) and kind is RuleCheck:
        # Looked up at each call, because rules may refer to each other in any order.
        name = check.match
        return lambda target, creds: name in predicates and predicates[name](target, creds)
    if isinstance(check, RoleCheck) and kind is RoleCheck:
        return _compile_role(check.match)
    if isinstance(check, GenericCheck) and kind is GenericCheck:
        return _compile_generic(check)
    return lambda target, creds: bool(check(dict(target), dict(creds), enforcer))


def _combine(parts: list[Predicate], *, decisive: bool) -> Predicate:
    """Combine predicates.

    :param decisive: the result of one part that is that of all: True for "or", False for "and".
    """

    def combined(target: RequestTarget, creds: Credentials) -> bool:
        for part in parts:
            if part(target, creds) is decisive:
                return decisive
        return not decisive

    return combined


def literal_of(kind: str) -> str | None:
    """Return the text of a literal on the left side of a check; None if that names an attribute of the caller."""
    try:
        return str(ast.literal_eval(kind))
    except (ValueError, SyntaxError):
        return None


def _roles(creds: Credentials) -> list[str]:
    return cast(list[str], creds["roles"])


def _compile_role(template: str) -> Predicate:
    if "%" not in template:
        role = template.lower()
        return lambda target, creds: role in [held.lower() for held in _roles(creds)]
    read = _reader(template, nulls=False)

    def holds(target: RequestTarget, creds: Credentials) -> bool:
        expected = read(target)
        return expected is not None and any(expected.lower() == held.lower() for held in _roles(creds))

    return holds


def _compile_generic(check: GenericCheck) -> Predicate:
    literal = literal_of(check.kind)
    if literal is not None:
        read_any = _reader(check.match, nulls=True)
        return lambda target, creds: read_any(target) == literal
    read, path = _reader(check.match, nulls=False), check.kind.split(".")

    def matches(target: RequestTarget, creds: Credentials) -> bool:
        expected = read(target)
        return expected is not None and _has(creds, path, expected)

    return matches


def _reader(template: str, *, nulls: bool) -> Callable[[RequestTarget], str | None]:
    """Make a function that returns the right side of a check for a target, or None if nothing can be equal to it.

    :param nulls: whether a null value has the text "None", as literals may require. If not, nothing equals it: neither
        the null of a caller without a user id, nor a user with that name.
    """
    key = template[2:-2] if template.startswith("%(") and template.endswith(")s") and template.count("%") == 1 else None

    def read(target: RequestTarget) -> str | None:
        try:
            if key is not None:
                value = target[key]
                return None if value is None and not nulls else str(value)
            return template % (
                target if nulls else {name: value for name, value in target.items() if value is not None}
            )
        except (KeyError, TypeError, ValueError):
            # The target lacks a key, or the template does not fit it.
            return None

    return read


def _has(value: object, path: list[str], expected: str) -> bool:
    """Return whether credentials have a value at a path; any element of a list counts. Nothing equals a null."""
    if not path:
        return value is not None and str(value) == expected
    if not isinstance(value, Mapping) or path[0] not in value:
        return False
    inner = value[path[0]]
    if isinstance(inner, list):
        return any(_has(element, path[1:], expected) for element in inner)
    return _has(inner, path[1:], expected)

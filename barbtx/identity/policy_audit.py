"""Finds rules that allow more than an operator may expect."""

from __future__ import annotations

from collections.abc import Iterator

from barbtx.identity.context import RequestContext
from barbtx.identity.policy import Policy, list_rules
from barbtx.identity.policy_targets import kinds_of
from barbtx.identity.predicates import RequestTarget

# The roles in a token, in which Keystone expands implied roles, by the role that was granted. The role of the service's
# administrators is left out: it is not granted to members of projects.
_PERSONAS: dict[str, frozenset[str]] = {
    "nobody": frozenset(),
    "reader": frozenset({"reader"}),
    "member": frozenset({"member", "reader"}),
    "manager": frozenset({"manager", "member", "reader"}),
    "admin": frozenset({"admin", "manager", "member", "reader"}),
    "creator": frozenset({"creator"}),
    "observer": frozenset({"observer"}),
    "audit": frozenset({"audit"}),
}
_DEPLOYMENT_RULES = frozenset(
    {"project_quotas:get", "project_quotas:put", "project_quotas:delete", "transport_keys:post", "transport_key:delete"}
)
_OWN_PROJECT, _OTHER_PROJECT = "a project", "another project"


def find_risks(policy: Policy) -> Iterator[str]:
    """Yield a line for each rule that grants access to other projects, private objects or the whole deployment."""
    for rule in (rule.name for rule in list_rules() if ":" in rule.name):
        kinds = kinds_of(rule)
        if kinds:
            yield from _risk(
                policy,
                rule,
                _targets(kinds, _OTHER_PROJECT, private=False),
                "in any project, on objects of other projects",
            )
        if kinds and kinds != ("order",):
            yield from _risk(
                policy,
                rule,
                _targets(kinds, _OWN_PROJECT, private=True),
                "in the same project, on private objects of other users",
                without=("admin",),
            )
        if rule in _DEPLOYMENT_RULES:
            yield from _risk(policy, rule, [{}], "in any project, on the whole deployment")
        elif not kinds:
            yield from _risk(policy, rule, [{}], "without any role", only=("nobody",))


def _risk(
    policy: Policy,
    rule: str,
    targets: list[RequestTarget],
    where: str,
    without: tuple[str, ...] = (),
    only: tuple[str, ...] = tuple(_PERSONAS),
) -> Iterator[str]:
    allowed = [
        name
        for name, roles in _PERSONAS.items()
        if name in only
        and name not in without
        and any(policy.allows(rule, RequestContext(_OWN_PROJECT, "a user", roles, ""), target) for target in targets)
    ]
    if allowed:
        yield f"{rule}: {', '.join(allowed)} {where}"


def _targets(kinds: tuple[str, ...], project: str, *, private: bool) -> list[RequestTarget]:
    return [
        {
            f"target.{kind}.project_id": project,
            f"target.{kind}.creator_id": "another user",
            f"target.{kind}.read_project_access": not private,
        }
        for kind in kinds
    ]

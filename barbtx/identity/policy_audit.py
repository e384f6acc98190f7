"""What a deployment's rules allow that its operator may not expect."""

from __future__ import annotations

from collections.abc import Iterator

from barbtx.identity.context import RequestContext
from barbtx.identity.policy import Policy, list_rules
from barbtx.identity.policy_targets import kinds_of
from barbtx.identity.predicates import RequestTarget

# What a token holds, since Keystone expands implied roles, by the role that a person would name. The service
# administrator's role is not among them: it is not given to the people of a project.
_PERSONAS = {
    "nobody": frozenset(),
    "reader": frozenset({"reader"}),
    "member": frozenset({"member", "reader"}),
    "manager": frozenset({"manager", "member", "reader"}),
    "admin": frozenset({"admin", "manager", "member", "reader"}),
    "creator": frozenset({"creator"}),
    "observer": frozenset({"observer"}),
    "audit": frozenset({"audit"}),
}
_OF_THE_DEPLOYMENT = frozenset(
    {"project_quotas:get", "project_quotas:put", "project_quotas:delete", "transport_keys:post", "transport_key:delete"}
)
_MINE, _THEIRS = "a project", "another project"


def find_risks(policy: Policy) -> Iterator[str]:
    """A line for each rule that lets people do what reaches beyond their project, or into what is private."""
    for rule in (rule.name for rule in list_rules() if ":" in rule.name):
        kinds = kinds_of(rule)
        if kinds:
            yield from _line(
                policy, rule, _targets(kinds, _THEIRS, private=False), "of any project, on what belongs to another one"
            )
        if kinds and kinds != ("order",):
            yield from _line(
                policy,
                rule,
                _targets(kinds, _MINE, private=True),
                "of the same project, on what is private and somebody else's",
                without=("admin",),
            )
        if rule in _OF_THE_DEPLOYMENT:
            yield from _line(policy, rule, [{}], "of any project, on what concerns the whole deployment")
        elif not kinds:
            yield from _line(policy, rule, [{}], "without any role", only=("nobody",))


def _line(
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
        and any(policy.allows(rule, RequestContext(_MINE, "a user", roles, ""), target) for target in targets)
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

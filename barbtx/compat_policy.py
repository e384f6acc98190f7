"""The uses of private interfaces of oslo.policy; see :mod:`barbtx.compat`.

These are the classes of the check trees that it parses rules into, the checks that it knows, and its own check of
rules.
"""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Any

from oslo_policy import _checks
from oslo_policy._checks import AndCheck as AndCheck
from oslo_policy._checks import BaseCheck as BaseCheck
from oslo_policy._checks import FalseCheck as FalseCheck
from oslo_policy._checks import GenericCheck as GenericCheck
from oslo_policy._checks import NotCheck as NotCheck
from oslo_policy._checks import OrCheck as OrCheck
from oslo_policy._checks import RoleCheck as RoleCheck
from oslo_policy._checks import RuleCheck as RuleCheck
from oslo_policy._checks import TrueCheck as TrueCheck
from oslo_policy.policy import Enforcer


class RemoteCheck(_checks.Check):
    """An ``http:`` or ``https:`` check. It allows nobody."""

    def __call__(self, target: object, creds: object, enforcer: Enforcer, current_rule: str | None = None) -> bool:
        """Refuse."""
        return False


def load_rule_checks() -> None:
    """Make oslo.policy know the checks of installed distributions, and :class:`RemoteCheck`.

    oslo.policy would load its own checks for ``http:`` and ``https:``, whose module imports requests, into each process
    that parses a rule. barbtx refuses such rules.

    :raises Exception: a distribution's check cannot be imported.
    """
    checks: dict[str, Any] = {
        point.name: point.load()
        for point in entry_points(group="oslo.policy.rule_checks")
        if not point.value.startswith("oslo_policy.")
    }
    _checks.extension_checks = {**checks, "http": RemoteCheck, "https": RemoteCheck}


def disable_rule_check(enforcer: Enforcer) -> None:
    """Keep oslo.policy from checking the rules for undefined and cyclic references when it loads them."""
    enforcer._need_check_rule = False

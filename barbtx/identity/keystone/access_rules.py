"""Access rules of application credentials, which limit the requests that a token may be used for.

Source: Identity API v3, application credentials and their access rules; keystonemiddleware's description of how a
service enforces them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import attrs

#: Tells Keystone that the service enforces access rules; without it, tokens with access rules are invalid.
SUPPORT_HEADER = {"OpenStack-Identity-Access-Rules": "1.0"}

# Longer than the path of any resource; limits the time that matching a pattern can take.
_MAX_PATH = 1024

_TOKEN = re.compile(r"(?P<any>\*\*)|(?P<segment>\*|\{[^{}]*\})|(?P<literal>[^*{}]+|[{}])")


def normalize(path: str) -> str:
    """Return a path without empty segments, which do not change the resource that it names."""
    return "/" + "/".join(segment for segment in path.split("/") if segment)


@attrs.frozen
class PathPattern:
    """A path in which ``*`` and ``{name}`` stand for one or more characters without a slash, and ``**`` for any text.

    Because users write the patterns, matching takes time proportional to the lengths of pattern and path.
    """

    text: str

    def matches(self, path: str) -> bool:
        """Return whether a path matches; it must be without empty segments."""
        if len(path) > _MAX_PATH:
            return False
        ends = {0}
        for token in _TOKEN.finditer(normalize(self.text)):
            if token["any"]:
                ends = set(range(min(ends), len(path) + 1))
            elif token["segment"]:
                ends = _within_segment(path, ends)
            else:
                ends = {end + len(token[0]) for end in ends if path.startswith(token[0], end)}
            if not ends:
                return False
        return len(path) in ends


def _within_segment(path: str, starts: set[int]) -> set[int]:
    """Return where a run of one or more characters other than a slash may end that begins at one of the positions."""
    ends: set[int] = set()
    inside = False
    for position, character in enumerate(path):
        inside = (inside or position in starts) and character != "/"
        if inside:
            ends.add(position + 1)
    return ends


@attrs.frozen
class AccessRule:
    """A kind of request that is allowed.

    :ivar service: type of the service, as in the catalog.
    :ivar method: HTTP method.
    """

    service: str
    method: str
    path: PathPattern


@attrs.frozen
class AccessRules:
    """The requests that a token may be used for; without any rule, none."""

    rules: tuple[AccessRule, ...]

    @classmethod
    def from_token(cls, token: Mapping[str, Any]) -> AccessRules | None:
        """Read the access rules in the ``token`` object of Keystone's response; None if the token is not limited.

        :raises LookupError, TypeError, AttributeError: they do not have the documented form.
        """
        listed = (token.get("application_credential") or {}).get("access_rules")
        if listed is None:
            return None
        if not isinstance(listed, list):
            raise TypeError("access_rules is not a list")
        return cls(tuple(AccessRule(rule["service"], rule["method"], PathPattern(rule["path"])) for rule in listed))

    def allow(self, service: str, method: str, paths: Iterable[str]) -> bool:
        """Return whether a rule allows a request to a service under any of its equivalent paths."""
        return any(
            rule.service == service and rule.method == method and any(map(rule.path.matches, paths))
            for rule in self.rules
        )

"""Access rules of application credentials: to which requests a token is limited.

Source: Identity API v3, application credentials and their access rules; keystonemiddleware's description of how a
service enforces them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import attrs

#: With this header a service tells Keystone that it enforces access rules; without it such tokens are invalid.
SUPPORT_HEADER = {"OpenStack-Identity-Access-Rules": "1.0"}

# No resource has a longer path; the limit bounds the work that a pattern can cause.
_MAX_PATH = 1024

_TOKEN = re.compile(r"(?P<any>\*\*)|(?P<segment>\*|\{[^{}]*\})|(?P<literal>[^*{}]+|[{}])")


def normalize(path: str) -> str:
    """A path without empty segments, which name no resource of their own."""
    return "/" + "/".join(segment for segment in path.split("/") if segment)


@attrs.frozen
class PathPattern:
    """A path in which ``*`` and ``{name}`` stand for one or more characters without a slash, and ``**`` for any text.

    Matching takes time proportional to the lengths of pattern and path: patterns are written by users.
    """

    text: str

    def matches(self, path: str) -> bool:
        """Whether a path, given without empty segments, is as the pattern says."""
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
    """Where one or more characters other than a slash may end that begin at one of some positions."""
    ends: set[int] = set()
    open_ = False
    for position, character in enumerate(path):
        open_ = (open_ or position in starts) and character != "/"
        if open_:
            ends.add(position + 1)
    return ends


@attrs.frozen
class AccessRule:
    """A request that is allowed.

    :ivar service: the type of the service, as in the catalog.
    """

    service: str
    method: str
    path: PathPattern


@attrs.frozen
class AccessRules:
    """All that a token may be used for; no rule means nothing."""

    rules: tuple[AccessRule, ...]

    @classmethod
    def from_token(cls, token: Mapping[str, Any]) -> AccessRules | None:
        """The access rules in the ``token`` object of Keystone's answer; None if the token is not limited so.

        :raises LookupError, TypeError, AttributeError: they cannot be read.
        """
        listed = (token.get("application_credential") or {}).get("access_rules")
        if listed is None:
            return None
        if not isinstance(listed, list):
            raise TypeError("access_rules is not a list")
        return cls(tuple(AccessRule(rule["service"], rule["method"], PathPattern(rule["path"])) for rule in listed))

    def allow(self, service: str, method: str, paths: Iterable[str]) -> bool:
        """Whether a request to a service is allowed under one of the paths that it may be known by."""
        return any(
            rule.service == service and rule.method == method and any(map(rule.path.matches, paths))
            for rule in self.rules
        )

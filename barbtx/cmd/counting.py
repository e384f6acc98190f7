"""Counts in the output of commands."""

from __future__ import annotations


def counted(number: int, noun: str, rest: str = "") -> str:
    """Return a number with a noun, such as ``1 removal`` or ``2 removals``.

    :param noun: in the singular; its plural must end in s.
    :param rest: what follows the noun.
    """
    return " ".join(filter(None, (f"{number} {noun}" if number == 1 else f"{number} {noun}s", rest)))

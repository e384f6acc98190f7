"""Validators of constructor arguments, for attrs classes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
from zope.interface.exceptions import Invalid
from zope.interface.interface import InterfaceClass
from zope.interface.verify import verifyObject

from barbtx.errors import one_line


def provides(interface: InterfaceClass) -> Callable[[Any, attrs.Attribute[Any], Any], None]:
    """Make an attrs validator that accepts providers of a zope interface.

    A provider declares the interface and has its methods and attributes, with compatible signatures. To validate the
    items of a tuple or a field that may be None, wrap it in :func:`attrs.validators.deep_iterable` or
    :func:`attrs.validators.optional`.

    :return: a validator that raises :exc:`TypeError`, which names the field, the interface and what is missing.
    """

    def validate(instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
        try:
            verifyObject(interface, value)
        except Invalid as problem:
            raise TypeError(
                f"{attribute.name!r} must provide {interface.__identifier__}: {one_line(problem)}"
            ) from problem

    return validate


def has_nul_or_surrogate(text: str) -> bool:
    """Return whether a text contains NUL or lone surrogates, which databases cannot store."""
    return "\0" in text or (not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text))

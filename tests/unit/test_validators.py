"""Injected providers are validated when an object is made, with a text that names what is wrong."""

from __future__ import annotations

import attrs
import pytest
from zope.interface import Interface, implementer

from barbtx.validators import provides


class IGreeter(Interface):
    def greet(name: str) -> str:
        """Greet somebody."""


@implementer(IGreeter)
class Greeter:
    def greet(self, name: str) -> str:
        return name


@implementer(IGreeter)
class Silent:
    pass


@implementer(IGreeter)
class Incompatible:
    def greet(self) -> str:
        return ""


@attrs.define
class Host:
    greeter: IGreeter = attrs.field(validator=provides(IGreeter))


def test_a_provider_is_accepted() -> None:
    greeter = Greeter()
    assert Host(greeter).greeter is greeter


@pytest.mark.parametrize("value", [None, "text", Greeter, Silent(), Incompatible()])
def test_anything_else_is_refused_with_the_names_of_field_and_interface(value: object) -> None:
    with pytest.raises(TypeError, match=r"'greeter' must provide .*IGreeter: .*"):
        Host(value)


def test_the_text_names_the_missing_method() -> None:
    with pytest.raises(TypeError, match="greet"):
        Host(Silent())

"""The directive ``zope-interfaces``: the interfaces and classes of the modules in a package, from their docstrings.

Sphinx's autodoc documents classes; an interface of zope.interface is an object, which it does not know.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from types import ModuleType

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from sphinx.util.nodes import nested_parse_with_titles
from zope.interface.interface import InterfaceClass, Method


class ZopeInterfaces(SphinxDirective):
    """Inserts one section for each module of a package."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return the sections."""
        package = importlib.import_module(self.arguments[0])
        container = nodes.section()
        container.document = self.state.document
        lines: list[str] = []
        for found in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            lines += _describe(importlib.import_module(found.name))
        nested_parse_with_titles(self.state, StringList(lines, source=package.__name__), container)
        return container.children


def _describe(module: ModuleType) -> Iterator[str]:
    title = f"``{module.__name__}``"
    yield from (title, "-" * len(title), "", f".. py:module:: {module.__name__}", "")
    yield from (inspect.getdoc(module) or "").splitlines()
    yield ""
    for name, value in vars(module).items():
        if name.startswith("_") or getattr(value, "__module__", None) != module.__name__:
            continue
        if isinstance(value, InterfaceClass):
            yield from _interface(name, value)
        elif inspect.isclass(value):
            yield from (f".. autoclass:: {module.__name__}.{name}", "   :members:", "   :undoc-members:")
            yield from ("   :no-index-entry:", "")
        elif inspect.isfunction(value):
            yield from (f".. autofunction:: {module.__name__}.{name}", "")


def _interface(name: str, interface: InterfaceClass) -> Iterator[str]:
    yield from (f".. py:class:: {name}", "")
    yield from _indented(interface.getDoc(), 3)
    for attribute, value in interface.namesAndDescriptions():
        if isinstance(value, Method):
            yield from (f"   .. py:method:: {attribute}{value.getSignatureString()}", "")
        else:
            yield from (f"   .. py:attribute:: {attribute}", "")
        yield from _indented(value.getDoc(), 6)


def _indented(text: str, spaces: int) -> Iterator[str]:
    for line in inspect.cleandoc(text).splitlines():
        yield f"{' ' * spaces}{line}".rstrip()
    yield ""


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("zope-interfaces", ZopeInterfaces)
    return {"parallel_read_safe": True}

"""The directives ``barbtx-manage`` and ``twistd-options``: generated from the commands' argument parsers."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from functools import partial

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from sphinx.util.nodes import nested_parse_with_titles

from barbtx.cmd.manage import make_parser
from barbtx.twistd import Options

_WIDTH = 100


class ManageCommands(SphinxDirective):
    """Inserts one section for each command of ``barbtx-manage``."""

    def run(self) -> list[nodes.Node]:
        """Return the sections."""
        container = nodes.section()
        container.document = self.state.document
        lines: list[str] = []
        for parser in _parsers(make_parser()):
            title = f"``{parser.prog}``"
            parser.formatter_class = partial(argparse.HelpFormatter, width=_WIDTH)
            lines += [title, "-" * len(title), "", ".. code-block:: text", ""]
            lines += [f"   {line}".rstrip() for line in parser.format_help().splitlines()]
            lines.append("")
        nested_parse_with_titles(self.state, StringList(lines, source="barbtx-manage --help"), container)
        return container.children


def _parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """The parser itself, and those of the commands that have no further commands."""
    subparsers = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not subparsers or parser.prog.count(" ") == 0:
        yield parser
    for action in subparsers:
        for child in action.choices.values():
            yield from _parsers(child)


class TwistdOptions(SphinxDirective):
    """Inserts the options of ``twistd barbtx`` and ``twistd barbtx-worker``."""

    def run(self) -> list[nodes.Node]:
        """Return one literal block."""
        options = Options()
        options.synopsis = "Usage: twistd [twistd options] barbtx [options]"
        text = options.getUsage(_WIDTH).strip()
        return [nodes.literal_block(text, text, language="text")]


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directives."""
    app.add_directive("barbtx-manage", ManageCommands)
    app.add_directive("twistd-options", TwistdOptions)
    return {"parallel_read_safe": True}

"""Configuration of Sphinx for ``make docs``, which writes the documentation to ``build/docs``."""

from __future__ import annotations

import sys
from pathlib import Path

from barbtx import __version__

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "barbtx"
author = "The barbtx authors"
project_copyright = f"2026, {author}"
version = release = __version__

extensions = [
    "myst_parser",
    "oslo_config.sphinxext",
    "oslo_policy.sphinxext",
    "sphinx.ext.autodoc",
    "commands",
    "rest_api",
    "zope_interfaces",
]
exclude_patterns = ["_ext"]

# A broken reference is an error, except to objects of other projects, which have no pages here.
nitpicky = True
nitpick_ignore_regex = [("py:.*", r"(?!barbtx\.).*")]

autodoc_member_order = "bysource"
autodoc_typehints = "none"
# References to headings of other pages: page.md#heading.
myst_heading_anchors = 4

html_theme = "furo"
html_title = f"barbtx {release}"
html_show_sourcelink = False

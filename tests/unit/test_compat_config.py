"""Whether oslo.config still calls the private method that barbtx.compat_config overrides."""

from __future__ import annotations

from pathlib import Path

from barbtx import compat_config as compat


def test_the_parser_reports_the_line_on_which_each_assignment_begins(tmp_path: Path) -> None:
    begun: list[int] = []

    class Parser(compat.ConfigParserBase):
        def assignment_begun(self) -> None:
            begun.append(self.lineno)

    path = tmp_path / "barbtx.conf"
    path.write_text("[DEFAULT]\na = 1\n\nb = 2\n  3\nc = 4\n")
    sections: dict[str, dict[str, list[str]]] = {}
    Parser(str(path), sections).parse()
    assert (begun, sections) == ([2, 4, 6], {"DEFAULT": {"a": ["1"], "b": ["2\n3"], "c": ["4"]}}), (
        "this release of oslo.config differs from the one that barbtx.compat_config was written for: "
        "the parser of assignments"
    )

"""The use of a private interface of oslo.config, its parser of configuration files; see :mod:`barbtx.compat`."""
# A method overrides one of the library.

from __future__ import annotations

from oslo_config import cfg


class ConfigParserBase(cfg.ConfigParser):
    """oslo.config's parser, with a public hook that is called when it reads the first line of an assignment."""

    def assignment_begun(self) -> None:
        """Handle the start of an assignment, whose line number is ``lineno``."""

    def _split_key_value(self, line: str) -> tuple[str, list[str]]:
        self.assignment_begun()
        key, value = super()._split_key_value(line)
        return key, value

"""The sources of a configuration: files, settings of the command line and the environment, and their problems.

A value may be a secret, and so may text that is found in the place of a name. Messages contain neither.
"""

from __future__ import annotations

import difflib
import glob
import os
import re
from collections.abc import Iterable, Mapping

import attrs
from oslo_config import cfg
from oslo_config.iniparser import ParseError

from barbtx.compat_config import ConfigParserBase
from barbtx.files import others_may_read, write_problems

Known = Mapping[str, Mapping[str, cfg.Opt]]

_NAME = re.compile(r"[a-z][a-z0-9_:.-]{0,63}")
_ENVIRONMENT = re.compile(r"OS_.+?__.+")
_PASSWORD_IN_URL = re.compile(r"://[^@]*:[^@]*@|[?&][a-z_]*pass[a-z]*=", re.IGNORECASE)
_REFERENCE = re.compile(r"\$(?:[_a-z]|\{)", re.IGNORECASE)


class _Parser(ConfigParserBase):
    """Records every line that cannot be parsed and the line of each option, and does not stop at the first error."""

    def __init__(self, path: str) -> None:
        super().__init__(path, {})
        self.errors: list[str] = []
        self.lines: dict[tuple[str, str], int] = {}
        self._wrong: set[int] = set()
        self._begun = 0

    def _note(self, reason: str) -> None:
        if self.lineno not in self._wrong:
            self._wrong.add(self.lineno)
            self.errors.append(f"{self.filename}, line {self.lineno}: {reason}")

    def assignment_begun(self) -> None:
        # The assignment is complete once the next line or the end of the file has been read.
        self._begun = self.lineno

    # The base class raises where these methods record the problem and return, so that parsing continues.
    def error_invalid_assignment(self, line: str) -> tuple[str, list[str]]:  # type: ignore[override]
        self._note("neither a section nor an assignment; write option = value")
        return "", []

    def error_empty_key(self, line: str) -> None:  # type: ignore[override]
        self._note("there is no option name before the '='")

    def error_unexpected_continuation(self, line: str) -> None:  # type: ignore[override]
        self._note("an indented line continues the value before it, but there is none")

    def error_no_section_end_bracket(self, line: str) -> None:  # type: ignore[override]
        self._note("the name of a section must end with ]")
        self.section = ""

    def error_no_section_name(self, line: str) -> None:  # type: ignore[override]
        self._note("this section has no name")
        self.section = ""

    def assignment(self, key: str, value: list[str]) -> None:
        if self.section is None:
            self._note("there must be a section, such as [DEFAULT], before the first option")
        elif self.section:
            super().assignment(key, value)
            self.lines.setdefault((self.section, key), self._begun)


@attrs.frozen
class ConfigFile:
    """A configuration file.

    :ivar sections: the values of each option, by section and name.
    :ivar lines: the line number of each option, by section and name.
    :ivar problems: why the file cannot be read or parsed; if there are any, ``sections`` may be incomplete.
    """

    path: str
    sections: Mapping[str, Mapping[str, list[str]]]
    lines: Mapping[tuple[str, str], int]
    problems: tuple[str, ...]

    @classmethod
    def read(cls, path: str) -> ConfigFile:
        """Read and parse a file; every problem with it is collected, and none is raised."""
        parser = _Parser(path)
        try:
            parser.parse()
            problems = [*parser.errors, *write_problems(path)]
        except OSError as problem:
            problems = [f"{path}: {problem.strerror}"]
        except ParseError as problem:
            problems = [f"{path}, line {problem.lineno}: {problem.msg}"]
        except UnicodeDecodeError:
            problems = [f"{path}: the file is not UTF-8"]
        return cls(path, parser.sections, parser.lines, tuple(problems))

    def find_problems(self, known: Known) -> list[str]:
        """Return the problems with unknown sections and options, and with secrets that other users can read."""
        problems = []
        for section, options in self.sections.items():
            if section not in known:
                problems.append(f"{self.path}: unknown section [{section}]{hint(section, known)}")
                continue
            problems += [
                f"{self.path}, line {self.lines[section, option]}: {_unknown(option, section, known)}"
                for option in options
                if option.replace("-", "_") not in known[section]
            ]
        secrets = sorted(
            f"[{section}] {option}"
            for section, options in self.sections.items()
            for option, values in options.items()
            if (opt := known.get(section, {}).get(option.replace("-", "_"))) is not None
            and any(holds_secret(opt, value) for value in values)
        )
        if secrets and others_may_read(self.path):
            problems.append(
                f"{self.path}: other users can read its secrets ({', '.join(secrets)}); run chmod o-rwx on it"
            )
        return problems


def files_in(directory: str) -> list[str]:
    """Return the configuration files of a directory in reading order, or the directory itself if it is unreadable."""
    path = os.path.expanduser(directory)
    if not os.path.isdir(path) or not os.access(path, os.R_OK | os.X_OK):
        return [path]
    return sorted(glob.glob(os.path.join(glob.escape(path), "*.conf")))


def environment_problems(known: Known, environment: Mapping[str, str]) -> list[str]:
    """Return the problems with variables of the form ``OS_<SECTION>__<OPTION>`` that belong to no option.

    Variables of OpenStack's clients, such as ``OS_AUTH_URL``, have no double underscore and are ignored.
    """
    names = {
        environment_name(section, option): (section, option) for section, options in known.items() for option in options
    }
    return [
        f"environment: {name} is not an option of barbtx{hint(name.upper(), names)}"
        for name in sorted(environment)
        if _ENVIRONMENT.fullmatch(name) and name not in names
    ]


def environment_name(section: str, option: str) -> str:
    """Return the name of the environment variable that sets an option."""
    return f"OS_{section.upper()}__{option.upper()}"


@attrs.frozen
class Setting:
    """A setting of the command line: ``--set section.option=value``.

    :ivar label: the name of the setting in messages.
    """

    label: str
    section: str
    option: str
    value: str = attrs.field(repr=False)


def read_settings(texts: Iterable[str]) -> tuple[list[Setting], list[str]]:
    """Parse settings; return them, and the problems with those that have the wrong form."""
    settings, problems = [], []
    for number, text in enumerate(texts, 1):
        name, equals, value = text.partition("=")
        section, _, option = name.strip().rpartition(".")
        if equals and option:
            settings.append(Setting(f"--set number {number}", section or "DEFAULT", option, value))
        else:
            problems.append(f"--set number {number}: write it as section.option=value")
    return settings, problems


def setting_problem(setting: Setting, known: Known) -> str | None:
    """Return the problem if the section or the option of a setting is unknown."""
    if setting.section not in known:
        shown = f" [{setting.section}]" if _NAME.fullmatch(setting.section) else ""
        return f"{setting.label}: unknown section{shown}{hint(setting.section, known)}"
    if setting.option not in known[setting.section]:
        return f"{setting.label}: {_unknown(setting.option, setting.section, known)}"
    return None


def _unknown(option: str, section: str, known: Known) -> str:
    close = hint(option, known[section])
    if close or _NAME.fullmatch(option):
        return f"unknown option '{option}' in [{section}]{close}"
    return f"the name before the '=' is not an option of [{section}]"


def hint(name: str, names: Iterable[str]) -> str:
    """Return a suffix of a message, with the known name that is closest to an unknown one; empty if none is close."""
    close = difflib.get_close_matches(name, list(names), 1)
    return f"; did you mean '{close[0]}'?" if close else ""


def is_set(conf: cfg.ConfigOpts, option: str, section: str | None) -> bool:
    """Whether an option is set by a file, the environment or the command line.

    :param section: None for DEFAULT.
    """
    location = conf.get_location(option, section)
    return location is not None and location.location not in (cfg.Locations.opt_default, cfg.Locations.set_default)


def holds_secret(opt: cfg.Opt, value: str) -> bool:
    """Whether a value of an option is secret. A URL is secret if it contains a password."""
    if not opt.secret or not value:
        return False
    return "://" not in value or _PASSWORD_IN_URL.search(value) is not None


def refers(value: str) -> bool:
    """Whether oslo.config would replace a part of the value by the value of another option."""
    return _REFERENCE.search(value.replace(r"\$", "").replace("$$", "")) is not None

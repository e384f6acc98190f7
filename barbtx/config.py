"""Reads the configuration from files, environment and ``--set``, and checks all of it before the process starts."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence

import attrs
from oslo_config import cfg
from twisted.logger import Logger

from barbtx.config_sources import (
    ConfigFile,
    Known,
    Setting,
    environment_name,
    environment_problems,
    files_in,
    holds_secret,
    is_set,
    read_settings,
    refers,
    setting_problem,
)
from barbtx.errors import ConfigurationError, one_line
from barbtx.options import list_opts
from barbtx.plugin.manager import BACKEND_OPTIONS

log = Logger()

_PROJECT = "barbtx"

#: Help texts of the options that name configuration files, for every command.
CONFIGURATION_HELP: Mapping[str, str] = {
    "config-file": "configuration file; can be given several times, later files take precedence (default: the first "
    "barbtx.conf, and the *.conf files in the first barbtx.conf.d, in ~/.barbtx, ~, /etc/barbtx or /etc)",
    "config-dir": "directory whose *.conf files are read after the configuration files, in alphabetical order",
}


@attrs.frozen
class ConfigReading:
    """A configuration and the problems with it.

    :ivar conf: the options; those that have a problem have their default.
    :ivar problems: all problems, one line each.
    :ivar complete: whether all files could be read.
    """

    conf: cfg.ConfigOpts
    problems: tuple[str, ...]
    complete: bool


def load(files: Iterable[str] = (), overrides: Iterable[str] = ()) -> cfg.ConfigOpts:
    """Read configuration files and overrides.

    Environment variables of the form ``OS_<SECTION>__<OPTION>`` override files.

    :param files: paths; later files take precedence.
    :param overrides: ``section.option=value`` (``option=value`` for the section DEFAULT); they override all others.
    :raises ConfigurationError: a file cannot be read, an option is unknown or a value is not valid. The error lists all
        problems.
    """
    reading = read(files, overrides)
    if reading.problems:
        raise ConfigurationError(*reading.problems)
    return reading.conf


def locate(files: Sequence[str] = (), directories: Sequence[str] = ()) -> list[str]:
    """Return the configuration files to read: the given ones, or else those in the default places.

    The defaults are the first ``barbtx.conf`` and the first ``barbtx.conf.d`` that exist in ``~/.barbtx``, ``~``,
    ``/etc/barbtx`` and ``/etc``.

    :param directories: directories whose ``*.conf`` files are read after ``files``, in alphabetical order.
    :return: the files; later ones take precedence. Unreadable files and directories are included, and :func:`read`
        reports them.
    """
    if not files and not directories:
        files, directories = cfg.find_config_files(_PROJECT, _PROJECT), cfg.find_config_dirs(_PROJECT, _PROJECT)
    return list(dict.fromkeys([*files, *(path for directory in directories for path in files_in(directory))]))


def require(conf: cfg.ConfigOpts, files: Sequence[str], section: str, option: str) -> None:
    """Check that an option is set whose default could refer to the database or broker of another service.

    :param files: the configuration files that were read, for the message.
    :raises ConfigurationError: the option is not set.
    """
    if is_set(conf, option, _group(section)):
        return
    where = (
        f"set it in {files[-1]}"
        if files
        else "there is no configuration file: name one with --config-file, or create /etc/barbtx/barbtx.conf"
    )
    raise ConfigurationError(f"[{section}] {option} is not set; {where}")


def read(files: Iterable[str], overrides: Iterable[str]) -> ConfigReading:
    """Read a configuration like :func:`load`, but return the problems instead of raising an exception."""
    sources = [ConfigFile.read(path) for path in files]
    usable = [source.path for source in sources if not source.problems]
    complete = len(usable) == len(sources)
    problems = [problem for source in sources for problem in source.problems]

    conf = cfg.ConfigOpts()
    for section, opts in list_opts():
        conf.register_opts(opts, group=_group(section))
    try:
        conf(args=[], project=_PROJECT, prog=_PROJECT, default_config_files=usable, default_config_dirs=[])
    except cfg.Error:
        # A file was deleted or changed after ConfigFile read it.
        problems.append("the configuration files cannot be read: they changed meanwhile")
        conf(args=[], project=_PROJECT, prog=_PROJECT, default_config_files=[], default_config_dirs=[])
        complete = False
    settings, wrong = read_settings(overrides)
    problems += wrong
    problems += _Sources(conf, [source for source in sources if not source.problems], settings).apply()
    return ConfigReading(conf, tuple(dict.fromkeys(problems)), complete)


@attrs.frozen
class _Sources:
    """Applies the sources of a configuration to its options.

    :ivar files: the files that could be read.
    """

    conf: cfg.ConfigOpts
    files: list[ConfigFile]
    settings: list[Setting]

    def apply(self) -> list[str]:
        """Apply settings and environment, check all options, and return the problems."""
        known: Known = {section: {opt.dest: opt for opt in opts} for section, opts in list_opts()}
        # These options determine the names of further sections.
        problems = self._override(known, lambda setting: setting.section == "secretstore")
        problems += self._check({"secretstore": known["secretstore"]})
        for suffix in self.conf.secretstore.stores_lookup_suffix:
            section = f"secretstore:{suffix}"
            self.conf.register_opts(BACKEND_OPTIONS, group=section)
            known = {**known, section: {opt.dest: opt for opt in BACKEND_OPTIONS}}
        problems += [problem for file in self.files for problem in file.find_problems(known)]
        problems += environment_problems(known, os.environ)
        self._take_lists_from_environment(known)
        problems += self._override(known, lambda setting: setting.section != "secretstore")
        return problems + self._check({name: opts for name, opts in known.items() if name != "secretstore"})

    def _take_lists_from_environment(self, known: Known) -> None:
        """Set multi-valued options from the environment; oslo.config would split a variable into its characters."""
        for section, opts in known.items():
            for option, opt in opts.items():
                value = os.environ.get(environment_name(section, option))
                if opt.multi and value is not None:
                    self.conf.set_override(option, [value], group=_group(section))

    def _override(self, known: Known, applies: Callable[[Setting], bool]) -> list[str]:
        problems: list[str] = []
        several: dict[tuple[str, str], list[str]] = {}
        for setting in filter(applies, self.settings):
            problem = setting_problem(setting, known)
            if problem is not None:
                problems.append(problem)
                continue
            opt = known[setting.section][setting.option]
            if holds_secret(opt, setting.value):
                log.warn(
                    "{label} sets [{section}] {option}, a secret, on the command line, where every user of this "
                    "machine can read it: put it into a configuration file, or the environment variable {variable}",
                    label=setting.label,
                    section=setting.section,
                    option=setting.option,
                    variable=environment_name(setting.section, setting.option),
                )
            if opt.multi:
                several.setdefault((setting.section, setting.option), []).append(setting.value)
            try:
                self.conf.set_override(
                    setting.option,
                    several.get((setting.section, setting.option), setting.value),
                    group=_group(setting.section),
                )
            except ValueError as error:
                name = f"{setting.label}: [{setting.section}] {setting.option}"
                problems.append(f"{name}: {_reason(opt, [setting.value], error)}")
        return problems

    def _check(self, known: Known) -> list[str]:
        problems: list[str] = []
        for section, opts in known.items():
            group = self.conf if section == "DEFAULT" else self.conf[section]
            for option, opt in opts.items():
                source, values = self._source(section, option)
                reason = None
                try:
                    getattr(group, option)
                    if opt.secret and any(map(refers, values)):
                        reason = _DOLLAR
                except (cfg.Error, ValueError, RecursionError) as problem:
                    reason = _reason(opt, values, problem)
                if reason is not None:
                    problems.append(f"{source}: [{section}] {option}: {reason}")
                    self.conf.set_override(option, opt.default, group=_group(section))
        return problems

    def _source(self, section: str, option: str) -> tuple[str, list[str]]:
        """Return where an option is set, and its values as written there."""
        given = [setting for setting in self.settings if (setting.section, setting.option) == (section, option)]
        if given:
            return given[-1].label, [setting.value for setting in given]
        variable = environment_name(section, option)
        if variable in os.environ:
            return f"environment: {variable}", [os.environ[variable]]
        for file in reversed(self.files):
            for name, values in file.sections.get(section, {}).items():
                if name.replace("-", "_") == option:
                    return f"{file.path}, line {file.lines[section, name]}", values
        return "default", []


# What Python says of a value, and what it should be.
_PYTHON_REASONS = {
    re.compile(r"invalid literal for int\(\) with base 10: (.*)"): "an integer",
    re.compile(r"could not convert string to float: (.*)"): "a number",
    re.compile(r"(.*) does not appear to be an IPv4 or IPv6 network"): "an IPv4 or IPv6 network",
}
_DOLLAR = "a '$' stands for another option's value; write $$ for the character itself"


def _reason(opt: cfg.Opt, values: Iterable[str], problem: Exception) -> str:
    """Return why a value is not valid, without the value if it may be a secret or refers to another option."""
    if any(map(refers, values)):
        return _DOLLAR
    if opt.secret or not isinstance(problem, ValueError):
        return "the value is not valid"
    reason = one_line(str(problem).rpartition(" is not valid: ")[2])
    for pattern, text in _PYTHON_REASONS.items():
        if match := pattern.fullmatch(reason):
            return f"{match[1]} is not {text}"
    return reason


def _group(section: str) -> str | None:
    return None if section == "DEFAULT" else section

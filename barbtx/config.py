"""Reading the configuration: oslo.config files, environment and ``--set``, checked whole before anything starts."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence

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
from barbtx.errors import ConfigurationError
from barbtx.options import list_opts
from barbtx.plugin.manager import BACKEND_OPTIONS

log = Logger()

_PROJECT = "barbtx"


@attrs.frozen
class ConfigReading:
    """A configuration as it was read.

    :ivar conf: every option that has a problem has its default.
    :ivar problems: all that is wrong, one line each.
    :ivar complete: whether all files could be read, so that what depends on their options can be judged.
    """

    conf: cfg.ConfigOpts
    problems: tuple[str, ...]
    complete: bool


def load(files: Iterable[str] = (), overrides: Iterable[str] = ()) -> cfg.ConfigOpts:
    """Read configuration files and overrides.

    The environment counts as oslo.config reads it: ``OS_<SECTION>__<OPTION>``.

    :param files: paths; later files win.
    :param overrides: ``section.option=value`` texts (``option=value`` for section DEFAULT); they win over files.
    :raises ConfigurationError: a file cannot be read, or an option or a value is not known; all problems are named.
    """
    reading = read(files, overrides)
    if reading.problems:
        raise ConfigurationError(*reading.problems)
    return reading.conf


def locate(files: Sequence[str] = (), directories: Sequence[str] = ()) -> list[str]:
    """The configuration files to use: those that were named, otherwise those in the usual places.

    These are ``barbtx.conf`` and ``barbtx.conf.d`` in ``~/.barbtx``, ``~``, ``/etc/barbtx`` and ``/etc``, of each the
    first that is there.

    :param directories: of which all files named ``*.conf`` count, in the order of their names.
    :return: the files; later ones win. One that cannot be read, or a directory, is among them, to be complained of.
    """
    if not files and not directories:
        files, directories = cfg.find_config_files(_PROJECT, _PROJECT), cfg.find_config_dirs(_PROJECT, _PROJECT)
    return list(dict.fromkeys([*files, *(path for directory in directories for path in files_in(directory))]))


def require(conf: cfg.ConfigOpts, files: Sequence[str], section: str, option: str) -> None:
    """Make sure that somebody set an option, where its default could lead to a database or broker that nobody meant.

    :param files: the configuration files that were read.
    :raises ConfigurationError: nobody did; the text says how to.
    """
    if is_set(conf, option, _group(section)):
        return
    where = (
        f"put it into {files[-1]}"
        if files
        else "there is no configuration file: name one with --config-file, or make /etc/barbtx/barbtx.conf"
    )
    raise ConfigurationError(f"[{section}] {option} is not set; {where}")


def read(files: Iterable[str], overrides: Iterable[str]) -> ConfigReading:
    """Like :func:`load`, but with the problems beside what could be read."""
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
        # A file that went, or changed, after it was looked at.
        problems.append("the configuration files cannot be read: they changed meanwhile")
        conf(args=[], project=_PROJECT, prog=_PROJECT, default_config_files=[], default_config_dirs=[])
        complete = False
    settings, wrong = read_settings(overrides)
    problems += wrong
    problems += _Sources(conf, [source for source in sources if not source.problems], settings).apply()
    return ConfigReading(conf, tuple(dict.fromkeys(problems)), complete)


@attrs.frozen
class _Sources:
    """Puts what was read into effect.

    :ivar files: those that could be read.
    """

    conf: cfg.ConfigOpts
    files: list[ConfigFile]
    settings: list[Setting]

    def apply(self) -> list[str]:
        """Have settings and environment override files; what is wrong with any of them."""
        known: Known = {section: {opt.dest: opt for opt in opts} for section, opts in list_opts()}
        # What the further sections are called must be known before anything in them can be.
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
        """oslo.config takes the text of a variable for the list of its characters."""
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
            except ValueError as problem:
                name = f"{setting.label}: [{setting.section}] {setting.option}"
                problems.append(f"{name}: {_reason(opt, [setting.value], problem)}")
        return problems

    def _check(self, known: Known) -> list[str]:
        problems = []
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
        """Where an option is set, and its values as they are written there."""
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


_DOLLAR = "a '$' stands for another option's value; write $$ for the character itself"


def _reason(opt: cfg.Opt, values: Iterable[str], problem: Exception) -> str:
    """Why a value is refused, without the value if it may be a secret, or refers to one."""
    if any(map(refers, values)):
        return _DOLLAR
    if opt.secret or not isinstance(problem, ValueError):
        return "the value is not valid"
    return " ".join(str(problem).rpartition(" is not valid: ")[2].split())


def _group(section: str) -> str | None:
    return None if section == "DEFAULT" else section

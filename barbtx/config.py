"""Reading the configuration: oslo.config files, environment and ``--set``, checked whole before anything starts."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from oslo_config import cfg

from barbtx.errors import ConfigurationError
from barbtx.options import list_opts
from barbtx.plugin.manager import BACKEND_OPTIONS


def load(files: Iterable[str] = (), overrides: Iterable[str] = ()) -> cfg.ConfigOpts:
    """Read configuration files and overrides.

    The environment counts as oslo.config reads it: ``OS_<SECTION>__<OPTION>``.

    :param files: paths; later files win.
    :param overrides: ``section.option=value`` texts (``option=value`` for section DEFAULT); they win over files.
    :raises ConfigurationError: a file cannot be read, or an option or a value is not known.
    """
    conf = cfg.ConfigOpts()
    for section, opts in list_opts():
        conf.register_opts(opts, group=None if section == "DEFAULT" else section)
    files = list(files)
    try:
        conf(args=[], project="barbtx", default_config_files=files, default_config_dirs=[])
        for suffix in conf.secretstore.stores_lookup_suffix:
            conf.register_opts(BACKEND_OPTIONS, group=f"secretstore:{suffix}")
        for path in files:
            _check_names(conf, path)
        _override(conf, overrides)
        _check_values(conf)
    except (cfg.Error, ValueError) as problem:
        raise ConfigurationError(" ".join(str(problem).split())) from None
    return conf


def _sections(conf: cfg.ConfigOpts) -> list[tuple[str, list[cfg.Opt]]]:
    backends = [(f"secretstore:{suffix}", BACKEND_OPTIONS) for suffix in conf.secretstore.stores_lookup_suffix]
    return [*list_opts(), *backends]


def _known(conf: cfg.ConfigOpts) -> dict[str, set[str]]:
    return {section: {opt.dest for opt in opts} for section, opts in _sections(conf)}


def _check_names(conf: cfg.ConfigOpts, path: str) -> None:
    known = _known(conf)
    sections: dict[str, dict[str, list[str]]] = {}
    cfg.ConfigParser(path, sections).parse()
    for section, options in sections.items():
        if section not in known:
            raise ConfigurationError(f"{path}: unknown section [{section}]{_hint(section, known)}")
        for option in options:
            if option.replace("-", "_") not in known[section]:
                raise ConfigurationError(
                    f"{path}: unknown option '{option}' in [{section}]{_hint(option, known[section])}"
                )


def _hint(name: str, names: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(names), 1)
    return f"; did you mean '{close[0]}'?" if close else ""


def _override(conf: cfg.ConfigOpts, overrides: Iterable[str]) -> None:
    known = {section: {opt.dest: opt for opt in opts} for section, opts in _sections(conf)}
    several: dict[tuple[str, str], list[str]] = {}
    for override in overrides:
        name, equals, value = override.partition("=")
        section, _, option = name.strip().rpartition(".")
        section = section or "DEFAULT"
        if not equals or not option:
            raise ConfigurationError(f"--set {override.partition('=')[0]}: write it as section.option=value")
        opt = known.get(section, {}).get(option)
        if opt is None:
            hint = _hint(option, known.get(section, {}))
            raise ConfigurationError(f"--set: unknown option '{option}' in [{section}]{hint}")
        if opt.multi:
            several.setdefault((section, option), []).append(value)
        try:
            conf.set_override(option, several.get((section, option), value),
                              group=None if section == "DEFAULT" else section)
        except ValueError as problem:
            raise ConfigurationError(f"--set {section}.{option}: {problem}") from None


def _check_values(conf: cfg.ConfigOpts) -> None:
    for section, opts in _sections(conf):
        group = conf if section == "DEFAULT" else conf[section]
        for opt in opts:
            getattr(group, opt.dest)

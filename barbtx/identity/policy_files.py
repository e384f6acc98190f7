"""The operator's policy files: where they are, and reading them so that nothing in them is lost."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml
from oslo_config import cfg
from twisted.logger import Logger

from barbtx.config_sources import is_set
from barbtx.errors import ConfigurationError
from barbtx.files import write_problems

log = Logger()



def find_policy_files(conf: cfg.ConfigOpts) -> tuple[list[Path], list[str]]:
    """Look for the files that override rules.

    :returns: the files, in the order in which they count, and what is wrong with them: a file or directory that the
        configuration names must be there; the default ones need not.
    """
    found: list[Path] = []
    problems: list[str] = []
    options = conf.oslo_policy
    named = is_set(conf, "policy_file", "oslo_policy")
    main = Path(conf.find_file(options.policy_file) or "") if options.policy_file else None
    if main is not None and main.is_file():
        found.append(main)
    elif named or main is not None and main != Path():
        problems.append(f"[oslo_policy] policy_file: there is no file '{options.policy_file}'; "
                        "name one that exists, or remove the option to use the shipped rules")
    elif conf.find_file("policy.json"):
        log.warn("{path} is not read: convert it with oslopolicy-convert-json-to-yaml, or name it in [oslo_policy] "
                 "policy_file", path=conf.find_file("policy.json"))
    named = is_set(conf, "policy_dirs", "oslo_policy")
    for name in options.policy_dirs:
        directory = Path(conf.find_file(name) or "") if name else Path()
        if directory != Path() and directory.is_dir():
            files, wrong = _files_of(directory, named)
            found += files
            problems += wrong
        elif named or directory != Path():
            problems.append(f"[oslo_policy] policy_dirs: there is no directory '{name}'; name one that exists, or "
                            "remove the option to use the shipped rules")
    return found, problems


def _files_of(directory: Path, named: bool) -> tuple[list[Path], list[str]]:
    files: list[Path] = []
    problems: list[str] = []
    try:
        for path in sorted(path for path in directory.iterdir() if not path.name.startswith(".")):
            if path.is_file():
                files.append(path)
            elif path.is_dir():
                log.warn("{path} is a directory within policy_dirs: what is in it is not read", path=str(path))
            else:
                problems.append(f"policy: {path} cannot be read: it is neither a file nor a link to one")
    except OSError as problem:
        problems.append(f"policy: {directory}: {problem.strerror}")
    if named and not files and not problems:
        log.warn("there is no policy file in {directory}, although [oslo_policy] policy_dirs names it",
                 directory=str(directory))
    return files, problems


def read_policy_files(conf: cfg.ConfigOpts) -> dict[Path, dict[str, str]]:
    """The check strings in each file, by rule name.

    :raises ConfigurationError: a file is missing, can be written by others, or is no mapping of names to texts. All
        that is wrong is named.
    """
    paths, problems = find_policy_files(conf)
    main = Path(conf.find_file(conf.oslo_policy.policy_file) or "") if is_set(conf, "policy_file", "oslo_policy") else None
    files: dict[Path, dict[str, str]] = {}
    for path in paths:
        try:
            problems += [f"policy: {problem}" for problem in write_problems(path)]
            rules = yaml.load(path.read_text(encoding="utf-8"), _Loader)
        except (OSError, yaml.YAMLError, ValueError, RecursionError) as problem:
            reason = getattr(problem, "strerror", None) or " ".join(str(problem).split()) or type(problem).__name__
            problems.append(f"policy: {path}: {reason}")
            continue
        if rules is None:
            if path == main:
                problems.append(f"policy: {path} is empty, although [oslo_policy] policy_file names it; write rules, or {{}} "
                                "if there are to be none")
            files[path] = {}
        elif isinstance(rules, dict):
            files[path] = rules
            problems += _wrong_texts(path, rules)
        else:
            problems.append(f"policy: {path} is no mapping of rule names to check strings")
    if problems:
        raise ConfigurationError(*problems)
    return files


def _wrong_texts(path: Path, rules: dict[Any, Any]) -> list[str]:
    return [f"policy: {path}: the rule '{name}' has no check string; write \"@\" for always and \"!\" for never, with "
            "the quotes" for name, check in rules.items()
            if not isinstance(name, str) or not isinstance(check, str) or not check.strip()]


class _Loader(yaml.SafeLoader):
    """Refuses a name that is there twice: YAML forbids it, yet the library takes the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable) and key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"the rule '{key}' is there twice",
                                                        key_node.start_mark)
            if isinstance(key, Hashable):
                seen.add(key)
        return super().construct_mapping(node, deep)

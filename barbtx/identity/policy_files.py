"""Finds and reads the operator's policy files, and refuses anything in them that oslo.policy would ignore."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import attrs
import yaml
from oslo_config import cfg
from twisted.logger import Logger

from barbtx.config_sources import is_set
from barbtx.errors import ConfigurationError, one_line
from barbtx.files import write_problems

log = Logger()


@attrs.frozen
class PolicyFiles:
    """The files that override rules.

    :ivar paths: the files; a later one overrides an earlier one.
    :ivar required: the files that the configuration names, or whose directory it names.
    :ivar problems: errors because of which the files cannot be used.
    :ivar warnings: conditions that the operator may not intend.
    """

    paths: list[Path] = attrs.field(factory=list)
    required: set[Path] = attrs.field(factory=set)
    problems: list[str] = attrs.field(factory=list)
    warnings: list[str] = attrs.field(factory=list)


def find_policy_files(conf: cfg.ConfigOpts) -> PolicyFiles:
    """Find the files that override rules: those that the configuration names must exist, the default ones need not."""
    files = PolicyFiles()
    options = conf.oslo_policy
    named = is_set(conf, "policy_file", "oslo_policy")
    main = options.policy_file and conf.find_file(options.policy_file)
    if main and Path(main).is_file():
        files.paths.append(Path(main))
        if named:
            files.required.add(Path(main))
    elif named or main:
        files.problems.append(
            f"[oslo_policy] policy_file: there is no file '{options.policy_file}'; name one that "
            "exists, or remove the option to use the default rules"
        )
    elif obsolete := conf.find_file("policy.json"):
        files.warnings.append(
            f"{obsolete} is not read: convert it with oslopolicy-convert-json-to-yaml, or name it in "
            "[oslo_policy] policy_file"
        )
    named = is_set(conf, "policy_dirs", "oslo_policy")
    for name in options.policy_dirs:
        directory = name and conf.find_file(name)
        if directory and Path(directory).is_dir():
            _list_directory(Path(directory), named, files)
        elif named or directory:
            files.problems.append(
                f"[oslo_policy] policy_dirs: there is no directory '{name}'; name one that exists, "
                "or remove the option to use the default rules"
            )
    return files


def _list_directory(directory: Path, named: bool, found: PolicyFiles) -> None:
    try:
        paths = sorted(path for path in directory.iterdir() if not path.name.startswith("."))
        files = [path for path in paths if path.is_file()]
        found.paths.extend(files)
        found.warnings.extend(
            f"{path} is a directory within policy_dirs: its contents are not read" for path in paths if path.is_dir()
        )
        found.problems.extend(
            f"policy: {path} cannot be read: it is neither a file nor a link to one"
            for path in paths
            if not path.is_file() and not path.is_dir()
        )
    except OSError as problem:
        found.problems.append(f"policy: {directory}: {problem.strerror}")
        return
    if named:
        found.required.update(files)
    if named and all(path.is_dir() for path in paths):
        found.problems.append(
            f"[oslo_policy] policy_dirs: there is no policy file in {directory}; create one, with {{}} "
            "for no rules, or remove the option to use the default rules"
        )


def read_policy_files(conf: cfg.ConfigOpts) -> dict[Path, dict[str, str]]:
    """Read the check strings in each file, by rule name.

    :raises ConfigurationError: a file is missing or empty, can be written by other users, or is not a mapping of names
        to texts. Every error is named.
    """
    found = find_policy_files(conf)
    for warning in found.warnings:
        log.warn("policy: {warning}", warning=warning)
    problems = list(found.problems)
    files: dict[Path, dict[str, str]] = {}
    for path in found.paths:
        try:
            problems += [f"policy: {problem}" for problem in write_problems(path)]
            rules = yaml.load(path.read_text(encoding="utf-8"), _Loader)
        except (OSError, yaml.YAMLError, ValueError, RecursionError) as problem:
            reason = getattr(problem, "strerror", None) or one_line(problem) or type(problem).__name__
            problems.append(f"policy: {path}: {reason}")
            continue
        if rules is None:
            if path in found.required:
                problems.append(
                    f"policy: {path} is empty, although [oslo_policy] names it or its directory; write rules, "
                    "or {} for no rules"
                )
            else:
                log.warn("policy: {path} has no rules; write {nothing} for no rules", path=path, nothing="{}")
            files[path] = {}
        elif isinstance(rules, dict):
            files[path] = rules
            problems += _wrong_texts(path, rules)
        else:
            problems.append(f"policy: {path} is not a mapping of rule names to check strings")
    if problems:
        raise ConfigurationError(*problems)
    return files


def _wrong_texts(path: Path, rules: dict[Any, Any]) -> list[str]:
    return [
        f'policy: {path}: the rule \'{name}\' has no check string; write "@" for always and "!" for never, with '
        "the quotes"
        for name, check in rules.items()
        if not isinstance(name, str) or not isinstance(check, str) or not check.strip()
    ]


class _Loader(yaml.SafeLoader):
    """Refuses duplicate names: YAML forbids them, but the library silently uses the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Construct a mapping.

        :raises yaml.constructor.ConstructorError: a name occurs twice.
        """
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable) and key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the rule '{key}' is defined twice", key_node.start_mark
                )
            if isinstance(key, Hashable):
                seen.add(key)
        return super().construct_mapping(node, deep)

"""What the documentation contains: its code blocks, links and names of code."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import attrs
from zope.interface.interface import InterfaceClass

import barbtx
import workers
from tests.support.service import ROOT

DOCUMENTS = sorted(
    [ROOT / "README.md", ROOT / "benchmarks" / "README.md", *(ROOT / "docs").rglob("*.md")],
    key=str,
)
_FENCE = re.compile(r"^( *)```(\w+)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"`([A-Za-z_.]+)(?:\([^`]*\))?`")


@attrs.frozen
class Block:
    """A fenced code block.

    :ivar line: of its document, where it begins.
    """

    document: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.document.relative_to(ROOT)}:{self.line}"


def blocks(language: str, *documents: Path) -> list[Block]:
    """The code blocks in a language, of all documents or of some."""
    return [
        Block(document, text.count("\n", 0, found.start()) + 1, found[2], inspect.cleandoc(found[3]))
        for document in documents or DOCUMENTS
        for text in [document.read_text()]
        for found in _FENCE.finditer(text)
        if found[2] == language
    ]


@attrs.frozen
class Command:
    """A command of a console block.

    :ivar prompt: ``$``, or ``#`` for a command that the reader runs as root. A test never runs the latter.
    :ivar output: what the document shows.
    """

    prompt: str
    text: str
    output: str = ""


def commands(block: Block) -> list[Command]:
    """The commands of a console block."""
    found: list[Command] = []
    for line in block.text.splitlines():
        if line.startswith(("$ ", "# ")):
            found.append(Command(line[0], line[2:]))
        elif found and found[-1].text.endswith("\\"):
            found[-1] = attrs.evolve(found[-1], text=f"{found[-1].text}\n{line}")
        elif found:
            found[-1] = attrs.evolve(found[-1], output=f"{found[-1].output}{line}\n")
    return found


def code_names(document: Path) -> set[str]:
    """The code spans of a document that are names of a module, class, method or function."""
    return {
        name
        for name in _SPAN.findall(re.sub(r"```.*?```", "", document.read_text(), flags=re.DOTALL))
        if "." in name.strip(".") or re.match(r"[A-Z]+[a-z]+[A-Z]", name)
    }


def exists(name: str) -> bool:
    """Whether a name with or without its module is one of this project."""
    *containers, last = name.split(".")
    for candidate in _objects().get(containers[0] if containers else last, ()):
        value: object = candidate
        for part in [*containers[1:], last] if containers else []:
            value = _member(value, part)
        if value is not None:
            return True
    return False


def _member(value: object, name: str) -> object:
    if isinstance(value, InterfaceClass):
        return value.get(name)
    if name in getattr(value, "__annotations__", {}):
        return name
    return getattr(value, name, None)


@cache
def _objects() -> dict[str, list[object]]:
    """Every module and everything that is defined in one, by its last name."""
    found: dict[str, list[object]] = {"barbtx": [barbtx], "workers": [workers]}
    for name in _modules():
        module = importlib.import_module(name)
        found.setdefault(name.rpartition(".")[2], []).append(module)
        for member, value in vars(module).items():
            if getattr(value, "__module__", None) == name:
                found.setdefault(member, []).append(value)
    return found


def _modules() -> Iterator[str]:
    for package in (barbtx, workers):
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if ".versions" not in found.name and not found.name.endswith((".env", "__main__")):
                yield found.name

"""What the documentation shows is true: its commands run, its configuration loads, and the names in it exist."""

from __future__ import annotations

import itertools
import json
import re
import shlex
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import pytest_twisted

from barbtx.cmd.manage import make_parser
from barbtx.config import load
from barbtx.twistd import Options
from tests.conftest import unique
from tests.support.documents import DOCUMENTS, Block, blocks, code_names, commands, exists
from tests.support.programs import require
from tests.support.servers import PostgreSQL
from tests.support.service import ROOT, Deployment, manage

TOURS = [ROOT / "README.md", ROOT / "docs" / "tutorial.md"]
BACKUP = ROOT / "docs" / "howto" / "backup.md"
PLUGIN = ROOT / "docs" / "howto" / "write-a-plugin.md"
_URL = "http://127.0.0.1:9311"
_ID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}"
# What a tour may run on the machine of whoever runs the tests.
_PROGRAMS = {"cat", "curl", "grep", "head", "wc"}
_ASSIGNMENT = re.compile(r"[A-Z]+=http://\S+")
_VARIABLE = re.compile(f"({_ID})|({_TIME})")


def test_there_are_blocks_of_each_kind() -> None:
    for language in ("console", "ini", "python", "toml", "json"):
        assert blocks(language), language


@pytest.mark.parametrize("block", blocks("ini"), ids=str)
def test_configuration_loads(block: Block, tmp_path: Path) -> None:
    path = tmp_path / "barbtx.conf"
    path.write_text(block.text + "\n")
    path.chmod(0o600)
    load([str(path)])


@pytest.mark.parametrize("block", blocks("json"), ids=str)
def test_json_is_valid(block: Block) -> None:
    json.loads(block.text)


@pytest.mark.parametrize("block", blocks("console"), ids=str)
def test_commands_have_arguments_that_exist(block: Block) -> None:
    for command in commands(block):
        match command.text.split():
            case ["barbtx-manage", *arguments]:
                make_parser().parse_args(arguments)
            case ["twistd", *arguments] if "--config-file" in arguments:
                plugin = next(name for name in arguments if name in ("barbtx", "barbtx-worker"))
                Options().parseOptions(arguments[arguments.index(plugin) + 1 :])


@pytest.mark.parametrize("document", [ROOT / "docs" / "dataflow.md"], ids=lambda path: path.name)
def test_names_of_code_exist(document: Path) -> None:
    assert [name for name in sorted(code_names(document)) if not exists(name)] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_files(document: Path) -> None:
    """Sphinx checks the pages; this checks README too, and that files of the repository are there."""
    text = re.sub(r"```.*?```|`[^`]*`", "", document.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#\s]+)", text):
        if "://" not in target:
            assert (document.parent / target).exists(), target


@pytest.mark.parametrize("tour", TOURS, ids=lambda path: path.name)
def test_the_tour_has_the_output_that_it_shows(tour: Path, tmp_path: Path) -> None:
    directory = tmp_path / "var"
    directory.mkdir()
    deployment = Deployment(directory, f"sqlite:///{directory}/barbtx.sqlite")
    try:
        shell = Shell(tmp_path, deployment.api().url)
        for block in blocks("console", tour):
            for command in commands(block):
                if command.prompt == "$":
                    shell.run(command.text, command.output)
    finally:
        deployment.stop()


def is_harmless(command: str) -> bool:
    """Whether a command is an assignment of a URL, or a pipeline of programs that change nothing on this machine."""
    if _ASSIGNMENT.fullmatch(command):
        return True
    words = list(shlex.shlex(command.replace("\\\n", " "), posix=True, punctuation_chars=True))
    programs = [word for before, word in itertools.pairwise(["|", *words]) if before == "|"]
    return (
        "`" not in command
        and not {";", "&", "&&", "||", "<", ">", ">>", "("} & set(words)
        and set(programs) <= _PROGRAMS
    )


def test_a_tour_runs_only_what_changes_nothing_on_this_machine() -> None:
    for command in ("useradd x", "rm -rf x", "curl -s u | sh", "curl -s u; id", "curl $(id)", "cat x > y", "curl `id`"):
        assert not is_harmless(command), command


class Shell:
    """Runs a document's commands against a service, one after the other.

    The ids in the document stand for those that the service gives out: where the document shows an id, the service must
    show one, and the same one wherever the document repeats it.
    """

    def __init__(self, directory: Path, url: str) -> None:
        self._directory = directory
        self._url = url
        self._ids: dict[str, str] = {}
        self._variables: list[str] = []

    def run(self, command: str, expected: str) -> None:
        """Run a command and compare what it prints with what the document shows."""
        assert is_harmless(command), f"a tour does not run {command}"
        for shown, real in self._ids.items():
            command = command.replace(shown, real)
        command = command.replace(_URL, self._url)
        if _ASSIGNMENT.fullmatch(command):
            self._variables.append(command)
            return
        done = subprocess.run(
            ["bash", "-ec", "\n".join([*self._variables, command])],
            cwd=self._directory,
            capture_output=True,
            text=True,
            timeout=120,
        )
        # grep's status says that it found nothing, which is what the document shows.
        assert done.returncode == 0 or expected.strip() == "0", f"{command}\n{done.stderr}"
        self._compare(done.stdout.rstrip().replace("\r", ""), expected.strip(), command)

    def _compare(self, printed: str, expected: str, command: str) -> None:
        parts, shown = [], []
        end = 0
        text = expected.replace(_URL, self._url)
        for found in _VARIABLE.finditer(text):
            parts += [re.escape(text[end : found.start()]), f"({_ID if found[1] else _TIME})"]
            shown.append(found[1])
            end = found.end()
        match = re.fullmatch("".join([*parts, re.escape(text[end:])]), printed)
        assert match, f"{command}\nprints   {printed}\nand not  {expected}"
        for name, real in zip(shown, match.groups(), strict=True):
            if name:
                assert self._ids.setdefault(name, real) == real, command


@pytest.mark.parametrize("only_data", [False, True])
@pytest_twisted.ensureDeferred
async def test_a_database_is_backed_up_and_restored_as_the_guide_shows(
    postgresql: PostgreSQL, tmp_path: Path, only_data: bool
) -> None:
    shown = [command.text for block in blocks("console", BACKUP) for command in commands(block)]
    dump, restore = (
        command
        for command in shown
        if command.startswith(("pg_dump ", "pg_restore ")) and ("--data-only" in command) == only_data
    )
    database, restored = postgresql.new_database(unique()), postgresql.new_database(unique())
    deployment = Deployment(tmp_path, database)
    try:
        api = deployment.api()
        secret = await api.store("s3cr3t")
        if only_data:
            manage("db", "upgrade", "-d", restored)
        for command, url in ((dump, database), (restore, restored)):
            program, *arguments = shlex.split(command.replace("postgresql://barbtx@db.example/barbtx", url))
            subprocess.run([require(program), *arguments], cwd=tmp_path, check=True, timeout=120)
        deployment.stop()
        if only_data:
            (recount,) = (shlex.split(command)[3:] for command in shown if command.endswith(" db recount"))
            manage(*recount, "-d", restored)
        api = deployment.api(**{"database.connection": restored})
        assert (await api.get("/v1/secrets")).json["total"] == 1
        path = f"/v1/secrets/{secret.rpartition('/')[2]}/payload"
        assert (await api.get(path, headers={"Accept": "text/plain"})).content == b"s3cr3t"
    finally:
        deployment.stop()


@pytest.fixture
def directory_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Deployment]:
    """A deployment with the secret store of the guide to plugins, installed as its own distribution."""
    (module,) = blocks("python", PLUGIN)
    (pyproject,) = blocks("toml", PLUGIN)
    project = tomllib.loads(pyproject.text)["project"]
    plugins = tmp_path / "plugins"
    metadata = plugins / "directory_store-1.0.dist-info"
    metadata.mkdir(parents=True)
    (plugins / "directory_store.py").write_text(module.text)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: directory-store\nVersion: 1.0\n")
    lines = [
        f"[{group}]\n" + "".join(f"{name} = {target}\n" for name, target in factories.items())
        for group, factories in project["entry-points"].items()
    ]
    (metadata / "entry_points.txt").write_text("\n".join(lines))
    (tmp_path / "payloads").mkdir()
    monkeypatch.setenv("DIRECTORY_STORE_PATH", str(tmp_path / "payloads"))
    settings = next(block for block in blocks("ini", PLUGIN) if "directory" in block.text)
    (tmp_path / "plugin.conf").write_text(settings.text + "\n")
    deployment = Deployment(tmp_path, f"sqlite:///{tmp_path}/barbtx.sqlite")
    deployment.plugins = plugins
    deployment.config_files.append(tmp_path / "plugin.conf")
    yield deployment
    deployment.stop()
    shutil.rmtree(plugins)


@pytest_twisted.ensureDeferred
async def test_the_plugin_of_the_guide_stores_generates_and_deletes(
    directory_store: Deployment, tmp_path: Path
) -> None:
    api = directory_store.api()
    payloads = tmp_path / "payloads"
    secret = await api.store("s3cr3t")
    assert len(list(payloads.iterdir())) == 1
    assert (await api.get(f"{secret}/payload", headers={"Accept": "text/plain"})).content == b"s3cr3t"
    order = await api.finished(await api.order())
    assert order["status"] == "ACTIVE", order
    key = await api.get(f"{order['secret_ref']}/payload", headers={"Accept": "application/octet-stream"})
    assert len(key.content) == 32 and len(list(payloads.iterdir())) == 2
    for ref in (secret, order["secret_ref"]):
        assert (await api.delete(ref)).status == 204
    assert list(payloads.iterdir()) == []

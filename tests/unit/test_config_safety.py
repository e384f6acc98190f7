"""Configuration: who may write and read its files, what its messages never show, and that they come all at once."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from twisted.logger import LogEvent, formatEvent, globalLogPublisher

from barbtx.cmd.manage import main as manage
from barbtx.config import load, locate
from barbtx.config_sources import environment_name
from barbtx.errors import ConfigurationError
from barbtx.files import read_key_file
from barbtx.options import list_opts
from barbtx.plugin.crypto.simple_crypto import from_config, generate_master_key
from barbtx.plugin.manager import PluginContext
from tests.support.service import BIN, DEV_CONFIG

SECRETS = [(section, opt.dest) for section, opts in list_opts() for opt in opts if opt.secret]
MARKER = "hUnter2marker"


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in [name for name in os.environ if name.startswith("OS_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def warnings() -> Iterator[list[str]]:
    lines: list[str] = []

    def observe(event: LogEvent) -> None:
        lines.append(formatEvent(event))

    globalLogPublisher.addObserver(observe)
    yield lines
    globalLogPublisher.removeObserver(observe)


def refusal(files: Sequence[Path] = (), overrides: Sequence[str] = ()) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        load([str(path) for path in files], overrides)
    assert str(caught.value) == "\n".join(caught.value.problems)
    return list(caught.value.problems)


def written(tmp_path: Path, text: str, mode: int = 0o600) -> Path:
    path = tmp_path / "some.conf"
    path.write_text(text)
    path.chmod(mode)
    return path


def test_there_are_secrets() -> None:
    assert {
        ("database", "connection"),
        ("DEFAULT", "transport_url"),
        ("keystone_authtoken", "password"),
        ("simple_crypto_plugin", "kek"),
    } <= set(SECRETS)


_BAD_DOLLARS = (
    st.sampled_from(["$", "${"])
    .flatmap(
        lambda start: st.sampled_from(
            [
                f"a{start}{MARKER}",
                f"{MARKER}{start}x",
                f"postgresql://u:{start}{MARKER}@h/d",
                f"{start}{MARKER}.x",
                f"$password{MARKER}",
                f"{MARKER}$host_href",
                f"{MARKER}${{api}}",
                f"{MARKER}$api",
            ]
        )
    )
    .filter(lambda text: re.search(r"\$([_A-Za-z]|\{)", text))
)


@settings(deadline=None)
@given(option=st.sampled_from(SECRETS), value=_BAD_DOLLARS, how=st.sampled_from(["file", "setting", "environment"]))
def test_a_dollar_in_a_secret_is_explained_without_the_text(
    tmp_path_factory: pytest.TempPathFactory, option: tuple[str, str], value: str, how: str
) -> None:
    section, name = option
    with pytest.MonkeyPatch.context() as patch:
        if how == "file":
            lines = refusal([written(tmp_path_factory.mktemp("c"), f"[{section}]\n{name} = {value}\n")])
        elif how == "setting":
            lines = refusal([], [f"{section}.{name}={value}"])
        else:
            patch.setenv(environment_name(section, name), value)
            lines = refusal()
    (line,) = lines
    assert f"[{section}] {name}" in line and "write $$" in line
    assert MARKER not in line and MARKER.lower() not in line.lower()


@pytest.mark.parametrize(("text", "meant"), [("a$$b", "a$b"), (r"a\$b", "a$b"), ("a$1", "a$1"), ("a$", "a$")])
def test_a_dollar_that_is_meant_is_kept(tmp_path: Path, text: str, meant: str) -> None:
    conf = load([str(written(tmp_path, f"[keystone_authtoken]\npassword = {text}\n"))])
    assert conf.keystone_authtoken.password == meant


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"[keystone_authtoken]\npassword {MARKER}\n", "line 2"),
        (f"password = {MARKER}\n", "line 1"),
        (f"[keystone_authtoken]\n= {MARKER}\n", "line 2"),
        (f"[keystone_authtoken\npassword = {MARKER}\n", "line 1"),
        (f"  {MARKER}\n", "line 1"),
        (f"[simple_crypto_plugin]\n{MARKER}0123=\n", "line 2"),
        (f"[api]\nbind_port = $transport_url\n[DEFAULT]\ntransport_url = rabbit://u:{MARKER}@h\n", "[api] bind_port"),
        (f"[DEFAULT]\nhost_href = ${MARKER}\n", "[DEFAULT] host_href"),
        (f"[api]\nbind_port = {MARKER}$x\n", "[api] bind_port"),
    ],
)
def test_no_message_shows_what_may_be_a_secret(tmp_path: Path, text: str, said: str) -> None:
    lines = refusal([written(tmp_path, text)])
    assert any(said in line for line in lines)
    assert MARKER not in "".join(lines)


@pytest.mark.parametrize(
    "setting",
    [
        MARKER,
        f"database.connection:postgresql://u:{MARKER}@h/d",
        f"keystone_authtoken.password:{MARKER}=x",
        f"{MARKER}.{MARKER}={MARKER}",
        f"keystone_authtoken.{MARKER}=1",
    ],
)
def test_no_message_about_a_setting_shows_it(setting: str) -> None:
    assert MARKER not in "".join(refusal([], ["api.bind_port=1", setting]))


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("[keystone_authtoken]\npassword = x\n", True),
        ("[simple_crypto_plugin]\nkek = x\n", True),
        ("[DEFAULT]\ntransport-url = rabbit://u:p@h\n", True),
        ("[database]\nconnection = postgresql://u:p@h/d\n", True),
        ("[database]\nconnection = postgresql://u@h/d?password=x\n", True),
        ("[database]\nconnection = sqlite:////var/lib/x\n", False),
        ("[database]\nconnection = postgresql://u@h/d\n", False),
        ("[keystone_authtoken]\nusername = x\npassword =\n", False),
        ("[api]\nbind_port = 1\n", False),
    ],
)
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o644, 0o604])
def test_a_file_with_secrets_is_refused_if_others_may_read_it(
    tmp_path: Path, text: str, secret: bool, mode: int
) -> None:
    path = written(tmp_path, text, mode)
    if secret and mode & 0o004:
        (line,) = refusal([path])
        assert "chmod" in line and str(path) in line
    else:
        load([str(path)])


@pytest.mark.parametrize(
    ("mode", "directory_mode", "refused"),
    [
        (0o600, 0o700, False),
        (0o644, 0o755, False),
        (0o664, 0o775, False),
        (0o666, 0o755, True),
        (0o602, 0o755, True),
        (0o644, 0o777, True),
        (0o644, 0o1777, False),
    ],
)
@pytest.mark.parametrize("link", [False, True])
def test_a_file_that_others_may_write_is_refused(
    tmp_path: Path, mode: int, directory_mode: int, refused: bool, link: bool
) -> None:
    directory = tmp_path / "etc"
    directory.mkdir()
    path = written(directory, "[api]\nbind_port = 1\n", mode)
    directory.chmod(directory_mode)
    if link:
        (tmp_path / "link.conf").symlink_to(path)
        path = tmp_path / "link.conf"
    if refused:
        assert "chmod" in "".join(refusal([path]))
    else:
        load([str(path)])


@pytest.mark.parametrize(
    ("mode", "allowed", "refused"),
    [
        (0o600, False, False),
        (0o400, False, False),
        (0o440, False, True),
        (0o640, False, True),
        (0o440, True, False),
        (0o640, True, False),
        (0o660, True, True),
        (0o444, True, True),
        (0o644, True, True),
        (0o602, True, True),
    ],
)
def test_the_group_may_read_master_keys_only_if_that_is_allowed(
    tmp_path: Path, mode: int, allowed: bool, refused: bool
) -> None:
    data = tmp_path / "..2026"
    data.mkdir()
    (data / "mkek").write_text("A" * 43 + "=\n")
    (data / "mkek").chmod(mode)
    (tmp_path / "..data").symlink_to("..2026")
    (tmp_path / "mkek").symlink_to("..data/mkek")
    conf = load([], [f"simple_crypto_plugin.kek_file={tmp_path}/mkek", f"allow_group_readable_keys={allowed}"])
    from twisted.internet import reactor

    context = PluginContext(conf, reactor, None, lambda work, *arguments: work(*arguments))
    if refused:
        with pytest.raises(ConfigurationError, match="chmod 600") as caught:
            from_config(context)
        assert ("allow_group_readable_keys" in str(caught.value)) is (not mode & 0o037)
    else:
        from_config(context)


@pytest.mark.parametrize(("mode", "warned"), [(0o700, False), (0o755, False), (0o1777, False), (0o777, True)])
def test_master_keys_that_others_may_replace_are_warned_of(
    tmp_path: Path, warnings: list[str], mode: int, warned: bool
) -> None:
    directory = tmp_path / "keys"
    directory.mkdir()
    (directory / "mkek").write_text(generate_master_key())
    (directory / "mkek").chmod(0o600)
    directory.chmod(mode)
    read_key_file(str(directory / "mkek"), group_may_read=False)
    assert any("other users can replace" in warning for warning in warnings) is warned


def test_a_secret_on_the_command_line_is_warned_of_and_not_shown(warnings: list[str]) -> None:
    load(
        [],
        [
            f"keystone_authtoken.password={MARKER}",
            "database.connection=sqlite:////tmp/x",
            "api.bind_port=1",
            f"transport_url=rabbit://u:{MARKER}@h/",
        ],
    )
    assert len(warnings) == 2
    assert "OS_KEYSTONE_AUTHTOKEN__PASSWORD" in warnings[0] and "OS_DEFAULT__TRANSPORT_URL" in warnings[1]
    assert MARKER not in "".join(warnings)


@pytest.mark.filterwarnings("ignore:Query string argument")
@pytest.mark.parametrize(
    ("arguments", "remedy"),
    [
        (
            ["--set", "keystone_authtoken.password={}", "db", "current", "-d", "{url}"],
            "OS_KEYSTONE_AUTHTOKEN__PASSWORD",
        ),
        (["--set", "database.connection={url}?password={}", "db", "current"], "OS_DATABASE__CONNECTION"),
        (["db", "current", "-d", "{url}"], None),
        (["--set", "database.connection={url}", "db", "current"], None),
    ],
)
def test_commands_warn_of_a_secret_on_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], remedy: str | None
) -> None:
    manage([part.format(MARKER, url=f"sqlite:///{tmp_path}/none") for part in arguments])
    warned = [line for line in capsys.readouterr().err.splitlines() if "command line" in line]
    assert len(warned) == (remedy is not None)
    if remedy is not None:
        assert warned[0].startswith("barbtx-manage: ") and remedy in warned[0] and MARKER not in warned[0]


_KNOWN = {environment_name(section, opt.dest) for section, opts in list_opts() for opt in opts}


@settings(deadline=None)
@given(
    name=st.one_of(
        st.sampled_from(sorted(_KNOWN)).flatmap(
            lambda name: st.integers(4, len(name) - 1).map(lambda at: name[:at] + name[at + 1 :])
        ),
        st.from_regex(r"OS_[A-Z]{1,8}__[A-Z_]{1,12}", fullmatch=True),
        st.sampled_from(sorted(_KNOWN)).map(str.lower).map(lambda name: "OS" + name[2:]),
    )
)
def test_an_unknown_variable_of_an_option_s_form_is_refused(name: str) -> None:
    assume(name not in _KNOWN and "__" in name[3:])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(name, MARKER)
        (line,) = refusal()
    assert name in line and MARKER not in line


@pytest.mark.parametrize(
    "name",
    [
        "OS_AUTH_URL",
        "OS_USERNAME",
        "OS_PASSWORD",
        "OS_PROJECT_DOMAIN_NAME",
        "OS_CLOUD",
        "OS_",
        "OS_IDENTITY_API_VERSION",
        "OS__X",
        "XOS_API__BIND_PROT",
    ],
)
def test_variables_of_other_tools_do_not_matter(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "x")
    load()


def test_a_variable_is_one_value_of_an_option_with_several(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OS_SIMPLE_CRYPTO_PLUGIN__KEK", "abc")
    assert load().simple_crypto_plugin.kek == ["abc"]


def test_further_sections_may_be_named_in_any_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path, "[secretstore:hsm]\nglobal_default = true\n")
    assert load([str(path)], ["secretstore.stores_lookup_suffix=hsm"])["secretstore:hsm"].global_default
    monkeypatch.setenv("OS_SECRETSTORE__STORES_LOOKUP_SUFFIX", "hsm")
    assert load([str(path)])["secretstore:hsm"].global_default
    assert load([], ["secretstore:hsm.global_default=true"])["secretstore:hsm"].global_default


def test_all_problems_come_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = written(tmp_path, "[databse]\nx = 1\n[api]\nbind_prot = 1\nbind_port = x\nidle_timeout_seconds = y\n")
    two = tmp_path / "two.conf"
    two.write_text("nonsense\n[api\n= 3\n")
    monkeypatch.setenv("OS_API__BIND_HOTS", "x")
    monkeypatch.setenv("OS_QUEUE__ENABLE", "perhaps")
    lines = refusal(
        [one, two, tmp_path / "none.conf"], ["x", "api.nothing=1", "queue.max_length=0", "quotas.quota_secrets=a"]
    )
    for said in (
        "[databse]",
        "bind_prot",
        "[api] bind_port",
        "idle_timeout_seconds",
        "two.conf, line 1",
        "two.conf, line 2",
        "two.conf, line 3",
        "none.conf",
        "OS_API__BIND_HOTS",
        "OS_QUEUE__ENABLE",
        "--set number 1",
        "'nothing'",
        "max_length",
        "quota_secrets",
    ):
        assert any(said in line for line in lines), (said, lines)
    assert len(lines) == 14


@pytest.mark.parametrize("connection", ["connection = nonsense", ""], ids=["invalid", "missing"])
def test_a_start_names_the_problems_of_files_values_plugins_rules_and_pipeline_at_once(
    tmp_path: Path, connection: str
) -> None:
    (tmp_path / "policy.yaml").write_text('"secret:decyrpt": "@"')
    path = written(
        tmp_path,
        f"[api]\nbind_prot = 1\n[database]\n{connection}\n[queue]\nenable = true\n"
        "[DEFAULT]\ntransport_url = nonsense\napi_paste_config = none.ini\n"
        f"[simple_crypto_plugin]\nkek_file = /none\n[oslo_policy]\npolicy_file = {tmp_path}/policy.yaml\n",
    )
    done = subprocess.run(
        [BIN / "twistd", "-n", "--pidfile=", "barbtx", "--config-file", DEV_CONFIG, "--config-file", path],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=tmp_path,
    )
    lines = done.stderr.strip().splitlines()
    assert done.returncode == 1 and all(line.startswith("barbtx: ") for line in lines)
    for said in ("bind_prot", "[database] connection", "transport_url", "none.ini", "kek_file /none", "secret:decyrpt"):
        assert sum(said in line for line in lines) == 1, (said, lines)
    assert len(lines) == 6


def test_files_of_a_directory_count_after_those_that_are_named(tmp_path: Path) -> None:
    directory = tmp_path / "more"
    directory.mkdir()
    (directory / "20.conf").write_text("[api]\nbind_port = 20\n")
    (directory / "10.conf").write_text("[api]\nbind_port = 10\nmax_waiters = 10\n")
    (directory / "90.txt").write_text("nonsense")
    files = locate([str(written(tmp_path, "[api]\nbind_port = 1\n"))], [str(directory)])
    conf = load(files)
    assert (conf.api.bind_port, conf.api.max_waiters) == (20, 10)
    assert "none.d" in "".join(refusal([Path(path) for path in locate([], [str(tmp_path / "none.d")])]))


def test_without_any_the_usual_places_are_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    before = locate()
    (tmp_path / ".barbtx").mkdir()
    (tmp_path / ".barbtx" / "barbtx.conf").write_text("")
    (tmp_path / ".barbtx" / "barbtx.conf.d").mkdir()
    (tmp_path / ".barbtx" / "barbtx.conf.d" / "a.conf").write_text("")
    assert str(tmp_path) not in "".join(before)
    assert locate() == [str(tmp_path / ".barbtx/barbtx.conf"), str(tmp_path / ".barbtx/barbtx.conf.d/a.conf")]

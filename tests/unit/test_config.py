"""Configuration: what is wrong with it is said in one line, before anything starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from barbtx.config import load
from barbtx.errors import ConfigurationError
from barbtx.identity.options import HELP_TEXTS
from barbtx.options import describe_opts

CONFIG = Path(__file__).parents[2] / "config"


@pytest.mark.parametrize("path", sorted(CONFIG.glob("*.conf")), ids=lambda path: path.name)
def test_the_shipped_files_are_valid(path: Path) -> None:
    load([str(path)])


def test_later_settings_win(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.conf").write_text("[api]\nbind_port = 1\n")
    (tmp_path / "b.conf").write_text("[api]\nbind_port = 2\n")
    files = [str(tmp_path / "a.conf"), str(tmp_path / "b.conf")]
    assert load(files).api.bind_port == 2
    assert load(files, ["api.bind_port=3"]).api.bind_port == 3
    monkeypatch.setenv("OS_API__IDLE_TIMEOUT_SECONDS", "7")
    assert load(files).api.idle_timeout_seconds == 7


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[api]\nbind_prot = 1\n", "did you mean 'bind_port'"),
        ("[databse]\nconnection = x\n", "did you mean 'database'"),
        ("[api]\nbind_port = many\n", "bind_port"),
        ("[api]\nbind_port = 70000\n", "bind_port"),
        ("[queue]\nenable = perhaps\n", "enable"),
        ("no section\n", ""),
    ],
)
def test_a_bad_file_is_refused_in_one_line(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "bad.conf"
    path.write_text(text)
    with pytest.raises(ConfigurationError) as caught:
        load([str(path)])
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_help_texts_that_replace_those_of_a_library_belong_to_options() -> None:
    described = {opt.name: opt.help for section, opts in describe_opts() if section == "oslo_policy" for opt in opts}
    assert {name: described[name] for name in HELP_TEXTS} == HELP_TEXTS


def test_an_option_with_several_values_is_set_by_naming_it_several_times() -> None:
    assert load([], ["oslo_policy.policy_dirs=/one"]).oslo_policy.policy_dirs == ["/one"]
    settings = ["oslo_policy.policy_dirs=/one", "oslo_policy.policy_dirs=/two"]
    assert load([], settings).oslo_policy.policy_dirs == ["/one", "/two"]


@pytest.mark.parametrize("setting", ["api.bind_port", "api.bind_port=x", "api.nothing=1", "nothing.at_all=1", "=", "x"])
def test_a_bad_override_is_refused_in_one_line(setting: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load([], [setting])
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError):
        load([str(tmp_path / "none.conf")])

"""Policy fails closed: what would loosen the rules by mistake is refused, at the start and at a reload."""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.logger import capturedLogs, formatEvent

from barbtx.cmd.manage import main as manage
from barbtx.config import load
from barbtx.errors import ConfigurationError
from barbtx.identity.context import RequestContext
from barbtx.identity.policy import Policy, list_rules
from barbtx.identity.policy_targets import TARGET_KEYS, container_target, order_target, secret_target
from barbtx.model.records import Access, Container, Order, Secret
from tests.unit.test_policy import context

OPERATIONS = [rule.name for rule in list_rules() if ":" in rule.name]


def policy(*texts: str, files: tuple[Path, ...] = ()) -> Policy:
    return Policy.from_config(load([str(path) for path in files], texts))


def refusal(*texts: str, files: tuple[Path, ...] = ()) -> str:
    with pytest.raises(ConfigurationError) as caught:
        policy(*texts, files=files)
    return str(caught.value)


def rules(tmp_path: Path, text: str) -> str:
    """A setting that names a policy file with a text."""
    (tmp_path / "rules.yaml").write_text(text)
    return f"oslo_policy.policy_file={tmp_path}/rules.yaml"


@pytest.mark.parametrize("how", ["setting", "file", "environment"])
@pytest.mark.parametrize(
    ("option", "value", "make"),
    [
        ("policy_file", "none.yaml", lambda path: None),
        ("policy_file", "", lambda path: None),
        ("policy_file", "policy.yaml", lambda path: None),
        ("policy_file", "p", lambda path: path.mkdir()),
        ("policy_file", "p", lambda path: path.write_text("")),
        ("policy_file", "p", lambda path: path.write_text("# no\n")),
        ("policy_file", "p", lambda path: path.symlink_to("gone")),
        ("policy_file", "p", lambda path: path.write_bytes(b"\xff")),
        ("policy_dirs", "none.d", lambda path: None),
        ("policy_dirs", "policy.d", lambda path: None),
        ("policy_dirs", "", lambda path: None),
        ("policy_dirs", "p", lambda path: path.write_text('"orders:get": "@"')),
        ("policy_dirs", "p", lambda path: (path.mkdir(), (path / "a").symlink_to("gone"))),
        ("policy_dirs", "p", lambda path: path.mkdir()),
        ("policy_dirs", "p", lambda path: (path.mkdir(), (path / "b").mkdir())),
        ("policy_dirs", "p", lambda path: (path.mkdir(), (path / ".a.yaml").write_text('"orders:get": "@"'))),
        ("policy_dirs", "p", lambda path: (path.mkdir(), (path / "a.yaml").write_text("# no\n"))),
        (
            "policy_dirs",
            "p",
            lambda path: (
                path.mkdir(),
                (path / "a.yaml").write_text('"orders:get": "@"'),
                (path / "b.yaml").write_text(""),
            ),
        ),
    ],
)
def test_what_the_configuration_names_must_be_there_and_have_rules(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str, option: str, value: str, make: Callable[[Path], object]
) -> None:
    make(tmp_path / "p")
    if how == "setting":
        said = refusal(f"oslo_policy.{option}={tmp_path / value if value == 'p' else value}")
    elif how == "environment":
        monkeypatch.setenv(f"OS_OSLO_POLICY__{option.upper()}", str(tmp_path / value) if value == "p" else value)
        said = refusal()
    else:
        (tmp_path / "barbtx.conf").write_text(f"[oslo_policy]\n{option} = {value}\n")
        said = refusal(files=(tmp_path / "barbtx.conf",))
    assert "\n" not in said and "polic" in said


@pytest.mark.parametrize(
    ("place", "text", "warned"),
    [
        ("policy.yaml", "", True),
        ("policy.yaml", "# no\n", True),
        ("policy.d/a.yaml", "", True),
        ("policy.yaml", "{}", False),
    ],
)
def test_a_file_without_rules_in_a_default_place_is_warned_of(
    tmp_path: Path, place: str, text: str, warned: bool
) -> None:
    (tmp_path / "barbtx.conf").write_text("")
    (tmp_path / "policy.d").mkdir()
    (tmp_path / place).write_text(text)
    with capturedLogs() as events:
        policy(files=(tmp_path / "barbtx.conf",))
    assert any("has no rules" in formatEvent(event) for event in events) is warned


def test_that_there_are_no_rules_can_be_said(tmp_path: Path) -> None:
    (tmp_path / "policy.d").mkdir()
    (tmp_path / "policy.d" / "none.yaml").write_text("{}")
    policy(rules(tmp_path, "{}"), f"oslo_policy.policy_dirs={tmp_path}/policy.d")


def test_the_default_files_need_not_be_there_but_count_if_they_are(tmp_path: Path) -> None:
    (tmp_path / "barbtx.conf").write_text("")
    files = (tmp_path / "barbtx.conf",)
    assert not policy(files=files).allows("orders:get", context("nobody"), {})
    (tmp_path / "policy.yaml").write_text("# nothing\n")
    assert not policy(files=files).allows("orders:get", context("nobody"), {})
    (tmp_path / "policy.d").mkdir()
    assert not policy(files=files).allows("orders:get", context("nobody"), {})
    (tmp_path / "policy.d" / "a.yaml").write_text('"orders:get": "role:nobody"')
    assert policy(files=files).allows("orders:get", context("nobody"), {})
    (tmp_path / "policy.yaml").unlink()
    (tmp_path / "policy.yaml").symlink_to("gone")
    assert not policy(files=files).allows("secrets:get", context("nobody"), {})


@settings(deadline=None)
@given(name=st.sampled_from(OPERATIONS), data=st.data())
def test_a_mistyped_name_is_refused_with_a_close_one(tmp_path_factory, name: str, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(name) - 2))
    typed = name[:at] + name[at + 1] + name[at] + name[at + 2 :]
    if typed in OPERATIONS:
        return
    said = refusal(rules(tmp_path_factory.mktemp("p"), f'"{typed}": "!"\n'))
    assert f"'{typed}'" in said and "did you mean '" in said


@pytest.mark.parametrize(
    "check",
    [
        "rule:absent",
        "not rule:absent",
        "role:a or rule:absent",
        "role:a and (role:b or not rule:absent)",
        "not (role:a or not rule:absent)",
        "rule:helper",
    ],
)
@pytest.mark.parametrize("default_rule", ["", '"default": "@"\n'])
def test_a_rule_that_is_used_must_be_defined(tmp_path: Path, check: str, default_rule: str) -> None:
    text = f'{default_rule}"secrets:get": "{check}"\n"secrets:post": "rule:helper"\n"helper": "not rule:absent"\n'
    said = refusal(rules(tmp_path, text))
    assert "rule:absent" in said and "not defined" in said


def test_an_override_that_breaks_a_shipped_rule_is_refused(tmp_path: Path) -> None:
    said = refusal(
        rules(tmp_path, '"secret_owner": "rule:secret_project_member"\n"secret_project_member": "rule:secret_owner"\n')
    )
    assert "in a cycle" in said


@pytest.mark.parametrize(
    "text",
    [
        '"secrets:get": "rule:secrets:get"',
        '"secrets:get": "not rule:a"\n"a": "rule:b or @"\n"b": "role:x and not rule:a"',
    ],
)
def test_rules_in_a_circle_are_refused(tmp_path: Path, text: str) -> None:
    assert "in a cycle" in refusal(rules(tmp_path, text))


@pytest.mark.parametrize(
    "check",
    [
        "not project_idd:%(target.secret.project_id)s",
        "not user_id:%(target.secret.creator_idd)s",
        "role:a or not (role:b or 'False':%(target.secret.read_project_acces)s)",
        "not rule:owner_of_nothing",
        "not user_id:%(target.secret.creator_id)d",
        "not role:%(target.secret.role)s",
        "not user_id.id:x",
        "not role:",
        "role:a and not user_id:",
        "not user_id:%(target.order.creator_id)s",
        "not (role:a or project_id:%(target.container.project_id)s)",
    ],
)
def test_what_matches_nobody_must_not_stand_under_a_not(tmp_path: Path, check: str) -> None:
    said = refusal(
        rules(
            tmp_path,
            f'"secret:get": "{check}"\n"secret:put": "rule:owner_of_nothing"\n"owner_of_nothing": "usr_id:x"\n',
        )
    )
    assert "everybody passes" in said


@pytest.mark.parametrize(
    ("rule", "kinds"),
    [
        ("secret:decrypt", "secret"),
        ("secret_meta:post", "secret"),
        ("container_secret:post", "container"),
        ("consumer:get", "secret container"),
        ("order:get", "order"),
        ("secrets:post", ""),
        ("project_quotas:put", ""),
        ("secretstore_preferred:post", ""),
        ("transport_key:get", ""),
    ],
)
def test_under_a_not_a_rule_may_ask_of_its_own_objects_only(tmp_path: Path, rule: str, kinds: str) -> None:
    for kind in ("secret", "container", "order"):
        for text in (
            f'"{rule}": "not user_id:%(target.{kind}.creator_id)s"\n',
            f'"{rule}": "not rule:theirs"\n"theirs": "user_id:%(target.{kind}.creator_id)s"\n',
        ):
            if kind in kinds.split():
                policy(rules(tmp_path, text))
            else:
                assert f"there is no 'target.{kind}.creator_id'" in refusal(rules(tmp_path, text))


def test_helpers_of_the_operator_are_kept(tmp_path: Path) -> None:
    found = policy(
        rules(tmp_path, '"secret:get": "rule:team"\n"team": "not rule:guest"\n"guest": "role:guest"\n"default": "!"\n')
    )
    assert found.allows("secret:get", context("x"), {}) and not found.allows("secret:get", context("guest"), {})


def test_a_helper_that_nothing_uses_is_refused(tmp_path: Path) -> None:
    assert "'team'" in refusal(rules(tmp_path, '"team": "rule:guest"\n"guest": "role:guest"\n'))


@pytest.mark.parametrize(
    "text",
    [
        '"secrets:get": "!"\n"secrets:get": "@"\n',
        '{"secrets:get": "!", "secrets:get": "@"}',
        "secrets:get: '!'\n'secrets:get': '@'\n",
        '"secrets:get": "!"\n---\n"secrets:get": "@"\n',
    ],
)
def test_a_rule_must_not_be_there_twice(tmp_path: Path, text: str) -> None:
    assert "policy" in refusal(rules(tmp_path, text))


def test_all_errors_are_named_at_once(tmp_path: Path) -> None:
    lines = refusal(
        rules(tmp_path, '"secret:decyrpt": "!"\n"secrets:get": "not rule:typo"\n"secrets:post": "role:a or or"\n')
    ).splitlines()
    assert len(lines) == 3 and all(line.startswith("policy: ") for line in lines)


@pytest.mark.parametrize(
    ("mode", "directory_mode", "refused"),
    [
        (0o644, 0o755, False),
        (0o640, 0o750, False),
        (0o646, 0o755, True),
        (0o644, 0o757, True),
        (0o644, 0o1777, False),
    ],
)
def test_files_that_others_may_write_are_refused(tmp_path: Path, mode: int, directory_mode: int, refused: bool) -> None:
    directory = tmp_path / "etc"
    directory.mkdir()
    setting = rules(directory, '"orders:get": "!"')
    (directory / "rules.yaml").chmod(mode)
    directory.chmod(directory_mode)
    if refused:
        assert "chmod" in refusal(setting)
    else:
        policy(setting)


@pytest.mark.parametrize(
    "change",
    [
        lambda path: path.unlink(),
        lambda path: path.write_text(""),
        lambda path: path.write_text("# nothing\n"),
        lambda path: path.write_text('"secrets:post": "role:b"'),
        lambda path: path.write_text('"secrets:get": "not rule:x"'),
        lambda path: path.write_text('"secrets:gte": "role:b"'),
        lambda path: path.chmod(0o666),
        lambda path: path.rename(path.with_name(".rules.yaml")),
        lambda path: (path.unlink(), path.mkdir()),
    ],
)
@pytest.mark.parametrize("where", ["named file", "named directory", "default file", "default directory"])
def test_a_reload_that_would_lose_rules_keeps_the_old_ones(
    tmp_path: Path, where: str, change: Callable[[Path], object]
) -> None:
    (tmp_path / "barbtx.conf").write_text("")
    path = {"default file": tmp_path / "policy.yaml", "default directory": tmp_path / "policy.d" / "rules.yaml"}.get(
        where, tmp_path / "rules" / "rules.yaml"
    )
    path.parent.mkdir(exist_ok=True)
    path.write_text('"secrets:get": "role:a"')
    texts = {
        "named file": [f"oslo_policy.policy_file={path}"],
        "named directory": [f"oslo_policy.policy_dirs={path.parent}"],
    }.get(where, [])
    found = policy(*texts, files=(tmp_path / "barbtx.conf",))
    change(path)
    with pytest.raises(ConfigurationError, match="polic"):
        found.reload()
    assert found.allows("secrets:get", context("a"), {}) and not found.allows("secrets:get", context("member"), {})


def test_a_rule_may_move_to_another_file(tmp_path: Path) -> None:
    (tmp_path / "barbtx.conf").write_text("")
    (tmp_path / "policy.yaml").write_text('"secrets:get": "rule:a"\n"a": "role:a"')
    found = policy(files=(tmp_path / "barbtx.conf",))
    (tmp_path / "policy.yaml").unlink()
    (tmp_path / "policy.d").mkdir()
    (tmp_path / "policy.d" / "b.yaml").write_text('"secrets:get": "rule:b"\n"b": "role:b"')
    found.reload()
    assert found.allows("secrets:get", context("b"), {}) and not found.allows("secrets:get", context("a"), {})


@pytest.mark.parametrize("text", ['"secret:decyrpt": "@"', '"secrets:get": "not rule:typo"', ""])
def test_policy_check_says_what_a_start_would(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str) -> None:
    setting = rules(tmp_path, text)
    assert manage(["--set", setting, "policy", "check"]) == 1
    for line in refusal(setting).splitlines():
        assert line in capsys.readouterr().err


_TEXTS = st.sampled_from(["None", "none", "", "u", "NoneNone", "uu"])


@settings(deadline=None)
@given(
    user=st.none() | _TEXTS,
    project=st.none() | _TEXTS,
    creator=st.none() | _TEXTS,
    owner=st.none() | _TEXTS,
    roles=st.frozensets(_TEXTS),
    new=st.booleans(),
)
def test_null_owns_nothing_and_is_owned_by_nobody(
    user: str | None, project: str | None, creator: str | None, owner: str | None, roles: frozenset[str], new: bool
) -> None:
    found = _OWNERS[new]
    who = RequestContext(project, user, roles, "req")
    what = {"target.secret.creator_id": creator, "target.secret.project_id": owner}
    assert found.allows("secret:get", who, what) is (user is not None and user == creator)
    assert found.allows("secret:put", who, what) is (project is not None and project == owner)
    assert found.allows("secret:delete", who, what) is (creator is not None and user == f"{creator}{creator}")
    # A literal keeps its meaning, and so it is how a rule can ask for null.
    assert found.allows("secret_meta:get", who, what) is (creator in (None, "None"))
    assert found.allows("secret_meta:post", who, what) is (
        creator is not None and creator.lower() in {role.lower() for role in roles}
    )


@pytest.fixture(scope="module", autouse=True)
def owners(tmp_path_factory: pytest.TempPathFactory) -> None:
    setting = rules(
        tmp_path_factory.mktemp("owners"),
        "\n".join(
            [
                '"secret:get": "user_id:%(target.secret.creator_id)s"',
                '"secret:put": "project_id:%(target.secret.project_id)s"',
                '"secret:delete": "user_id:%(target.secret.creator_id)s%(target.secret.creator_id)s"',
                '"secret_meta:get": "None:%(target.secret.creator_id)s"',
                '"secret_meta:post": "role:%(target.secret.creator_id)s"',
            ]
        ),
    )
    for new in (True, False):
        _OWNERS[new] = policy(setting, f"oslo_policy.enforce_new_defaults={new}")


_OWNERS: dict[bool, Policy] = {}


def test_the_keys_of_targets_are_the_known_ones(tmp_path: Path) -> None:
    now, access = datetime.datetime(2026, 1, 1), Access(project_access=True, listed=True)
    secret = Secret("s", "p", None, "opaque", None, None, None, None, "u", now, now, access=access)
    container = Container("c", "p", None, "generic", "u", now, now, access=access)
    order = Order("o", "p", "key", "{}", "u", "PENDING", now, now)
    made = {*secret_target(secret), *container_target(container), *order_target(order), "enforce_new_defaults"}
    assert made == TARGET_KEYS


def test_a_file_of_another_user_is_only_logged(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a file away")
    setting = rules(tmp_path, '"orders:get": "!"')
    os.chown(tmp_path / "rules.yaml", 12345, 12345)
    policy(setting)
    (tmp_path / "rules.yaml").chmod(0o664)
    policy(setting)
    os.chown(tmp_path / "rules.yaml", 12345, 54321)
    (tmp_path / "rules.yaml").chmod(0o664)
    assert "the group 54321" in refusal(setting)

"""Which modules the processes import: each of them takes memory and time at every start."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.servers import RabbitMQ
from tests.support.service import Deployment, Process

_IMPORT = re.compile(r"^import time:.*\| *([\w.]+)$", re.MULTILINE)
#: Packages that only commands, other processes or nobody needs, by what would bring them in.
_NEEDLESS = {
    "alembic": "the check of the schema",
    "mako": "alembic",
    "pygments": "alembic",
    "requests": "oslo.policy",
    "urllib3": "oslo.policy",
    "charset_normalizer": "oslo.policy",
    "pkg_resources": "plugins",
    "setuptools": "plugins",
    "barbtx.cmd": "the commands",
    "barbtx.testing": "the tests",
    "barbtx.model.migration.upgrade": "the check of the schema",
    "oslo_config.generator": "oslo.config",
    "oslo_policy.generator": "oslo.policy",
    "oslo_policy.shell": "oslo.policy",
}
_MARIADB = {"pymysql": "the driver", "sqlalchemy.dialects.mysql": "the models"}
_API = {
    "barbtx.api.application": "the API",
    "twisted.web.server": "the API",
    "klein": "the API",
    "werkzeug": "the API",
    "jsonschema_rs": "the API",
    "oslo_policy.policy": "the policy",
    "yaml": "the policy",
}


@pytest.fixture
def deployment(
    tmp_path: Path, database_url: str, rabbitmq: RabbitMQ, name: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Deployment]:
    """A deployment whose processes log what they import."""
    keystone = {"auth_url": "http://127.0.0.1:1", "username": "u", "password": "p", "project_name": "service"}
    settings = {f"keystone_authtoken.{option}": value for option, value in keystone.items()}
    deployment = Deployment(tmp_path, database_url, rabbitmq.url, name, **settings)
    monkeypatch.setenv("PYTHONPROFILEIMPORTTIME", "1")
    yield deployment
    deployment.stop()


def imported(process: Process) -> set[str]:
    """All modules that a process has imported so far, and their packages."""
    names = _IMPORT.findall(process.read_log())
    assert "twisted.logger" in names
    return set(names)


def unwanted(database_url: str) -> dict[str, str]:
    """Modules that no process needs with this database, and where they would come from."""
    return _NEEDLESS | ({} if database_url.startswith("mysql") else _MARIADB)


def test_an_api_process_imports_only_what_it_needs(deployment: Deployment, database_url: str) -> None:
    found = imported(deployment.api(**{"api.auth_strategy": "keystone"}).process)
    assert {"barbtx.api.routes", "oslo_policy.policy"} <= found
    assert {name: why for name, why in unwanted(database_url).items() if name in found} == {}


def test_a_worker_imports_only_what_it_needs(deployment: Deployment, database_url: str) -> None:
    settings = {"keystone_notifications.enable": "true", "keystone_notifications.control_exchange": "amq.topic"}
    found = imported(deployment.worker(**settings))
    assert "workers.orders" in found
    assert {name: why for name, why in (unwanted(database_url) | _API).items() if name in found} == {}

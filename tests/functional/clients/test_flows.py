"""The clients that people use, against barbtx and a real Keystone."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.keystone import PASSWORD, Identity, openstack

FLOWS = Path(__file__).parents[2] / "support" / "flows"


@pytest.mark.parametrize("flow", ["barbicanclient", "castellan"])
def test_a_library_s_main_flows_work(flow: str, identity: Identity, project: str) -> None:
    done = subprocess.run(
        [
            openstack() / "python",
            "-W",
            "ignore",
            FLOWS / f"{flow}_flow.py",
            identity.keystone.url,
            f"{project}-member",
            PASSWORD,
            project,
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr


class Shell:
    """A shell with OpenStack's variables set."""

    def __init__(self, url: str, project: str) -> None:
        self._environment = {
            **os.environ,
            "OS_AUTH_URL": url,
            "OS_USERNAME": f"{project}-member",
            "OS_PASSWORD": PASSWORD,
            "OS_PROJECT_NAME": project,
            "OS_USER_DOMAIN_ID": "default",
            "OS_PROJECT_DOMAIN_ID": "default",
            "OS_IDENTITY_API_VERSION": "3",
            "PYTHONWARNINGS": "ignore",
        }

    def run(self, command: str) -> str:
        done = subprocess.run(
            [openstack() / command.split()[0], *command.split()[1:]],
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        return done.stdout.strip()

    def json(self, command: str) -> Any:
        return json.loads(self.run(f"{command} -f json"))


@pytest.fixture
def shell(identity: Identity, project: str) -> Shell:
    return Shell(identity.keystone.url, project)


def test_the_openstack_command(shell: Shell) -> None:
    ref = shell.json("openstack secret store --name cli --payload the-payload")["Secret href"]
    assert shell.json(f"openstack secret get {ref}")["Name"] == "cli"
    assert shell.run(f"openstack secret get {ref} --payload -f value") == "the-payload"
    assert ref in {row["Secret href"] for row in shell.json("openstack secret list --limit 100")}
    order = shell.json("openstack secret order create key --name k --algorithm aes --bit-length 256 --mode cbc")
    assert shell.json(f"openstack secret order get {order['Order href']}")["Status"] == "ACTIVE"
    assert shell.json("openstack secret order list")
    box = shell.json(f"openstack secret container create --name box --secret first={ref}")["Container href"]
    assert shell.json(f"openstack secret container get {box}")["Name"] == "box"
    assert shell.json("openstack secret container list")
    shell.run(f"openstack acl user add --user somebody --operation-type read {ref}")
    assert "somebody" in shell.run(f"openstack acl get {ref} -f json")
    shell.run(f"openstack acl delete {ref}")
    shell.run(f"openstack secret consumer create --service-type-name s --resource-type t --resource-id 1 {ref}")
    assert "s" in shell.run(f"openstack secret consumer list {ref} -f value")
    shell.run(f"openstack secret consumer delete --service-type-name s --resource-type t --resource-id 1 {ref}")
    shell.run(f"openstack secret container delete {box}")
    shell.run(f"openstack secret order delete {order['Order href']}")
    shell.run(f"openstack secret delete {ref}")


def test_the_barbican_command(shell: Shell) -> None:
    ref = shell.json("barbican secret store --name cli --payload the-payload")["Secret href"]
    assert shell.run(f"barbican secret get {ref} --payload -f value") == "the-payload"
    assert ref in {row["Secret href"] for row in shell.json("barbican secret list --limit 100")}
    shell.run(f"barbican secret delete {ref}")

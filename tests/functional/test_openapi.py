"""The service describes itself, and keeps to the description."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest_twisted
import treq

from tests.conftest import unique
from tests.support.service import BIN, Api

ROLES = "admin,creator,key-manager:service-admin"
CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,"
    "response_schema_conformance"
)


@pytest_twisted.ensureDeferred
async def test_the_description_has_every_route_and_the_schemas_that_requests_go_through(service: Api) -> None:
    reply = await treq.get(f"{service.url}/openapi.json", persistent=False)
    document = await treq.json_content(reply)
    assert reply.code == 200 and document["openapi"].startswith("3.1")
    body = document["paths"]["/v1/secrets"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert body["properties"]["bit_length"] == {"type": "integer", "minimum": 1, "maximum": 32767}
    order = document["paths"]["/v1/orders"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert "algorithm" in order["properties"]["meta"]["required"]
    for path, parameter in (
        ("/v1/secrets/{secret_id}/metadata/{key}", "key"),
        ("/v1/project-quotas/{project_id}", "project_id"),
    ):
        assert parameter in {given["name"] for given in document["paths"][path]["parameters"]}


@pytest_twisted.ensureDeferred
async def test_schemathesis_finds_nothing(service: Api, tmp_path: Path) -> None:
    api = service.of(unique())
    secrets = [await api.store() for _ in range(40)]
    containers = [(await api.post("/v1/containers", {"type": "generic"})).json["container_ref"] for _ in range(20)]
    orders = [await api.order() for _ in range(10)]
    keys = [
        (await api.post("/v1/transport_keys", {"plugin_name": "p", "transport_key": "k"}, roles=ROLES)).json[
            "transport_key_ref"
        ]
        for _ in range(10)
    ]
    ids = {"secret_id": secrets, "container_id": containers, "order_id": orders, "key_id": keys}
    lines = [f"{name} = [{', '.join(repr(ref.rpartition('/')[2]) for ref in refs)}]" for name, refs in ids.items()]
    config = tmp_path / "schemathesis.toml"
    config.write_text("\n".join(["[parameters]", *lines]) + "\n")
    for arguments in ([], ["--config-file", config]):
        done = subprocess.run(
            [
                BIN / "schemathesis",
                *arguments,
                "run",
                f"{api.url}/openapi.json",
                "--checks",
                CHECKS,
                "--max-examples",
                "10",
                "--seed",
                "1",
                "--no-color",
                "--header",
                f"X-Project-Id: {api.project}",
                "--header",
                f"X-Roles: {ROLES}",
            ],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            timeout=300,
        )
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert "Traceback" not in api.process.read_log()

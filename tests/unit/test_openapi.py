"""The OpenAPI document explains what it lists."""

from __future__ import annotations

from barbtx.api.openapi import describe_service


def test_every_operation_has_a_summary_and_every_parameter_a_description() -> None:
    for path, methods in describe_service()["paths"].items():
        assert all(given["description"] for given in methods.pop("parameters", [])), path
        for method, operation in methods.items():
            assert operation["summary"], (method, path)
            assert all(given["description"] for given in operation.get("parameters", [])), (method, path)

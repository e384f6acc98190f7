"""ACLs of secrets and containers. Source: the contract, section 6."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from barbtx.api.controllers.containers import ContainerResource
from barbtx.api.controllers.secrets import SecretResource
from barbtx.api.dispatch import Call, Controller, ResolvedResource, operation
from barbtx.api.responses import Response
from barbtx.api.schemas import responses
from barbtx.api.schemas.acls import ACL
from barbtx.model.records import Acl
from barbtx.model.repositories.acls import AclRepo

_UNSET = {"read": {"project-access": True}}


def _document(acl: Acl | None) -> dict[str, Any]:
    if acl is None:
        return _UNSET
    return {
        "read": {
            "project-access": acl.project_access,
            "users": list(acl.users),
            "created": acl.created.isoformat(),
            "updated": acl.updated.isoformat(),
        }
    }


def _controller(kind: str, base: type[Controller]) -> type[Controller]:
    """The controller of ``…/{id}/acl`` for one kind of object."""
    title = kind.capitalize()

    def repo(call: Call) -> AclRepo:
        return getattr(call.dependencies, f"{kind}_acls")

    def written(call: Call, found: ResolvedResource) -> Response:
        return Response(document={"acl_ref": f"{call.ref(f'{kind}s', found.object.id)}/acl"})

    class AclController(base):
        name = f"{title}ACL(s) retrieval"

        @operation(name, f"{kind}_acls:get", answer=responses.ACL)
        async def on_get(self, call: Call, found: ResolvedResource) -> Response:
            return Response(document=_document(await repo(call).get(found.object.id)))

        @operation(f"{title}ACL(s) update", f"{kind}_acls:put_patch", body=ACL, answer=responses.ACL_REF)
        async def on_put(self, call: Call, found: ResolvedResource, document: Mapping[str, Any]) -> Response:
            read = document.get("read")
            if read:
                await repo(call).replace(found.object.id, read.get("project-access", True), read.get("users", []))
            else:
                await repo(call).remove(found.object.id)
            return written(call, found)

        @operation(f"{title}ACL(s) update", f"{kind}_acls:put_patch", body=ACL, answer=responses.ACL_REF)
        async def on_patch(self, call: Call, found: ResolvedResource, document: Mapping[str, Any]) -> Response:
            read = document.get("read")
            if read:
                await repo(call).merge(found.object.id, read.get("project-access"), read.get("users"))
            return written(call, found)

        @operation(f"{title}ACL(s) deletion", f"{kind}_acls:delete", answer=responses.NULL, refers=False)
        async def on_delete(self, call: Call, found: ResolvedResource) -> Response:
            await repo(call).remove(found.object.id)
            return Response(content=b"null")

    AclController.__name__ = AclController.__qualname__ = f"{title}AclController"
    return AclController


SecretAclController = _controller("secret", SecretResource)
ContainerAclController = _controller("container", ContainerResource)

"""ACLs of secrets and containers (contract, section 6)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from barbtx.api.call import Call
from barbtx.api.controllers.containers import ContainerResource
from barbtx.api.controllers.secrets import SecretResource
from barbtx.api.operation import Operation
from barbtx.api.responses import Response
from barbtx.api.schemas import responses
from barbtx.api.schemas.acls import ACL
from barbtx.model.records import Acl, Container, Secret
from barbtx.model.repositories.acls import AclRepo

_DEFAULT = {"read": {"project-access": True}}


def _acl_document(acl: Acl | None) -> dict[str, Any]:
    if acl is None:
        return _DEFAULT
    return {
        "read": {
            "project-access": acl.project_access,
            "users": list(acl.users),
            "created": acl.created.isoformat(),
            "updated": acl.updated.isoformat(),
        }
    }


class AclHandlers:
    """Handlers for ``…/{id}/acl``, which the controllers of secrets' and containers' ACLs share.

    :cvar collection: the API's name of the collection of the objects.
    """

    collection: str

    def repository(self, call: Call) -> AclRepo:
        """Return the repository of the ACLs of this kind of object."""
        raise NotImplementedError

    def _updated(self, call: Call, owner: Secret | Container) -> Response:
        return Response(document={"acl_ref": f"{call.ref(self.collection, owner.id)}/acl"})

    async def get_acl(self, call: Call, owner: Secret | Container) -> Response:
        """Return the ACL; the default ACL if none was set."""
        return Response(document=_acl_document(await self.repository(call).get(owner.id)))

    async def replace_acl(self, call: Call, owner: Secret | Container, document: Mapping[str, Any]) -> Response:
        """Replace the ACL. A document without ``read`` removes it."""
        read = document.get("read")
        if read:
            await self.repository(call).replace(owner.id, read.get("project-access", True), read.get("users", []))
        else:
            await self.repository(call).remove(owner.id)
        return self._updated(call, owner)

    async def merge_acl(self, call: Call, owner: Secret | Container, document: Mapping[str, Any]) -> Response:
        """Change the properties of the ACL that the document has."""
        read = document.get("read")
        if read:
            await self.repository(call).merge(owner.id, read.get("project-access"), read.get("users"))
        return self._updated(call, owner)

    async def delete_acl(self, call: Call, owner: Secret | Container) -> Response:
        """Remove the ACL, so that the default applies."""
        await self.repository(call).remove(owner.id)
        return Response(content=b"null")


class SecretAclController(AclHandlers, SecretResource):
    """``/v1/secrets/{id}/acl``"""

    name = "SecretACL(s) retrieval"
    collection = "secrets"

    def repository(self, call: Call) -> AclRepo:
        """Return the repository of secrets' ACLs."""
        return call.dependencies.repositories.secret_acls

    on_get = Operation(name, "secret_acls:get", title="Show the ACL of a secret", response=responses.ACL)(
        AclHandlers.get_acl
    )
    on_put = Operation(
        "SecretACL(s) update",
        "secret_acls:put_patch",
        title="Replace the ACL of a secret",
        body=ACL,
        response=responses.ACL_REF,
    )(AclHandlers.replace_acl)
    on_patch = Operation(
        "SecretACL(s) update",
        "secret_acls:put_patch",
        title="Change the ACL of a secret",
        body=ACL,
        response=responses.ACL_REF,
    )(AclHandlers.merge_acl)
    on_delete = Operation(
        "SecretACL(s) deletion",
        "secret_acls:delete",
        title="Remove the ACL of a secret",
        response=responses.NULL,
        has_references=False,
    )(AclHandlers.delete_acl)


class ContainerAclController(AclHandlers, ContainerResource):
    """``/v1/containers/{id}/acl``"""

    name = "ContainerACL(s) retrieval"
    collection = "containers"

    def repository(self, call: Call) -> AclRepo:
        """Return the repository of containers' ACLs."""
        return call.dependencies.repositories.container_acls

    on_get = Operation(name, "container_acls:get", title="Show the ACL of a container", response=responses.ACL)(
        AclHandlers.get_acl
    )
    on_put = Operation(
        "ContainerACL(s) update",
        "container_acls:put_patch",
        title="Replace the ACL of a container",
        body=ACL,
        response=responses.ACL_REF,
    )(AclHandlers.replace_acl)
    on_patch = Operation(
        "ContainerACL(s) update",
        "container_acls:put_patch",
        title="Change the ACL of a container",
        body=ACL,
        response=responses.ACL_REF,
    )(AclHandlers.merge_acl)
    on_delete = Operation(
        "ContainerACL(s) deletion",
        "container_acls:delete",
        title="Remove the ACL of a container",
        response=responses.NULL,
        has_references=False,
    )(AclHandlers.delete_acl)

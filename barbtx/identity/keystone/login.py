"""The request with which barbtx authenticates itself to Keystone."""

from __future__ import annotations

from typing import Any

from oslo_config.cfg import ConfigOpts

from barbtx.errors import ConfigurationError


def login_document(options: ConfigOpts.GroupAttr, *, system: bool = False) -> dict[str, Any]:
    """Make the body of ``POST /v3/auth/tokens`` for the service's own token.

    :param options: the ``[keystone_authtoken]`` section.
    :param system: whether the token is for the whole system instead of the service's project.
    :raises ConfigurationError: an option is missing that the authentication method needs.
    """

    def require(*names: str) -> None:
        if not any(getattr(options, name) for name in names):
            raise ConfigurationError(
                f"[keystone_authtoken] {' or '.join(names)} must be set for auth_type {options.auth_type}"
            )

    if options.auth_type == "v3applicationcredential":
        if system:
            raise ConfigurationError(
                "[keystone_authtoken] auth_type must be password for a token with system scope: "
                "application credentials are for a project"
            )
        require("application_credential_id", "application_credential_name")
        require("application_credential_secret")
        credential: dict[str, Any] = {"secret": options.application_credential_secret}
        if options.application_credential_id:
            credential["id"] = options.application_credential_id
        else:
            require("username", "user_id")
            credential |= {"name": options.application_credential_name, "user": _user(options)}
        return {"auth": {"identity": {"methods": ["application_credential"], "application_credential": credential}}}
    require("username", "user_id")
    require("password")
    require("project_name", "project_id")
    project = (
        {"id": options.project_id}
        if options.project_id
        else {"name": options.project_name, "domain": _domain(options, "project")}
    )
    user = {**_user(options), "password": options.password}
    scope = {"system": {"all": True}} if system else {"project": project}
    return {"auth": {"identity": {"methods": ["password"], "password": {"user": user}}, "scope": scope}}


def _user(options: ConfigOpts.GroupAttr) -> dict[str, Any]:
    if options.user_id:
        return {"id": options.user_id}
    return {"name": options.username, "domain": _domain(options, "user")}


def _domain(options: ConfigOpts.GroupAttr, kind: str) -> dict[str, str]:
    name, domain_id = getattr(options, f"{kind}_domain_name"), getattr(options, f"{kind}_domain_id")
    return {"name": name} if name and not domain_id else {"id": domain_id or "default"}

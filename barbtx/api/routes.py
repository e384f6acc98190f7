"""Routes, and the Klein applications that serve them behind the pipelines."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

from klein import Klein
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from twisted.web.iweb import IRequest

from barbtx.api.controllers.acls import ContainerAclController, SecretAclController
from barbtx.api.controllers.consumers import (
    ContainerConsumerController,
    ContainerConsumersController,
    SecretConsumerController,
    SecretConsumersController,
)
from barbtx.api.controllers.containers import ContainerController, ContainersController, ContainerSecretsController
from barbtx.api.controllers.orders import OrderController, OrdersController
from barbtx.api.controllers.quotas import ProjectQuotasController, ProjectsQuotasController, QuotasController
from barbtx.api.controllers.secret_stores import (
    GlobalDefaultController,
    PreferredStoreController,
    SecretStoreController,
    SecretStoresController,
    StorePreferenceController,
)
from barbtx.api.controllers.secrets import SecretController, SecretPayloadController, SecretsController
from barbtx.api.controllers.transport_keys import TransportKeyController, TransportKeysController
from barbtx.api.controllers.user_metadata import SecretMetadataController, SecretMetadatumController
from barbtx.api.controllers.versions import VersionController, VersionsController
from barbtx.api.dependencies import Dependencies
from barbtx.api.dispatch import Controller, Endpoint
from barbtx.api.http import Request
from barbtx.api.responses import write_error
from barbtx.api.root import Builder
from barbtx.errors import NotFound, to_error_response

ROOT_ROUTES: Mapping[str, type[Controller[Any]]] = {
    "/": VersionsController,
}

V1_ROUTES: Mapping[str, type[Controller[Any]]] = {
    "/v1": VersionController,
    "/v1/secrets": SecretsController,
    "/v1/secrets/<secret_id>": SecretController,
    "/v1/secrets/<secret_id>/payload": SecretPayloadController,
    "/v1/secrets/<secret_id>/metadata": SecretMetadataController,
    "/v1/secrets/<secret_id>/metadata/<key>": SecretMetadatumController,
    "/v1/secrets/<secret_id>/acl": SecretAclController,
    "/v1/secrets/<secret_id>/consumers": SecretConsumersController,
    "/v1/secrets/<secret_id>/consumers/<consumer_id>": SecretConsumerController,
    "/v1/containers": ContainersController,
    "/v1/containers/<container_id>": ContainerController,
    "/v1/containers/<container_id>/secrets": ContainerSecretsController,
    "/v1/containers/<container_id>/secrets/<path:rest>": ContainerSecretsController,
    "/v1/containers/<container_id>/acl": ContainerAclController,
    "/v1/containers/<container_id>/consumers": ContainerConsumersController,
    "/v1/containers/<container_id>/consumers/<consumer_id>": ContainerConsumerController,
    "/v1/orders": OrdersController,
    "/v1/orders/<order_id>": OrderController,
    "/v1/quotas": QuotasController,
    "/v1/project-quotas": ProjectsQuotasController,
    "/v1/project-quotas/<project_id>": ProjectQuotasController,
    "/v1/transport_keys": TransportKeysController,
    "/v1/transport_keys/<key_id>": TransportKeyController,
    "/v1/secret-stores": SecretStoresController,
    "/v1/secret-stores/global-default": GlobalDefaultController,
    "/v1/secret-stores/preferred": PreferredStoreController,
    "/v1/secret-stores/<store_id>": SecretStoreController,
    "/v1/secret-stores/<store_id>/preferred": StorePreferenceController,
}


def make_app(routes: Mapping[str, type[Controller[Any]]], dependencies: Dependencies) -> Klein:
    """Make the Klein app for routes. A route's controller handles all methods; errors are JSON, as everywhere."""
    app = Klein()
    for path, controller in routes.items():
        app.route(path, endpoint=path)(_function(Endpoint(controller(), dependencies)))

    # Endpoints handle their own errors, so only routing fails here.
    @app.handle_errors(Exception)
    def not_found(request: IRequest, failure: Failure) -> bytes:
        # Klein passes on the requests that the site makes.
        return write_error(cast(Request, request), to_error_response(NotFound("There is no such resource."), "Request"))

    return app


def _function(endpoint: Endpoint) -> Callable[..., Deferred[bytes]]:
    """Wrap an endpoint in a function: Klein sets attributes on it, which a frozen object does not allow."""

    def handle(request: Request, **ids: str) -> Deferred[bytes]:
        return endpoint(request, **ids)

    return handle


def _builder(routes: Mapping[str, type[Controller[Any]]]) -> Builder:
    return lambda context: context.make_application(routes)


def versions_app_factory(global_conf: object) -> Builder:
    """Make the builder of the resource at ``/``. A PasteDeploy application factory."""
    return _builder(ROOT_ROUTES)


def v1_app_factory(global_conf: object) -> Builder:
    """Make the builder of the resource at ``/v1``. A PasteDeploy application factory."""
    return _builder(V1_ROUTES)

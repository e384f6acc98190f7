"""The commands ``twistd barbtx``, which runs the API, and ``twistd barbtx-worker``, which runs a worker."""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.application.service import IService, IServiceMaker
from twisted.plugin import IPlugin
from zope.interface import implementer

if TYPE_CHECKING:
    from barbtx.twistd import Options


class _Maker:
    """Imports barbtx when its command runs, because twistd imports all plugins for each of its commands."""

    @property
    def options(self) -> type[Options]:
        from barbtx.twistd import Options

        return Options


@implementer(IServiceMaker, IPlugin)
class _ApiMaker(_Maker):
    tapname = "barbtx"
    description = "barbtx key manager: API process"

    def makeService(self, options: Options) -> IService:
        """Make the services of an API process, or of the parent of several."""
        from barbtx.api.application import API_PARTS, make_api_processes
        from barbtx.twistd import make_service

        return make_service(options, make_api_processes, API_PARTS)


@implementer(IServiceMaker, IPlugin)
class _WorkerMaker(_Maker):
    tapname = "barbtx-worker"
    description = "barbtx key manager: worker process"

    def makeService(self, options: Options) -> IService:
        """Make the services of a worker process."""
        from barbtx.twistd import make_service
        from workers.application import make_worker

        return make_service(options, lambda reactor, runtime, _: make_worker(reactor, runtime))


api = _ApiMaker()
worker = _WorkerMaker()

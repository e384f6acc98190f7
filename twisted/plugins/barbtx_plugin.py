"""``twistd barbtx``, the API, and ``twistd barbtx-worker``, the consumers."""

from twisted.application.service import IServiceMaker
from twisted.plugin import IPlugin
from zope.interface import implementer


class _Maker:
    """Imports barbtx only when it is wanted: twistd reads every plugin it finds, for each of its commands."""

    @property
    def options(self):
        from barbtx.twistd import Options

        return Options


@implementer(IServiceMaker, IPlugin)
class _ApiMaker(_Maker):
    tapname = "barbtx"
    description = "barbtx, the key manager: its API"

    def makeService(self, options):
        from barbtx.api.application import API_PARTS, make_api
        from barbtx.twistd import make_service

        return make_service(options, make_api, API_PARTS)


@implementer(IServiceMaker, IPlugin)
class _WorkerMaker(_Maker):
    tapname = "barbtx-worker"
    description = "barbtx, the key manager: a worker for its orders"

    def makeService(self, options):
        from barbtx.twistd import make_service
        from workers.application import make_worker

        return make_service(options, make_worker)


api = _ApiMaker()
worker = _WorkerMaker()

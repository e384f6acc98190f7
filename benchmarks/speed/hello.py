"""The smallest Klein application, in one process: ``python -m benchmarks.speed.hello PORT [--no-log]``.

It is started as Klein's documentation shows, and then writes a line of access log for each request, as barbtx does.
With ``--no-log`` it writes none.
"""

from __future__ import annotations

import argparse

from klein import Klein
from twisted.internet import endpoints, reactor
from twisted.web.server import Request, Site

app = Klein()


@app.route("/")
def hello(request: Request) -> bytes:
    """Answer every request alike."""
    return b"hello"


class _SiteWithoutLog(Site):
    def log(self, request: Request) -> None:
        """Do not format a line."""


def main() -> None:
    """Serve on the loopback interface until the process is ended."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("--no-log", action="store_true")
    options = parser.parse_args()
    if options.no_log:
        endpoint = endpoints.TCP4ServerEndpoint(reactor, options.port, interface="127.0.0.1")
        endpoint.listen(_SiteWithoutLog(app.resource()))
        reactor.run()
    else:
        app.run("127.0.0.1", options.port)


if __name__ == "__main__":
    main()

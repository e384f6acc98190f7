"""Loading the pipeline that an ini file describes, with PasteDeploy."""

from __future__ import annotations

import configparser
import os

from oslo_config import cfg
from paste.deploy.loadwsgi import ConfigLoader
from twisted.web.resource import IResource

from barbtx.api.dependencies import Dependencies
from barbtx.errors import ConfigurationError
from barbtx.files import write_problems


def load_pipeline(dependencies: Dependencies) -> IResource:
    """The resource that ``[DEFAULT] api_paste_config`` describes under the name of ``[api] auth_strategy``.

    :raises ConfigurationError: the file is missing, can be written by others, or does not describe one.
    """
    conf: cfg.ConfigOpts = dependencies.conf
    path = conf.find_file(conf.api_paste_config)
    if path is None:
        raise ConfigurationError(f"api_paste_config: there is no file {conf.api_paste_config}")
    problems = write_problems(path)
    if problems:
        raise ConfigurationError(*problems)
    try:
        path = os.path.abspath(path)
        loader = ConfigLoader(path)
        # PasteDeploy interpolates these like the file's own values, although a path may have a % in it.
        loader.update_defaults({"here": os.path.dirname(path).replace("%", "%%"), "__file__": path.replace("%", "%%")})
        build = loader.get_app(conf.api.auth_strategy)
    except (LookupError, ImportError, ValueError, TypeError, OSError, configparser.Error) as problem:
        raise ConfigurationError(f"{path}: {' '.join(str(problem).split())}") from None
    return build(dependencies)

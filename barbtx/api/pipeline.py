"""Loading the pipeline that an ini file describes, with PasteDeploy."""

from __future__ import annotations

import os

from oslo_config import cfg
from paste.deploy import loadapp
from twisted.web.resource import IResource

from barbtx.api.services import Services
from barbtx.errors import ConfigurationError
from barbtx.files import write_problems


def load_pipeline(services: Services) -> IResource:
    """The resource that ``[DEFAULT] api_paste_config`` describes under the name of ``[api] auth_strategy``.

    :raises ConfigurationError: the file is missing, can be written by others, or does not describe one.
    """
    conf: cfg.ConfigOpts = services.conf
    path = conf.find_file(conf.api_paste_config)
    if path is None:
        raise ConfigurationError(f"api_paste_config: there is no file {conf.api_paste_config}")
    problems = write_problems(path)
    if problems:
        raise ConfigurationError(*problems)
    try:
        build = loadapp(f"config:{os.path.abspath(path)}", name=conf.api.auth_strategy)
    except (LookupError, ImportError, ValueError, TypeError, OSError) as problem:
        raise ConfigurationError(f"{path}: {' '.join(str(problem).split())}") from None
    return build(services)

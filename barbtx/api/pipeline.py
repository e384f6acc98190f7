"""Loads the request pipeline from a PasteDeploy configuration file."""

from __future__ import annotations

import configparser
import os

from oslo_config import cfg
from paste.deploy.loadwsgi import ConfigLoader
from twisted.web.resource import IResource

from barbtx.api.dependencies import PipelineContext
from barbtx.api.root import Builder
from barbtx.errors import ConfigurationError, one_line
from barbtx.files import write_problems


def load_pipeline(context: PipelineContext) -> IResource:
    """Build the composite that ``[api] auth_strategy`` names in the file ``[DEFAULT] api_paste_config``.

    :raises ConfigurationError: the file is missing, is writable by other users, or does not define the composite; or
        a pipeline step rejects the configuration.
    """
    conf: cfg.ConfigOpts = context.conf
    path = conf.find_file(conf.api_paste_config)
    if path is None:
        raise ConfigurationError(f"api_paste_config: there is no file {conf.api_paste_config}")
    problems = write_problems(path)
    if problems:
        raise ConfigurationError(*problems)
    try:
        path = os.path.abspath(path)
        loader = ConfigLoader(path)
        # PasteDeploy interpolates these values, so a % in a path must be escaped.
        loader.update_defaults({"here": os.path.dirname(path).replace("%", "%%"), "__file__": path.replace("%", "%%")})
        build: Builder = loader.get_app(conf.api.auth_strategy)
    except (LookupError, ImportError, ValueError, TypeError, OSError, configparser.Error) as problem:
        raise ConfigurationError(f"{path}: {one_line(problem)}") from None
    return build(context)

"""The list of all options. Each is declared in the module that uses it."""

from __future__ import annotations

import copy

from oslo_config import cfg

from barbtx import files, lifecycle, limits, log
from barbtx.api import cors, fingerprints, idempotency, order_watch
from barbtx.api import options as api
from barbtx.identity import options as identity
from barbtx.identity.keystone import options as keystone
from barbtx.model import database
from barbtx.plugin import manager
from barbtx.plugin.crypto import simple_crypto
from barbtx.plugin.stores import store_crypto
from barbtx.queue import options as queue

_MODULES = (
    files,
    limits,
    log,
    lifecycle,
    api,
    cors,
    idempotency,
    fingerprints,
    order_watch,
    identity,
    keystone,
    database,
    manager,
    simple_crypto,
    store_crypto,
    queue,
)


def list_opts() -> list[tuple[str, list[cfg.Opt]]]:
    """Return the options of each section."""
    sections: dict[str, list[cfg.Opt]] = {}
    for module in _MODULES:
        for section, opts in module.OPTIONS.items():
            sections.setdefault(section, []).extend(opts)
    return list(sections.items())


def describe_opts() -> list[tuple[str, list[cfg.Opt]]]:
    """Return the options of each section for ``oslo-config-generator`` and the documentation.

    Unlike those of :func:`list_opts`, they cannot be registered together with a library's options of the same names,
    whose help texts differ.
    """
    return [(section, [_describe(opt) for opt in opts]) for section, opts in list_opts()]


def _describe(opt: cfg.Opt) -> cfg.Opt:
    described = copy.copy(opt)
    described.help = identity.HELP_TEXTS.get(opt.name, opt.help)
    return described

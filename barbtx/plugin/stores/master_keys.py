"""Whether crypto plugins have the master keys that a database needs.

Each master key in use is tried on a project key. As long as there is none, the plugin's canary decides, a wrapped key of no
project, which the first process writes.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

from oslo_config import cfg
from twisted.internet.defer import maybeDeferred

from barbtx.errors import ConfigurationError
from barbtx.model.records import KEKMeta
from barbtx.model.repositories.keks import KEKRepo
from barbtx.plugin.interface.crypto import DecryptionFailed, IMasterKeys, MasterKeyUnavailable
from barbtx.plugin.manager import full_name

_NO_PROJECT = "barbtx canary"


async def check_master_keys(keks: KEKRepo, plugins: Sequence[Any]) -> None:
    """Make sure that the plugins can unwrap the keys in the database; write the canaries that are not there yet.

    Nothing is written unless all project keys can be unwrapped.

    :raises ConfigurationError: they cannot; the text names every master key that is missing.
    """
    missing: dict[str, None] = {}
    proven = set()
    for plugin in plugins:
        for project_id, kek in await keks.samples(full_name(plugin)):
            await _try(plugin, kek, project_id, missing)
            proven.add(full_name(plugin))
    _refuse(missing)
    for plugin in plugins:
        name = full_name(plugin)
        canary = await keks.canary(name) or await keks.add_canary(await _new_canary(plugin))
        await _try(plugin, canary, _NO_PROJECT, missing)
        if name not in proven:
            _refuse(missing)
        # Otherwise the canary would need a master key for ever that nothing else needs any more.
        if missing or (IMasterKeys.providedBy(plugin) and canary.master_key_id != plugin.current_master_key_id()):
            await keks.replace_canary(canary, await _new_canary(plugin))
            missing.clear()


def reload_keys(plugin: Any, conf: cfg.ConfigOpts) -> Any:
    """A plugin with the master keys that there are now; itself, if it cannot read them again. It may block.

    :raises ConfigurationError: they cannot be read.
    """
    return plugin.reload_keys(conf) if IMasterKeys.providedBy(plugin) else plugin


async def _new_canary(plugin: Any) -> KEKMeta:
    canary_id = str(uuid.uuid4())
    blank = KEKMeta(canary_id, full_name(plugin), f"canary-{canary_id}", "", 0, "", "")
    return await maybeDeferred(plugin.bind_kek_metadata, blank, _NO_PROJECT)


async def _try(plugin: Any, kek: KEKMeta, project_id: str, missing: dict[str, None]) -> None:
    try:
        await maybeDeferred(plugin.check_kek, kek, project_id)
    except MasterKeyUnavailable as problem:
        missing[problem.key_id] = None
    except DecryptionFailed:
        raise ConfigurationError(
            f"the configured master key does not open the project keys in this database (tried: key {kek.id}); is it "
            "another database's, or was the row changed?"
        ) from None


def _refuse(missing: dict[str, None]) -> None:
    if missing:
        raise ConfigurationError(
            "the configured master key does not open the project keys in this database, which needs the master keys with "
            f"the ids {', '.join(missing)}; is it another database's, or is one of several missing?"
        )

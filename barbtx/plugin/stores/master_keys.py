"""Checks that crypto plugins have the master keys (MKEKs) that a database needs.

Each master key that is in use is tested with a project key. In addition, the database holds a canary for each plugin: a
wrapped key that belongs to no project. The first process writes it; while there are no project keys, it alone decides.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence

from oslo_config import cfg

from barbtx.errors import ConfigurationError
from barbtx.model.records import KEKMeta
from barbtx.model.repositories.keks import KEKRepo
from barbtx.plugin.interface.crypto import DecryptionFailed, ICryptoPlugin, IMasterKeys, MasterKeyUnavailable
from barbtx.plugin.interface.results import resolve
from barbtx.plugin.manager import full_name

_NO_PROJECT = "barbtx canary"


async def check_master_keys(keks: KEKRepo, plugins: Sequence[ICryptoPlugin]) -> None:
    """Check that the plugins can unwrap the keys in the database, and write the canaries that are not there yet.

    Nothing is written unless all project keys can be unwrapped.

    :raises ConfigurationError: they cannot; the text names every master key that is missing.
    """
    missing: dict[str, None] = {}
    proven = set()
    for plugin in plugins:
        for project_id, kek in await keks.samples(full_name(plugin)):
            await _unwrap(plugin, kek, project_id, missing)
            proven.add(full_name(plugin))
    _raise_if_any(missing)
    for plugin in plugins:
        name = full_name(plugin)
        canary = await keks.canary(name) or await keks.add_canary(await _new_canary(plugin))
        await _unwrap(plugin, canary, _NO_PROJECT, missing)
        if name not in proven:
            _raise_if_any(missing)
        # A canary under a retired master key is replaced: otherwise that key would be needed for the canary only.
        if missing or (IMasterKeys.providedBy(plugin) and canary.master_key_id != plugin.current_master_key_id()):
            await keks.replace_canary(canary, await _new_canary(plugin))
            missing.clear()


def reload_keys(plugin: ICryptoPlugin, conf: cfg.ConfigOpts) -> ICryptoPlugin:
    """Return a plugin with the master keys that are configured now; the same one if it cannot reload them. May block.

    :raises ConfigurationError: they cannot be read.
    """
    return plugin.reload_keys(conf) if IMasterKeys.providedBy(plugin) else plugin


async def _new_canary(plugin: ICryptoPlugin) -> KEKMeta:
    canary_id = str(uuid.uuid4())
    blank = KEKMeta(canary_id, full_name(plugin), f"canary-{canary_id}", "", 0, "", "")
    return await resolve(plugin.bind_kek_metadata(blank, _NO_PROJECT))


async def _unwrap(plugin: ICryptoPlugin, kek: KEKMeta, project_id: str, missing: dict[str, None]) -> None:
    """Try to unwrap a key; record the id of its master key if that is missing."""
    try:
        await resolve(plugin.check_kek(kek, project_id))
    except MasterKeyUnavailable as problem:
        missing[problem.key_id] = None
    except DecryptionFailed:
        raise ConfigurationError(
            f"the configured master key cannot unwrap the project key {kek.id} in this database; does the master key "
            "belong to another database, or was the row changed?"
        ) from None


def _raise_if_any(missing: dict[str, None]) -> None:
    if missing:
        raise ConfigurationError(
            "the configured master keys cannot unwrap all project keys in this database; the ids of the missing "
            f"master keys: {', '.join(missing)}"
        )

"""castellan's Barbican key manager.

Runs in the clients' environment: ``castellan_flow.py AUTH_URL USER PASSWORD PROJECT``.
"""

import sys

from castellan import key_manager, options
from castellan.common.credentials.keystone_password import KeystonePassword
from castellan.common.exception import ManagedObjectNotFoundError
from castellan.common.objects.opaque_data import OpaqueData
from castellan.common.objects.passphrase import Passphrase
from castellan.common.objects.symmetric_key import SymmetricKey
from oslo_config import cfg

url, user, password, project = sys.argv[1:]
conf = cfg.ConfigOpts()
conf([])
options.set_defaults(conf, backend="barbican", auth_endpoint=url)
manager = key_manager.API(conf)
context = KeystonePassword(
    password,
    auth_url=url,
    username=user,
    user_domain_name="Default",
    project_name=project,
    project_domain_name="Default",
)

kept = {
    "key": SymmetricKey("AES", 128, bytes(range(16)), name="key"),
    "phrase": Passphrase("a phrase", name="phrase"),
    "data": OpaqueData(b"\x00\x01\xff", name="data"),
}
ids = {what: manager.store(context, managed) for what, managed in kept.items()}
for what, managed_id in ids.items():
    found = manager.get(context, managed_id)
    assert type(found) is type(kept[what]) and found.name == what, found
    assert found.get_encoded() == kept[what].get_encoded(), what
listed = {managed.name for managed in manager.list(context)}
assert listed >= set(kept), listed

made = manager.create_key(context, algorithm="AES", length=256, name="made")
assert len(manager.get(context, made).get_encoded()) == 32
private, public = manager.create_key_pair(context, algorithm="RSA", length=2048, name="pair")
assert manager.get(context, private).algorithm.lower() == "rsa" and manager.get(context, public).get_encoded()

consumer = {"service": "volume", "resource_type": "volume", "resource_id": "1"}
manager.add_consumer(context, made, consumer)
assert manager.get(context, made).consumers[0]["service"] == "volume"
manager.remove_consumer(context, made, consumer)

for managed_id in (*ids.values(), made, private, public):
    manager.delete(context, managed_id)
try:
    manager.get(context, made)
    raise SystemExit("a deleted key was found")
except ManagedObjectNotFoundError:
    pass

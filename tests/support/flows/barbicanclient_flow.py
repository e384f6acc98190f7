"""python-barbicanclient's main flows.

Runs in the clients' environment: ``barbicanclient_flow.py AUTH_URL USER PASSWORD PROJECT``.
"""

import sys
import time

from barbicanclient import client, exceptions
from keystoneauth1 import session
from keystoneauth1.exceptions.http import Unauthorized
from keystoneauth1.identity import v3

url, user, password, project = sys.argv[1:]
auth = v3.Password(
    url, username=user, password=password, project_name=project, user_domain_id="default", project_domain_id="default"
)
barbican = client.Client(session=session.Session(auth=auth))


def finished(order):
    for _ in range(100):
        found = barbican.orders.get(order)
        if found.status != "PENDING":
            return found
        time.sleep(0.1)
    raise SystemExit("the order is still PENDING")


text = barbican.secrets.create(name="text", payload="a text")
text_ref = text.store()
assert barbican.secrets.get(text_ref).payload == "a text"
binary = barbican.secrets.create(
    name="binary",
    payload=b"\x00\xff",
    algorithm="aes",
    bit_length=16,
    mode="cbc",
    secret_type="symmetric",
    expiration="2099-01-01T00:00:00",
)
binary_ref = binary.store()
found = barbican.secrets.get(binary_ref)
assert (found.payload, found.algorithm, found.bit_length, found.secret_type) == (b"\x00\xff", "aes", 16, "symmetric")
assert found.expiration.year == 2099 and found.status == "ACTIVE"
later = barbican.secrets.create(name="later")
later_ref = later.store()
later.payload = "came later"
later.update()
assert barbican.secrets.get(later_ref).payload == "came later"
assert {secret.name for secret in barbican.secrets.list(limit=100)} >= {"text", "binary", "later"}
assert [secret.name for secret in barbican.secrets.list(name="text")] == ["text"]

barbican.secrets.register_consumer(text_ref, service="compute", resource_type="server", resource_id="1")
assert barbican.secrets.get(text_ref).consumers[0]["service"] == "compute"
assert len(barbican.secrets.list_consumers(text_ref)) == 1
try:
    barbican.secrets.delete(text_ref)
    raise SystemExit("a secret with a consumer was deleted")
except exceptions.SecretHasConsumers:
    pass
barbican.secrets.remove_consumer(text_ref, service="compute", resource_type="server", resource_id="1")

key = finished(barbican.orders.create_key(name="key", algorithm="aes", bit_length=256, mode="cbc").submit())
assert key.status == "ACTIVE" and len(barbican.secrets.get(key.secret_ref).payload) == 32
pair = finished(
    barbican.orders.create_asymmetric(name="pair", algorithm="rsa", bit_length=2048, pass_phrase="phrase").submit()
)
rsa = barbican.containers.get(pair.container_ref)
assert rsa.private_key.payload.startswith(b"-----BEGIN ENCRYPTED PRIVATE KEY") and rsa.public_key.payload
assert rsa.private_key_passphrase.payload == b"phrase"
assert {order.status for order in barbican.orders.list(limit=100)} == {"ACTIVE"}

container = barbican.containers.create(name="box", secrets={"text": barbican.secrets.get(text_ref)})
box = container.store()
assert barbican.containers.get(box).secrets["text"].payload == "a text"
barbican.containers.register_consumer(box, "lb", "http://lb.example/1")
assert barbican.containers.get(box).consumers[0]["name"] == "lb"
barbican.containers.remove_consumer(box, "lb", "http://lb.example/1")
assert [found.name for found in barbican.containers.list(name="box")] == ["box"]

acl = barbican.acls.create(entity_ref=text_ref, users=["somebody"], project_access=False)
acl.submit()
read = barbican.acls.get(text_ref).get("read")
assert (read.users, read.project_access) == (["somebody"], False)
acl.remove()
assert barbican.acls.get(text_ref).get("read").project_access is True

barbican.containers.delete(box)
barbican.orders.delete(key.order_ref)
for ref in (text_ref, binary_ref, later_ref):
    barbican.secrets.delete(ref)


def refusal_of(expected, action):
    """The exception with which an action fails."""
    try:
        action()
    except expected as problem:
        return problem
    raise SystemExit(f"{action.__name__} was not refused")


def read_a_deleted_secret():
    return barbican.secrets.get(text_ref).payload


def list_with_an_unscoped_token():
    client.Client(
        session=session.Session(
            auth=v3.Password(url, username=user, password=password, user_domain_id="default", unscoped=True)
        ),
        endpoint=barbican.client.get_endpoint(),
    ).secrets.list()


problem = refusal_of(exceptions.HTTPClientError, read_a_deleted_secret)
assert problem.status_code == 404, problem
problem = refusal_of(Unauthorized, list_with_an_unscoped_token)
assert "requires authentication" in str(problem), problem

"""How repeated requests are compared."""

from __future__ import annotations

import hashlib
import hmac
from pathlib import Path

import pytest
import pytest_twisted
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.task import Clock
from zope.interface import implementer
from zope.interface.verify import verifyObject

from barbtx.api.fingerprints import Content, Fingerprints
from barbtx.config import load
from barbtx.errors import ConfigurationError, ServiceUnavailable
from barbtx.plugin.crypto import simple_crypto
from barbtx.plugin.interface.key_derivation import DerivedKey, IKeyDerivation
from barbtx.plugin.manager import PluginContext, StoreManager
from barbtx.plugin.stores.store_crypto import StoreCrypto
from barbtx.testing import MemoryStore
from tests.support.wrapping_store import WrappingStore

OLD, NEW = simple_crypto.generate_master_key(), simple_crypto.generate_master_key()


def crypto(*keys: str) -> simple_crypto.SimpleCrypto:
    conf = load()
    conf.set_override("kek", list(keys), group="simple_crypto_plugin")
    return simple_crypto.from_config(PluginContext(conf, Clock(), None, maybeDeferred))


def fingerprints(*keys: str, configured: tuple[str, ...] = ()) -> Fingerprints:
    conf = load()
    conf.set_override("fingerprint_key", list(configured), group="idempotency")
    return Fingerprints.from_config(conf, StoreManager((StoreCrypto((crypto(*keys),), None, {}, {}),), (), None))


def run(coroutine):
    """The result of a coroutine that waits for nothing."""
    results: list = []
    Deferred.fromCoroutine(coroutine).addBoth(results.append)
    (result,) = results
    return result


def test_plugins_keep_to_the_interface() -> None:
    assert verifyObject(IKeyDerivation, crypto(OLD))
    assert verifyObject(IKeyDerivation, StoreCrypto((crypto(OLD),), None, {}, {}))


heads = st.lists(st.binary(max_size=4), max_size=3).map(tuple)
contents = st.builds(Content, heads, st.binary(max_size=6))


@given(contents, contents)
def test_a_fingerprint_is_that_of_one_content(one: Content, two: Content) -> None:
    made = fingerprints(OLD)
    text = run(made.make(one))
    assert len(text) <= 255 and run(made.matches(text, one)) is True
    assert run(made.matches(text, two)) is (one == two)


@pytest.mark.parametrize(
    ("first", "then", "known"),
    [
        ((OLD,), (OLD,), True),
        ((OLD,), (NEW, OLD), True),
        ((NEW, OLD), (OLD, NEW), True),
        ((OLD,), (NEW,), False),
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_repetition_is_known_again_as_long_as_the_master_key_is_configured(
    first: tuple[str, ...], then: tuple[str, ...], known: bool
) -> None:
    content = Content((b"POST",), b"body")
    text = await fingerprints(*first).make(content)
    if known:
        assert await fingerprints(*then).matches(text, content)
        assert not await fingerprints(*then).matches(text, Content((b"POST",), b"another"))
    else:
        with pytest.raises(ServiceUnavailable) as caught:
            await fingerprints(*then).matches(text, content)
        assert "Retry-After" in caught.value.headers


def test_keys_differ_by_purpose_and_master_key_and_are_shown_nowhere() -> None:
    plugins, purposes = (crypto(OLD), crypto(NEW)), ("one", "two", "")
    keys = [key for plugin in plugins for purpose in purposes for key in plugin.derive_keys(purpose)]
    assert len({key.key for key in keys}) == 6 and {len(key.key) for key in keys} == {32}
    assert [key.key for key in crypto(OLD).derive_keys("one")] == [keys[0].key]
    for secret in (keys[0].key, simple_crypto.base64.urlsafe_b64decode(OLD)):
        for holder in (keys[0], plugins[0], plugins[0].masters):
            assert repr(secret)[2:-1] not in repr(holder)


@pytest_twisted.ensureDeferred
async def test_a_fingerprint_cannot_be_computed_without_the_key() -> None:
    content = Content((b"project", b"POST"), b"0042")
    _, _, mac = (await fingerprints(OLD).make(content)).partition(":")
    (key,) = crypto(OLD).derive_keys("barbtx idempotency fingerprint")
    framed = b"".join(len(part).to_bytes(8, "big") + part for part in (*content.head, content.body))
    assert mac == hmac.new(key.key, framed, hashlib.sha256).hexdigest()
    assert mac not in (await fingerprints(NEW).make(content))


@implementer(IKeyDerivation)
class Remote(MemoryStore):
    """A store in hardware: the answer takes a while."""

    def derive_keys(self, purpose: str) -> Deferred[list[DerivedKey]]:
        return succeed([DerivedKey("remote", purpose.encode().ljust(32))])


@pytest_twisted.ensureDeferred
async def test_any_store_may_derive_the_keys() -> None:
    made = Fingerprints(StoreManager((MemoryStore(), Remote()), (), None))
    text = await made.make(Content((), b"x"))
    assert text.startswith("remote:") and await made.matches(text, Content((), b"x"))


@pytest_twisted.ensureDeferred
async def test_where_no_store_derives_keys_the_body_leaves_no_trace(tmp_path: Path) -> None:
    made = Fingerprints(StoreManager((WrappingStore(tmp_path / "payloads"),), (), None))
    text = await made.make(Content((b"head",), b"0042"))
    assert text == await made.make(Content((b"head",), b"0043"))
    assert await made.matches(text, Content((b"head",), b"0042"))
    assert not await made.matches(text, Content((b"other",), b"0042"))


@pytest_twisted.ensureDeferred
async def test_configured_keys_come_first_and_verify_one_another(tmp_path: Path) -> None:
    one, two, content = "1" * 32, "2" * 32, Content((), b"x")
    text = await fingerprints(OLD, configured=(one,)).make(content)
    assert await fingerprints(NEW, configured=(two, one)).matches(text, content)
    with pytest.raises(ServiceUnavailable):
        await fingerprints(OLD).matches(text, content)
    # What was made before the option was set is known by the plugin's key.
    assert await fingerprints(OLD, configured=(two,)).matches(await fingerprints(OLD).make(content), content)


@pytest.mark.parametrize("text", ["", "x" * 31])
def test_a_short_key_stops_the_start_without_being_shown(text: str) -> None:
    with pytest.raises(ConfigurationError, match="number 2") as caught:
        fingerprints(OLD, configured=("1" * 32, text))
    assert not text or text not in str(caught.value)

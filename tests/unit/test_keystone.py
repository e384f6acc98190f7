"""The parts of token validation that need no Keystone: circuit breaker, single flight, reading of tokens, logins."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock

from barbtx.config import load
from barbtx.errors import ConfigurationError, ServiceUnavailable
from barbtx.identity.keystone.circuit_breaker import CircuitBreaker
from barbtx.identity.keystone.login import login_document
from barbtx.identity.keystone.single_flight import SingleFlight
from barbtx.identity.keystone.tokens import Identity, InvalidToken, TokenValidator


def is_open(circuit: CircuitBreaker) -> bool:
    problem = None
    try:
        circuit.check()
    except ServiceUnavailable as caught:
        problem = caught
    assert problem is None or int(problem.headers["Retry-After"]) >= 1
    return problem is not None


def test_a_circuit_opens_after_failures_in_a_row_and_lets_one_try_through() -> None:
    clock = Clock()
    circuit = CircuitBreaker(clock, "X", 3, 5.0)
    for _ in range(2):
        circuit.record_failure()
    circuit.record_success()
    for _ in range(2):
        circuit.record_failure()
    assert not is_open(circuit)
    circuit.record_failure()
    assert is_open(circuit)
    clock.advance(5)
    assert not is_open(circuit) and is_open(circuit), "one try, and no other while it is under way"
    circuit.record_failure()
    clock.advance(4.9)
    assert is_open(circuit)
    clock.advance(0.2)
    assert not is_open(circuit)
    circuit.record_success()
    assert not is_open(circuit) and not is_open(circuit)


def test_a_clock_set_back_does_not_keep_a_circuit_open_for_longer() -> None:
    clock = Clock()
    clock.advance(10000)
    circuit = CircuitBreaker(clock, "X", 1, 5.0)
    circuit.record_failure()
    clock.rightNow -= 3600
    with pytest.raises(ServiceUnavailable) as caught:
        circuit.check()
    assert int(caught.value.headers["Retry-After"]) <= 5


def test_a_question_is_asked_once_for_all_who_wait() -> None:
    flights, gates = SingleFlight(), []

    async def ask() -> Any:
        gates.append(Deferred())
        return await gates[-1]

    answers: list[Any] = []
    waiting = [flights.join("k", ask) for _ in range(3)]
    for deferred in waiting:
        deferred.addBoth(answers.append)
    waiting[1].cancel()
    assert len(gates) == 1 and answers.pop().check(CancelledError)
    gates[0].callback("yes")
    assert answers == ["yes", "yes"] and len(flights) == 0
    failed = flights.join("k", ask)
    gates[1].errback(ValueError())
    failed.addErrback(lambda failure: answers.append(failure.type))
    assert answers[-1] is ValueError


def test_the_last_who_waits_may_leave() -> None:
    flights, gate = SingleFlight(), Deferred()

    async def ask() -> Any:
        return await gate

    left = flights.join("k", ask)
    left.addErrback(lambda failure: failure.trap(CancelledError))
    left.cancel()
    gate.callback("nobody hears it")
    assert len(flights) == 0


TOKEN = {
    "user": {"id": "u", "domain": {"id": "d"}},
    "expires_at": "2026-01-01T00:00:00.000000Z",
    "project": {"id": "p", "domain": {"id": "e"}},
    "roles": [{"name": "Member"}],
}


def test_an_identity_is_read_from_a_token() -> None:
    identity = Identity.from_document(TOKEN)
    assert identity == Identity("u", "d", "p", "e", frozenset({"member"}), 1767225600.0)
    assert Identity.from_document({**TOKEN, "project": None}).project_id is None


@pytest.mark.parametrize(
    "change", [{"user": {}}, {"user": None}, {"expires_at": "soon"}, {"roles": [{}]}, {"roles": 1}]
)
def test_what_is_no_token_is_not_read(change: dict[str, Any]) -> None:
    with pytest.raises((LookupError, TypeError, ValueError, AttributeError)):
        Identity.from_document(TOKEN | change)


class _Session:
    """Keystone's answers by the token; how often it was asked. A real one cannot be made to answer out of time."""

    def __init__(self, clock: Clock, answers: dict[str, Any]) -> None:
        self.reactor, self.answers, self.asked = clock, answers, 0

    async def validate_token(self, token: str, *, allow_expired: bool = False, requester: object = None) -> Any:
        self.asked += 1
        answer = self.answers[token]
        if isinstance(answer, Exception):
            raise answer
        return answer


def validator(clock: Clock, **answers: Any) -> TokenValidator:
    options = {
        "auth_url": "http://keystone.example",
        "username": "u",
        "password": "p",
        "project_name": "p",
        "token_cache_time": 300,
        "token_cache_entries": 2,
        "invalid_token_cache_time": 5,
    }
    made = TokenValidator.from_config(
        clock, clock, load([], [f"keystone_authtoken.{k}={v}" for k, v in options.items()])
    )
    made.session = _Session(clock, answers)
    return made


def ask(made: TokenValidator, token: str, **how: bool) -> Identity | Exception:
    """As the pipeline does."""
    try:
        known = made.cached(token.encode(), **how)
    except InvalidToken as problem:
        return problem
    if known is not None:
        return known
    outcome: list[Any] = []
    made.validate(token.encode(), **how).addBoth(outcome.append)
    return outcome[0].value if hasattr(outcome[0], "value") else outcome[0]


def test_tokens_are_remembered_for_a_while_and_never_beyond_their_end() -> None:
    clock = Clock()
    clock.advance(1767225600.0 - 400)
    made = validator(clock, t=TOKEN)
    for _ in range(3):
        assert ask(made, "t").user_id == "u"
    assert made.session.asked == 1
    clock.advance(299)
    ask(made, "t")
    assert made.session.asked == 1
    clock.advance(2)
    ask(made, "t")
    assert made.session.asked == 2
    clock.advance(100)
    assert isinstance(ask(made, "t"), InvalidToken)
    assert isinstance(ask(made, "t", allow_expired=True), Identity)


def test_bad_tokens_are_remembered_apart_and_briefly() -> None:
    clock = Clock()
    made = validator(clock, good=TOKEN, bad=None, worse=None, worst=None, down=ServiceUnavailable("x"))
    assert isinstance(ask(made, "good"), Identity)
    for token in ("bad", "worse", "worst", "bad"):
        assert isinstance(ask(made, token), InvalidToken)
    assert made.session.asked == 5, "two are remembered, and the good one beside them"
    assert isinstance(ask(made, "good"), Identity) and isinstance(ask(made, "bad"), InvalidToken)
    assert made.session.asked == 5
    clock.advance(6)
    ask(made, "bad")
    assert made.session.asked == 6
    for _ in range(2):
        assert isinstance(ask(made, "down"), ServiceUnavailable)
    assert made.session.asked == 8, "that Keystone was down is not remembered of a token"


@pytest.mark.parametrize("token", ["", " ", "a b", "a\n", "\x7f", "ä", "a" * 4097])
def test_what_cannot_be_a_token_is_not_asked_about(token: str) -> None:
    made = validator(Clock())
    assert isinstance(ask(made, token), InvalidToken) and made.session.asked == 0


def test_tokens_are_not_in_memory_as_they_are() -> None:
    made = validator(Clock(), **{"a-very-own-token": TOKEN})
    ask(made, "a-very-own-token")
    kept = repr([*made._valid, *made._invalid]) + repr(made)
    assert "a-very-own-token" not in kept


def options(**settings: str) -> Any:
    return load([], [f"keystone_authtoken.{name}={value}" for name, value in settings.items()]).keystone_authtoken


def test_the_login_is_the_configured_one() -> None:
    password = login_document(options(username="u", password="p", project_name="service", user_domain_name="D"))
    assert password["auth"] == {
        "identity": {
            "methods": ["password"],
            "password": {"user": {"name": "u", "domain": {"name": "D"}, "password": "p"}},
        },
        "scope": {"project": {"name": "service", "domain": {"id": "default"}}},
    }
    by_name = login_document(
        options(
            auth_type="v3applicationcredential",
            application_credential_name="c",
            user_id="u",
            application_credential_secret="s",
        )
    )
    assert by_name["auth"]["identity"]["application_credential"] == {"name": "c", "user": {"id": "u"}, "secret": "s"}
    with pytest.raises(ConfigurationError):
        login_document(
            options(
                auth_type="v3applicationcredential", application_credential_name="c", application_credential_secret="s"
            )
        )

"""Who sends bad tokens cannot keep good ones out: forms of tokens, and turns at Keystone."""

from __future__ import annotations

import base64
import json
import os

import pytest
from cryptography.fernet import Fernet
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from barbtx.errors import ServiceUnavailable
from barbtx.identity.keystone.fair_scheduler import (
    FAST,
    SLOW,
    SLOWEST,
    ConcurrencyWindow,
    FairScheduler,
    Requester,
    SuspectTable,
)
from barbtx.identity.keystone.token_formats import is_usual, issued_at, may_be_token

NOW = 1_780_000_000


def fernet(size: int = 40, time: int = NOW) -> str:
    return Fernet(Fernet.generate_key()).encrypt_at_time(b"x" * size, time).decode()


def part(value: object) -> str:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def jws(
    header: object = {"typ": "JWT", "alg": "ES256"},
    claims: object = {"iat": NOW, "exp": NOW + 3600},
    signature: bytes = b"s" * 64,
) -> str:
    return ".".join(map(part, (header, claims, signature)))


@given(st.integers(0, 300), st.integers(0, (1 << 32) - 1), st.booleans())
def test_a_fernet_token_is_one_with_or_without_padding(size: int, time: int, padded: bool) -> None:
    token = fernet(size, time)
    assert issued_at(token if padded else token.rstrip("=")) == time


def test_so_is_a_signed_one() -> None:
    assert issued_at(jws()) == NOW and issued_at(jws(claims={"exp": NOW + 5})) == NOW + 5


@pytest.mark.parametrize(
    "token",
    [
        "",
        "forged",
        "gAAAAAB" + "x" * 150,
        "gAAAAA",
        fernet()[:-10],
        fernet() + "AAAA",
        "h" + fernet()[1:],
        fernet() + "!",
        "0123456789abcdef" * 2,
        "a.b.c",
        "...",
        "..",
        jws({}),
        jws([]),
        jws(claims=[]),
        jws(claims={}),
        jws(signature=b""),
        jws() + ".x",
        jws(claims={"iat": "soon"}),
        jws(claims={"iat": True}),
        part(b"{") + "." + part({}) + ".eA",
        "[" * 3000,
        part(b"[" * 2900) + ".e30.eA",
        "ä",
    ],
)
def test_what_is_neither_is_asked_about_only_where_keystone_gives_out_others(token: str) -> None:
    assert not may_be_token(token, fernet()) and not may_be_token(token, jws())
    assert may_be_token(token, "0123456789abcdef" * 2)
    assert may_be_token(fernet(), jws()) and may_be_token(jws(), fernet())


@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=300))
def test_no_text_is_too_odd_to_be_looked_at(token: str) -> None:
    assert isinstance(may_be_token(token, fernet()), bool) and isinstance(is_usual(token, NOW), bool)


@pytest.mark.parametrize(
    ("token", "usual"),
    [
        (fernet(), True),
        (fernet(time=NOW - 86400), True),
        (fernet(time=NOW + 60), True),
        (fernet(time=NOW + 86400), False),
        (fernet(time=0), False),
        (jws(), True),
        (jws(claims={"iat": 1e300}), False),
        ("other", True),
        (base64.urlsafe_b64encode(b"\x80" + os.urandom(104)).decode(), False),
    ],
)
def test_a_token_from_another_time_is_odd(token: str, usual: bool) -> None:
    assert is_usual(token, NOW) == usual


class Turns:
    """Turns, and who has one."""

    def __init__(self, limit: int, max_waiting: int = 1000) -> None:
        self.clock = Clock()
        self.suspects = SuspectTable(self.clock.seconds)
        window = ConcurrencyWindow(self.clock.seconds, limit)
        for _ in range(limit):
            window.record_response()
        self.turns = FairScheduler(window, max_waiting, self.suspects, lambda: ServiceUnavailable("x"))
        self.has: list[tuple[str, Deferred[None]]] = []
        self.refused: list[str] = []

    def ask(self, client: str, fastest: int = FAST, **requester: object) -> Deferred[None]:
        async def run() -> None:
            async with self.turns.slot(Requester(client, **requester), fastest):
                done: Deferred[None] = Deferred()
                self.has.append((client, done))
                await done

        running = Deferred.fromCoroutine(run())
        running.addErrback(lambda failure: self.refused.append(client))
        return running

    def finish(self, number: int = 0) -> str:
        client, done = self.has.pop(number)
        done.callback(None)
        return client

    @property
    def clients(self) -> list[str]:
        return [client for client, _ in self.has]


def test_clients_take_turns() -> None:
    made = Turns(4)
    for _ in range(50):
        made.ask("many")
    made.ask("one")
    made.ask("another")
    assert sorted(made.clients) == ["another", "many", "one"], "a client has a quarter at most"
    for _ in range(49):
        made.finish(made.clients.index("many"))
    assert made.clients.count("many") == 1


def test_clients_that_send_bad_tokens_leave_room_for_others() -> None:
    made = Turns(32)
    for client in "abcdef":
        for _ in range(5):
            made.suspects.record_invalid_token(Requester(client))
        for _ in range(20):
            made.ask(client)
    assert len(made.has) == 4
    for _ in range(8):
        made.ask("good")
    assert made.clients.count("good") == 8
    made.clock.advance(61)
    made.ask("f")
    assert "f" in made.clients, "it is forgiven"


def test_what_is_learnt_while_a_question_waits_counts() -> None:
    made = Turns(32)
    for _ in range(100):
        made.ask("bad")
    assert len(made.has) == 8
    for _ in range(5):
        made.suspects.record_invalid_token(Requester("bad"))
    for _ in range(8):
        made.finish()
    assert len(made.has) == 4


def test_a_good_connection_of_a_bad_client_is_not_kept_waiting_by_the_bad_ones() -> None:
    made = Turns(32)
    for connection in range(10):
        for _ in range(2):
            made.suspects.record_invalid_token(Requester("proxy", connection))
    for connection in range(10):
        for _ in range(5):
            made.ask("proxy", connection=connection)
    assert len(made.has) == 2
    made.ask("proxy", connection="new")
    assert len(made.has) == 3
    made.ask("elsewhere", SLOWEST)
    assert len(made.has) == 3


def test_when_too_many_wait_the_one_with_the_most_in_the_slowest_lane_loses() -> None:
    made = Turns(1, 4)
    for client in ("first", "a", "a", "b", "bad"):
        made.ask(client, SLOW if client == "bad" else FAST)
    assert made.refused == []
    made.ask("c")
    assert made.refused == ["bad"]
    made.ask("d")
    assert made.refused == ["bad", "a"]
    for _ in range(5):
        made.finish()
    assert made.has == [] and made.turns._waiting == 0 and not made.turns._running_of


def test_nothing_is_asked_for_those_who_have_left() -> None:
    made = Turns(1)
    made.ask("x")
    for _ in range(3000):
        made.ask("gone", is_waiting=lambda: False) if made.turns._waiting < 999 else None
    made.ask("y")
    made.finish()
    assert made.clients == ["y"]


def test_no_more_is_asked_at_a_time_than_is_answered_in_time() -> None:
    clock = Clock()
    window = ConcurrencyWindow(clock.seconds, 32)
    assert window.size == 4
    for _ in range(100):
        window.record_response()
    assert window.size == 32
    clock.advance(10)
    for begun in (9, 9, 9):
        window.record_timeout(begun)
    assert window.size == 16, "what was under way together counts once"
    for _ in range(9):
        clock.advance(10)
        window.record_timeout(clock.seconds() - 4)
    assert window.size == 1
    window.record_response()
    assert window.size == 2
    for _ in range(5):
        window.record_response()
    assert window.size == 3, "it grows slowly after that"


def test_bad_tokens_are_answered_later_and_later() -> None:
    clock = Clock()
    suspects = SuspectTable(clock.seconds)
    penalties = []
    for _ in range(200):
        suspects.record_invalid_token(Requester("bad"))
        penalties.append(suspects.penalty(Requester("bad")))
    assert penalties[4] == 0 and penalties == sorted(penalties) and penalties[-1] == 5
    assert suspects.penalty(Requester("other")) == 0
    clock.advance(61)
    assert suspects.penalty(Requester("bad")) == 0


@settings(max_examples=200, deadline=None)
@given(
    st.integers(1, 40),
    st.lists(
        st.tuples(
            st.sampled_from(["ask", "ask", "finish", "blame", "cancel", "time"]),
            st.sampled_from("abc"),
            st.integers(0, 5),
        ),
        max_size=120,
    ),
)
def test_turns_are_neither_lost_nor_made(limit: int, events: list[tuple[str, str, int]]) -> None:
    made = Turns(limit, 30)
    asked: list[Deferred[None]] = []
    for event, client, number in events:
        if event == "ask":
            asked.append(made.ask(client, number % 3, connection=number))
        elif event == "finish" and made.has:
            made.finish(number % len(made.has))
        elif event == "blame":
            made.suspects.record_invalid_token(Requester(client, number))
        elif event == "time":
            made.clock.advance(20 * number)
        elif event == "cancel" and asked and not made.has:
            asked[number % len(asked)].cancel()
        assert len(made.has) <= limit
        assert len(made.has) == sum(lane.running for lane in made.turns._lanes)
        waiting = sum(len(queue) for lane in made.turns._lanes for queue in lane.waiting.values())
        assert made.turns._waiting == waiting <= 30
    while made.has:
        made.finish()
    assert made.turns._waiting == 0 and all(deferred.called for deferred in asked)

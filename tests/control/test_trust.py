"""Tokens on a real memkvd: a thousand that are not right, none that is let in."""

from __future__ import annotations

import random
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from memkv_nixl import _token
from memkv_nixl._token import Right
from memkv_nixl.control import _tenancy
from tests.control.peer import (
    AUTH,
    CHALLENGE,
    HELLO,
    SESSION,
    WELCOME,
    Peer,
    RefusedError,
    hello,
)
from tests.control.trusting import TrustingNode, trusting

ATTEMPTS = 1000
OUT_OF_TURN = 300
SEED = 20261126


@pytest.fixture
def node(tmp_path: Path) -> Iterator[TrustingNode]:
    with trusting(tmp_path) as made:
        made.create("acme")
        made.create("umbrella")
        made.publish()
        yield made


Attempt = tuple[bytes, bytes]  # what AUTH says to a peer's nonce: token, proof
Attack = Callable[[Peer], Attempt]


def attacks(node: TrustingNode, dice: random.Random) -> dict[str, Attack]:
    """Ways to come in that are none; each makes another attempt when it is called again."""
    holder, thief = _token.new_private(), _token.new_private()
    good = node.token("acme", holder)
    with Peer(node.address) as overheard:
        old_proof = _token.proof(holder, overheard.nonce, SESSION, node.address)
        overheard.auth(good, old_proof)
    taken_back = node.token("acme", holder)
    number = node.cluster.tenants["acme"].number
    revoked_id = _token.read(taken_back, node.cluster.tenants["acme"].keys[-1].public).id
    node.change(_tenancy.revoke, "acme", [revoked_id], [], int(time.time()))
    now_s = int(time.time())

    def proof(peer: Peer, private: bytes = holder) -> bytes:
        return _token.proof(private, peer.nonce, SESSION, node.address)

    def flipped(text: bytes) -> bytes:
        at = dice.randrange(8 * len(text))
        return bytes(byte ^ (1 << at % 8) if i == at // 8 else byte for i, byte in enumerate(text))

    return {
        "a changed token": lambda peer: (flipped(good), proof(peer)),
        "a changed proof": lambda peer: (good, flipped(proof(peer))),
        "a shorter token": lambda peer: (good[: dice.randrange(1, len(good))], proof(peer)),
        "a longer token": lambda peer: (good + dice.randbytes(16), proof(peer)),
        "any bytes": lambda peer: (dice.randbytes(dice.randrange(1, 1200)), dice.randbytes(64)),
        "a stolen token": lambda peer: (good, proof(peer, thief)),
        "a stolen token, no proof": lambda peer: (good, b""),
        "a replayed AUTH": lambda peer: (good, old_proof),
        "a proof for another node": lambda peer: (
            good,
            _token.proof(holder, peer.nonce, SESSION, f"10.0.0.{dice.randrange(256)}:9900"),
        ),
        "a proof of another session": lambda peer: (
            good,
            _token.proof(holder, peer.nonce, dice.getrandbits(63), node.address),
        ),
        "signed by another tenant": lambda peer: (
            node.token("umbrella", holder, tenant=number),
            proof(peer),
        ),
        "signed by nobody": lambda peer: (
            node.token("acme", holder, key_id=dice.randbytes(16)),
            proof(peer),
        ),
        "of no tenant": lambda peer: (
            node.token("acme", holder, tenant=dice.getrandbits(64)),
            proof(peer),
        ),
        "past its time": lambda peer: (
            node.token("acme", holder, issued_s=0, expires_s=now_s - 61 - dice.randrange(10**6)),
            proof(peer),
        ),
        "before its time": lambda peer: (
            node.token("acme", holder, issued_s=now_s + 600 + dice.randrange(10**6)),
            proof(peer),
        ),
        "revoked": lambda peer: (taken_back, proof(peer)),
        "without a right": lambda peer: (
            node.token("acme", holder, rights=Right(0)),
            proof(peer),
        ),
        "no token": lambda peer: (b"", b""),
    }


def answer(peer: Peer, said: Attempt) -> RefusedError | None:
    """How it was refused; None when it was let in."""
    try:
        peer.auth(*said)
    except RefusedError as error:
        return error
    return None


def test_a_thousand_forged_stolen_and_replayed_ones_are_refused_alike(node: TrustingNode) -> None:
    dice = random.Random(SEED)
    ways = attacks(node, dice)
    welcome = int(node.operator.stat()["peers_welcome"])
    sentences = set()
    for i in range(ATTEMPTS):
        name, attack = list(ways.items())[i % len(ways)]
        with Peer(node.address) as peer:
            refusal = answer(peer, attack(peer))
        assert refusal is not None, f"{name} was let in (attempt {i}, seed {SEED})"
        assert refusal.code == "denied", f"{name} hears {refusal} (attempt {i}, seed {SEED})"
        sentences.add(refusal.text)
    assert len(sentences) == 1
    stat = node.operator.stat()
    assert int(stat["peers_welcome"]) == welcome
    assert int(stat["refused_denied"]) >= ATTEMPTS
    holder = _token.new_private()
    node.come(node.token("acme", holder), holder).close()


def is_refused(talk: Callable[[Peer], None], peer: Peer) -> bool:
    """Whether the node ended the conversation."""
    try:
        talk(peer)
    except RefusedError:
        return True
    return False


def turns(node: TrustingNode, dice: random.Random) -> dict[str, Callable[[Peer], None]]:
    """Conversations out of turn, by a peer that has said nothing; one holds a good token."""
    holder = _token.new_private()
    good = node.token("acme", holder)

    def proof(peer: Peer) -> bytes:
        return _token.proof(holder, peer.nonce, SESSION, node.address)

    def flipped_hello(peer: Peer) -> None:
        """A HELLO with other bytes; it is no way in with the proof for the right one."""
        body = hello(dice.getrandbits(63))
        peer.say(HELLO, 0, body[: dice.randrange(len(body))] + dice.randbytes(dice.randrange(64)))
        peer.nonce = peer.hear(CHALLENGE)[8:40]
        peer.auth(good, proof(peer))

    def hello_twice(peer: Peer) -> None:
        peer.say(HELLO, 0, hello())
        peer.nonce = peer.hear(CHALLENGE)[8:40]
        peer.say(HELLO, 0, hello())
        peer.auth(good, proof(peer))

    def auth_twice(peer: Peer) -> None:
        peer.say(HELLO, 0, hello())
        peer.nonce = peer.hear(CHALLENGE)[8:40]
        said = dice.randbytes(64)
        peer.say(AUTH, 0, struct.pack("<H", 64) + said + struct.pack("<H", 0))
        peer.auth(good, proof(peer))

    def auth_first(peer: Peer) -> None:
        peer.auth(good, proof(peer))

    def request_first(peer: Peer) -> None:
        peer.stat()

    def request_before_auth(peer: Peer) -> None:
        peer.say(HELLO, 0, hello())
        peer.nonce = peer.hear(CHALLENGE)[8:40]
        dice.choice(
            [peer.stat, lambda: peer.drop(bytes(20), b"k"), lambda: peer.match(bytes(20), b"k")]
        )()

    return {
        "another HELLO": flipped_hello,
        "a second HELLO": hello_twice,
        "a second AUTH": auth_twice,
        "AUTH first": auth_first,
        "a request first": request_first,
        "a request before AUTH": request_before_auth,
    }


def test_whoever_speaks_out_of_turn_is_not_let_in(node: TrustingNode) -> None:
    dice = random.Random(SEED)
    ways = turns(node, dice)
    welcome = int(node.operator.stat()["peers_welcome"])
    for i in range(OUT_OF_TURN):
        name, talk = list(ways.items())[i % len(ways)]
        with Peer(node.address, silent=True) as peer:
            assert is_refused(talk, peer), f"{name} was let in (attempt {i}, seed {SEED})"
    assert int(node.operator.stat()["peers_welcome"]) == welcome
    holder = _token.new_private()
    node.come(node.token("acme", holder), holder).close()


def test_a_recorded_conversation_opens_nothing(node: TrustingNode) -> None:
    """HELLO and AUTH byte for byte as they were: the node's nonce is another one."""
    holder = _token.new_private()
    token = node.token("acme", holder)
    with Peer(node.address) as peer:
        proof = _token.proof(holder, peer.nonce, SESSION, node.address)
        peer.auth(token, proof)
    for _ in range(20):
        with Peer(node.address) as again, pytest.raises(RefusedError, match="denied"):
            again.auth(token, proof)


def test_a_stranger_may_say_little_and_not_for_long(node: TrustingNode) -> None:
    """At most 4 KiB a frame, two frames, 2 s: what comes before a welcome is bounded."""
    with Peer(node.address) as peer:
        peer.say(AUTH, 0, bytes(5000))
        with pytest.raises(RefusedError, match="too_large"):
            peer.hear(WELCOME)
    began = time.monotonic()
    with Peer(node.address) as peer, pytest.raises(RefusedError, match="timeout"):
        peer.hear(WELCOME)
    assert 1.5 < time.monotonic() - began < 10

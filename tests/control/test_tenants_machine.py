"""Tenants on a real memkvd, step by step as hypothesis likes: nobody reads what is not theirs."""

from __future__ import annotations

import hashlib
import itertools
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from memkv_nixl import _token
from memkv_nixl._token import Right
from memkv_nixl.control import _tenancy
from memkv_nixl.control._tokens import new_key
from tests.control.peer import SESSION, Listed, Peer, RefusedError
from tests.control.trusting import ALL, TrustingNode, trusting

EXAMPLES, STEPS = 140, 100
STEPS_MIN, READS_MIN = 10_000, 500
TENANTS, SPACES, KEYS = 3, 2, 3
EVERY_SPACE = b""  # that a token for some namespaces is not for
SESSIONS_MAX = 12
QUOTA = 1 << 40  # that nobody reaches: STAT tells of at most 64 tenants, those with a quota first
_fresh = itertools.count(1)

tenants = st.integers(0, TENANTS - 1)
spaces = st.integers(0, SPACES - 1)
keys = st.integers(0, KEYS - 1).map(lambda number: b"key %d" % number)
rights = st.sampled_from([ALL, ALL, ALL, Right.READ, Right.WRITE, Right.READ | Right.DROP])


@dataclass
class Session:
    """A connection that was welcome, and with what."""

    peer: Peer
    tenant: str
    token: bytes
    proof: bytes
    key_id: bytes
    token_id: bytes
    rights: Right
    spaces: tuple[bytes, ...]


@pytest.fixture
def node(tmp_path: Path) -> Iterator[TrustingNode]:
    with trusting(tmp_path) as made:
        yield made


class TenantsMachine(RuleBasedStateMachine):
    """The model is a dictionary; every answer of memkvd is held against it."""

    node: ClassVar[TrustingNode]
    steps: ClassVar[int]
    reads: ClassVar[int]
    told: ClassVar[int]
    lists: ClassVar[int]
    refusals: ClassVar[set[str]]

    def __init__(self) -> None:
        super().__init__()
        self.sessions: list[Session] = []
        self.blocks: dict[tuple[str, bytes, bytes], bytes] = {}
        self.listed: dict[tuple[str, bytes, bytes], Listed] = {}
        self.names: list[str] = []
        self.spaces: list[bytes] = []

    @initialize()
    def begin(self) -> None:
        number = next(_fresh)
        self.names = [f"tenant-{number}-{i}" for i in range(TENANTS)]
        self.spaces = [b"%8d%8d" % (number, i) for i in range(SPACES)]  # alike for all of them
        for name in self.names:
            self.node.create(name, QUOTA)
        self.node.publish()
        for i in range(TENANTS):
            self._come(i, ALL, ())

    def teardown(self) -> None:
        for session in self.sessions:
            session.peer.close()
        for name in self.names:  # the next ones' turn in STAT
            self.node.cluster, _ = _tenancy.update_tenant(self.node.cluster, name, 0)

    # ---- who comes

    @rule(tenant=tenants, rights=rights, only=st.lists(spaces, max_size=1))
    def come(self, tenant: int, rights: Right, only: list[int]) -> None:
        self._count()
        self._come(tenant, rights, tuple(self.spaces[i] for i in only))

    def _come(self, tenant: int, rights: Right, only: tuple[bytes, ...]) -> None:
        name, holder, token_id = self.names[tenant], _token.new_private(), _token.new_id()
        token = self.node.token(name, holder, id=token_id, rights=rights, namespaces=only)
        peer = Peer(self.node.address)
        proof = _token.proof(holder, peer.nonce, SESSION, self.node.address)
        peer.auth(token, proof)
        key_id = self.node.cluster.tenants[name].keys[-1].id
        fresh = Session(peer, name, token, proof, key_id, token_id, rights, only)
        self.sessions.append(fresh)
        if len(self.sessions) > SESSIONS_MAX:
            self.sessions.pop(0).peer.close()

    @rule(pick=st.integers(0, 99))
    @precondition(lambda self: self.sessions)
    def replay(self, pick: int) -> None:
        victim = self._pick(pick)
        self._is_refused(victim.token, lambda peer: victim.proof)

    @rule(pick=st.integers(0, 99))
    @precondition(lambda self: self.sessions)
    def steal(self, pick: int) -> None:
        thief = _token.new_private()
        self._is_refused(self._pick(pick).token, lambda peer: self._proof(thief, peer))

    @rule(tenant=tenants)
    def forge(self, tenant: int) -> None:
        """One tenant signs for another."""
        holder = _token.new_private()
        number = self.node.cluster.tenants[self.names[tenant - 1]].number
        forged = self.node.token(self.names[tenant], holder, tenant=number)
        self._is_refused(forged, lambda peer: self._proof(holder, peer))

    @rule(tenant=tenants, late=st.booleans())
    def come_at_the_wrong_time(self, tenant: int, late: bool) -> None:
        holder, now_s = _token.new_private(), int(time.time())
        times = {"expires_s": now_s - 61} if late else {"issued_s": now_s + 600}
        wrong = self.node.token(self.names[tenant], holder, **times)
        self._is_refused(wrong, lambda peer: self._proof(holder, peer))

    @rule(tenant=tenants)
    def come_by_way_of_another_node(self, tenant: int) -> None:
        holder = _token.new_private()
        token = self.node.token(self.names[tenant], holder)
        elsewhere = "127.0.0.1:1"
        self._is_refused(token, lambda peer: _token.proof(holder, peer.nonce, SESSION, elsewhere))

    # ---- what becomes of trust

    @rule(tenant=tenants, overlap=st.booleans())
    def rotate(self, tenant: int, overlap: bool) -> None:
        self._count()
        name, now_s = self.names[tenant], int(time.time())
        known = self.node.cluster.tenants[name]
        if len(known.keys) > 6:  # at the limit the operator takes the oldest back first
            self.node.change(_tenancy.revoke, name, [], [known.keys[0].id], now_s)
        lasts_s = 3600 if overlap else 0
        signing = known.keys[-1].id
        self.node.change(_tenancy.rotate_key, name, signing, lasts_s, new_key(), now_s)

    @rule(pick=st.integers(0, 99))
    @precondition(lambda self: self.sessions)
    def revoke(self, pick: int) -> None:
        session = self._pick(pick)
        now_s = int(time.time())
        self.node.change(_tenancy.revoke, session.tenant, [session.token_id], [], now_s)
        self._is_refused(session.token, lambda peer: session.proof)

    # ---- blocks

    @rule(pick=st.integers(0, 99), space=spaces, key=keys, length=st.sampled_from([64, 96]))
    @precondition(lambda self: self.sessions)
    def put(self, pick: int, space: int, key: bytes, length: int) -> None:
        session, where = self._pick(pick), self.spaces[space]
        name = (session.tenant, where, key)
        block = hashlib.shake_256(repr((name, next(_fresh))).encode()).digest(length)
        if not self._may(session, where, Right.WRITE, lambda: session.peer.put(where, key, block)):
            return
        known = self.blocks.get(name)
        code = session.peer.put(where, key, block)
        if known is None:
            assert code == "ok"
            self.blocks[name] = block
            self.listed[name] = Listed(length, session.peer.incarnation, 0)
        else:
            assert code == ("exists" if len(known) == length else "conflict")

    @rule(pick=st.integers(0, 99), space=spaces)
    @precondition(lambda self: self.sessions)
    def get(self, pick: int, space: int) -> None:
        """Whatever there could be, also what only others have."""
        session, where = self._pick(pick), self.spaces[space]
        if not self._may(session, where, Right.READ, lambda: session.peer.get(where, b"k", 64)):
            return
        for number in range(KEYS):
            key = b"key %d" % number
            known = self.blocks.get((session.tenant, where, key))
            length = 64 if known is None else len(known)
            expected = ("not_found", b"") if known is None else ("ok", known)
            assert session.peer.get(where, key, length) == expected
            TenantsMachine.reads += 1

    @rule(pick=st.integers(0, 99), space=spaces, key=keys)
    @precondition(lambda self: self.sessions)
    def match(self, pick: int, space: int, key: bytes) -> None:
        session, where = self._pick(pick), self.spaces[space]
        known = self.blocks.get((session.tenant, where, key))
        if self._may(session, where, Right.READ, lambda: session.peer.match(where, key)):
            found, length = session.peer.match(where, key)
            assert (found > 0, length) == (known is not None, len(known or b""))

    @rule(pick=st.integers(0, 99), space=spaces, key=keys)
    @precondition(lambda self: self.sessions)
    def drop(self, pick: int, space: int, key: bytes) -> None:
        session, where = self._pick(pick), self.spaces[space]
        if self._may(session, where, Right.DROP, lambda: session.peer.drop(where, key)):
            known = self.blocks.pop((session.tenant, where, key), None)
            self.listed.pop((session.tenant, where, key), None)
            assert session.peer.drop(where, key) == ("not_found" if known is None else "ok")

    @rule(pick=st.integers(0, 99))
    @precondition(lambda self: self.sessions)
    def list_blocks(self, pick: int) -> None:
        """All blocks of the tenant as it put and marked them, and nobody else's."""
        session = self._pick(pick)
        if not self._may(session, EVERY_SPACE, Right.READ, session.peer.list_blocks):
            return
        listed = session.peer.list_blocks()
        mine = {name[1:]: one for name, one in self.listed.items() if name[0] == session.tenant}
        assert listed == mine
        TenantsMachine.lists += bool(mine)

    @rule(pick=st.integers(0, 99), owner=tenants, space=spaces, key=keys, mark=st.integers(0, 255))
    @precondition(lambda self: self.sessions)
    def mark(self, pick: int, owner: int, space: int, key: bytes, mark: int) -> None:
        """Also with the incarnation of a block that is another's."""
        session, where = self._pick(pick), self.spaces[space]
        name = (self.names[owner], where, key)
        known = self.listed.get(name, Listed(0, 1, 0))
        ask = partial(session.peer.mark, where, key, mark, known.incarnation)
        if not self._may(session, where, Right.WRITE, ask):
            return
        its_own = name in self.listed and session.tenant == name[0]
        assert ask() == ("ok" if its_own else "not_found")
        if its_own:
            self.listed[name] = known._replace(mark=mark)

    @rule(pick=st.integers(0, 99))
    @precondition(lambda self: self.sessions)
    def stat(self, pick: int) -> None:
        """Which namespaces there are, and how they are used, is their tenant's to know."""
        session = self._pick(pick)
        if not self._may(session, None, Right(0), session.peer.stat):
            return
        mine = self.node.cluster.tenants[session.tenant].number
        for name in session.peer.stat():
            if told := re.fullmatch(r"(?:namespace|usage|copies)_(\d+)(?:_([0-9a-f]{32}))?", name):
                assert int(told[1]) == mine, name
                where = None if told[2] is None else bytes.fromhex(told[2])
                assert not session.spaces or where in session.spaces, name
                TenantsMachine.told += 1
            else:
                assert name != "namespace_other", "that is of others"

    # ---- inside

    def _count(self) -> None:
        TenantsMachine.steps += 1

    def _pick(self, pick: int) -> Session:
        return self.sessions[pick % len(self.sessions)]

    def _proof(self, holder: bytes, peer: Peer) -> bytes:
        return _token.proof(holder, peer.nonce, SESSION, self.node.address)

    def _is_refused(self, token: bytes, proof: object) -> None:
        self._count()
        assert callable(proof)
        with Peer(self.node.address) as peer:
            with pytest.raises(RefusedError) as caught:
                peer.auth(token, proof(peer))
            assert caught.value.code == "denied"
            self.refusals.add(caught.value.text)

    def _may(self, session: Session, space: bytes | None, right: Right, ask: object) -> bool:
        """Whether the session may; where it may not, that it is told so. No `space`: no block's."""
        self._count()
        assert callable(ask)
        tenant = self.node.cluster.tenants[session.tenant]
        now_s = time.time()
        trusted = session.token_id not in tenant.revoked and any(
            key.id == session.key_id and (key.until_s == 0 or key.until_s > now_s)
            for key in tenant.keys
        )
        inside = space is None or not session.spaces or space in session.spaces
        if trusted and inside and right in session.rights:
            return True
        with pytest.raises(RefusedError) as caught:
            ask()
        assert caught.value.code in (("denied",) if trusted else ("denied", "closed"))
        if not trusted:
            self.sessions.remove(session)
            session.peer.close()
        return False


@pytest.mark.timeout(600)  # half a minute where nobody else wants the cores
def test_nobody_reads_what_is_not_theirs(node: TrustingNode) -> None:
    TenantsMachine.node, TenantsMachine.refusals = node, set()
    TenantsMachine.steps = TenantsMachine.reads = TenantsMachine.told = 0
    TenantsMachine.lists = 0
    began = time.monotonic()
    enough = settings(
        max_examples=EXAMPLES,
        stateful_step_count=STEPS,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    # Which rules are drawn is chance, and so is how many of the steps read.
    while TenantsMachine.steps < STEPS_MIN or TenantsMachine.reads < READS_MIN:
        run_state_machine_as_test(TenantsMachine, settings=enough)
    print(
        f"{TenantsMachine.steps} steps, {TenantsMachine.reads} reads, "
        f"{TenantsMachine.told} lines of STAT, {TenantsMachine.lists} lists, "
        f"{time.monotonic() - began:.1f} s"
    )
    assert TenantsMachine.told > 0, "STAT told nobody of their own"
    assert TenantsMachine.lists > 0, "nobody listed blocks"
    assert len(TenantsMachine.refusals) == 1, "a refusal tells what was wrong"

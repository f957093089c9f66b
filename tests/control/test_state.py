"""Membership: what makes a node serving, silent, lost, draining or gone, and what the map says."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from memkv_nixl.control import _tenancy
from memkv_nixl.control._cluster import BUILT_IN, Cluster, from_document, to_document
from memkv_nixl.control._limits import (
    EPOCH_LEAP_MAX,
    FORMER_S,
    FORMERS_MAX,
    NODES_MAX,
    STATS_MAX,
)
from memkv_nixl.control._publish import publish
from memkv_nixl.control._refused import Reason, RefusalError
from memkv_nixl.control._state import Hello, Membership, NodeState, Timing

TIMING = Timing(heartbeat_s=1, deadline_s=5, lost_after_s=60)
A, B = "10.0.0.1:9900", "10.0.0.2:9900"


def agent(number: int) -> bytes:
    return number.to_bytes(16, "big")


def hello(address: str = A, **said: object) -> Hello:
    return dataclasses.replace(Hello(address, 100, "", agent(1)), **said)  # type: ignore[arg-type]


def machine() -> Membership:
    return Membership(Cluster(history=7), TIMING, 0.0)


def shares(state: Membership) -> dict[str, int]:
    return {node.address: node.weight for node in publish(state.cluster).message.nodes}


def formers(state: Membership) -> list[dict[str, int]]:
    """What the map says of those before it; a node that had no share is left out."""
    nodes = publish(state.cluster).message.nodes
    found: list[dict[str, int]] = [{} for _ in nodes[0].former_weights]
    for node in nodes:
        for weights, weight in zip(found, node.former_weights, strict=True):
            weights.update({node.address: weight} if weight else {})
    return found


def kinds(state: Membership) -> list[str]:
    return [happened.kind for happened in state.take_happened()]


def refusal(call: object, *args: object, **named: object) -> Reason:
    with pytest.raises(RefusalError) as caught:
        call(*args, **named)  # type: ignore[operator]
    return caught.value.reason


def test_a_silent_node_keeps_its_share_and_a_lost_one_gives_it_up() -> None:
    state = machine()
    state.hello(0, hello())
    joined = state.cluster.epoch
    state.tick(5)
    assert state.node_state(5, A) is NodeState.SILENT
    assert (state.cluster.epoch, shares(state)) == (joined, {A: 100})
    state.tick(60)
    assert state.node_state(60, A) is NodeState.LOST
    assert (state.cluster.epoch, shares(state)) == (joined + 1, {A: 0})
    state.heartbeat(70, A, agent(1), (7, joined), {})
    assert state.node_state(70, A) is NodeState.SERVING
    assert (state.cluster.epoch, shares(state)) == (joined + 2, {A: 100})
    assert kinds(state) == [
        "node_joined",
        "node_silent",
        "node_lost",
        "node_returned",
        "node_share_back",
    ]


def test_the_absence_of_the_control_plane_is_nobodys_fault() -> None:
    state = machine()
    state.hello(0, hello())
    again = Membership(from_document(to_document(state.cluster)), TIMING, 1000.0)
    again.tick(1004)
    assert again.node_state(1004, A) is NodeState.SERVING
    assert again.cluster.epoch == state.cluster.epoch


def test_a_drained_node_stays_in_the_map_with_no_share() -> None:
    state = machine()
    state.hello(0, hello())
    state.drain(0, A)
    epoch = state.cluster.epoch
    state.drain(0, A)
    assert (state.cluster.epoch, shares(state)) == (epoch, {A: 0})
    state.hello(1, hello(agent=agent(2)))
    assert state.node_state(1, A) is NodeState.DRAINING, "a new agent does not end a drain"
    state.drain(1, A, undo=True)
    assert shares(state) == {A: 100}


C, D, E = (f"10.0.0.{i}:9900" for i in range(3, 6))


def stay(state: Membership, begin: float, end: float) -> None:
    """Every node is heard all the time."""
    now = begin
    while now < end:
        for address in state.cluster.members:
            state.heartbeat(now, address, agent(1), (7, state.cluster.epoch), {})
        state.tick(now)
        now += state.timing.deadline_s / 2


def test_the_map_says_for_ten_minutes_how_it_was_before() -> None:
    state = machine()
    state.hello(0, hello())
    assert formers(state) == [], "before it there was none"
    state.hello(10, hello(B, weight=50))
    assert formers(state) == [{A: 100}]
    grown = state.cluster.epoch
    stay(state, 11, 9 + FORMER_S)
    assert (state.cluster.epoch, formers(state)) == (grown, [{A: 100}])
    stay(state, 10 + FORMER_S, 20 + FORMER_S)
    assert (state.cluster.epoch, formers(state)) == (grown + 1, []), "one map more, not many"


def test_of_many_maps_before_the_one_that_was_in_force_the_shortest_is_left_out() -> None:
    state = machine()
    state.hello(0, hello())
    joins = {B: 100, C: 101, D: 150, E: 160}
    for address, now in joins.items():
        state.hello(now, hello(address))
    assert formers(state) == [
        dict.fromkeys((A, B, C, D), 100),
        dict.fromkeys((A, B, C), 100),
        {A: 100},
    ]
    stay(state, 161, 145 + FORMER_S)
    assert formers(state)[:2] == [dict.fromkeys((A, B, C, D), 100), dict.fromkeys((A, B, C), 100)]
    assert len(formers(state)) == 2, "each has its own ten minutes"


def test_a_restart_and_a_change_that_is_taken_back_forget_no_map() -> None:
    state = machine()
    state.hello(0, hello())
    state.hello(1, hello(B))
    again = Membership(from_document(to_document(state.cluster)), TIMING, 5000)
    assert formers(again) == formers(state) == [{A: 100}]
    for address in (A, B):
        again.hello(5000, hello(address))
    stay(again, 5000, 4999 + FORMER_S)
    assert again.cluster.formers, "its own absence is no time that passed"
    durable = state.cluster
    state.hello(2, hello(C))
    state.restore(durable, 3)
    assert formers(state) == [{A: 100}]
    stay(state, 3, 4 + FORMER_S)
    assert not state.cluster.formers


def test_a_state_from_before_there_were_former_maps_is_read() -> None:
    state = machine()
    state.hello(0, hello())
    document = to_document(state.cluster)
    del document["formers"]
    assert from_document(document) == state.cluster


def test_what_is_as_it_was_before_is_no_former_map() -> None:
    state = machine()
    state.hello(0, hello())
    state.hello(100, hello(B))
    state.remove(101, B, force=True)
    assert shares(state) == {A: 100}
    assert [one.shares for one in state.cluster.formers] == [{A: 100, B: 100}]


def test_the_map_before_a_drain_stays_for_as_long_as_that_takes() -> None:
    state = machine()
    for address in (A, B):
        state.hello(0, hello(address))
    stay(state, 0, FORMER_S + 5)
    state.drain(FORMER_S, A)
    stay(state, FORMER_S, 4 * FORMER_S)
    assert formers(state) == [dict.fromkeys((A, B), 100)]
    for number, address in enumerate((C, D, E, "10.0.0.6:9900")):
        state.hello(4 * FORMER_S + number, hello(address))
    assert len(formers(state)) == FORMERS_MAX
    assert formers(state)[-1] == dict.fromkeys((A, B), 100), (
        "others were in force, too, and shorter"
    )
    assert {B: 100} in formers(state), "what came while it drained"
    stay(state, 4 * FORMER_S + 4, 6 * FORMER_S)
    assert formers(state) == [dict.fromkeys((A, B), 100)]
    state.drain(6 * FORMER_S, A, undo=True)
    stay(state, 6 * FORMER_S, 7 * FORMER_S + 5)
    assert formers(state) == []


def test_a_map_that_was_in_force_for_long_outlives_a_restart_and_many_short_ones() -> None:
    state = machine()
    for address in (A, B):
        state.hello(0, hello(address))
    stay(state, 0, FORMER_S + 5)
    again = Membership(from_document(to_document(state.cluster)), TIMING, 0)
    for address in (A, B):
        again.hello(1, hello(address))
    for number, address in enumerate((C, D, E, "10.0.0.6:9900")):
        again.hello(10 + 2 * number, hello(address))
    assert dict.fromkeys((A, B), 100) in formers(again)
    state = machine()
    state.hello(0, hello())
    state.hello(0, hello(B))
    stay(state, 0, FORMER_S + 5)
    now = FORMER_S + 5
    state.drain(now, A)
    state.drain(now + 5, A, undo=True)
    for number, address in enumerate((C, D, E)):
        state.hello(now + 6 + number, hello(address))
    assert dict.fromkeys((A, B), 100) in formers(state), (
        "in force for long, and then again a little"
    )


def test_a_removed_node_does_not_come_back_by_itself() -> None:
    state = machine()
    member = state.hello(0, hello())
    assert refusal(state.remove, 0, A) is Reason.NODE_SERVES
    assert state.remove(0, A, force=True)
    assert not state.remove(0, A)
    assert refusal(state.hello, 0, hello(membership=member.membership)) is Reason.NODE_REMOVED
    state.heartbeat(0, A, agent(1), (7, 3), {})
    assert state.cluster.members == {}
    fresh = state.hello(0, hello())
    assert fresh.membership != member.membership


def test_a_second_agent_takes_the_place_of_the_first() -> None:
    state = machine()
    state.hello(0, hello())
    epoch = state.cluster.epoch
    state.hello(1, hello(agent=agent(2)))
    assert state.cluster.epoch == epoch, "the map is the same"
    assert refusal(state.heartbeat, 1, A, agent(1), (7, epoch), {}) is Reason.NODE_TAKEN_OVER
    state.heartbeat(1, A, agent(2), (7, epoch), {})


def test_epochs_go_on_behind_the_latest_that_a_node_knows() -> None:
    state = machine()
    state.hello(0, hello(epoch=41, history=9))
    assert state.cluster.epoch == 42
    state.hello(0, hello(B, epoch=42, history=9))
    assert state.cluster.epoch == 43, "the same number of another history is another map"
    state.hello(0, hello("10.0.0.3:9900", epoch=43, history=7))
    assert state.cluster.epoch == 44
    far = hello(B, epoch=state.cluster.epoch + EPOCH_LEAP_MAX + 1, history=9)
    assert refusal(state.hello, 0, far) is Reason.EPOCH_IMPLAUSIBLE
    assert state.cluster.epoch == 44


def test_another_weight_is_another_map() -> None:
    state = machine()
    state.hello(0, hello())
    epoch = state.cluster.epoch
    state.hello(1, hello(weight=50))
    assert (state.cluster.epoch, shares(state)) == (epoch + 1, {A: 50})


@pytest.mark.parametrize(
    "said",
    [
        {"address": "nowhere"},
        {"address": "a:0"},
        {"address": "a" * 300 + ":9900"},
        {"weight": 0},
        {"weight": 1_000_001},
        {"agent": b"short"},
        {"failure_domain": "x" * 65},
        {"failure_domain": "rack\n1"},
        {"software": "x" * 65},
    ],
)
def test_a_hello_that_says_nonsense_is_refused(said: dict[str, object]) -> None:
    state = machine()
    before = state.cluster
    assert refusal(state.hello, 0, hello(**said)) is Reason.INVALID
    assert state.cluster is before


def test_numbers_of_a_heartbeat_are_bounded() -> None:
    state = machine()
    state.hello(0, hello())
    many = {f"n{i}": i for i in range(STATS_MAX + 1)}
    assert refusal(state.heartbeat, 0, A, agent(1), (7, 2), many) is Reason.INVALID
    assert refusal(state.heartbeat, 0, A, agent(1), (7, 2), {"n" * 65: 1}) is Reason.INVALID


def test_the_pool_has_a_largest_size() -> None:
    state = machine()
    for i in range(NODES_MAX):
        state.hello(0, hello(f"n{i}:1"))
    assert refusal(state.hello, 0, hello("one.more:1")) is Reason.NODES_FULL
    state.remove(0, "n0:1", force=True)
    state.hello(0, hello("one.more:1"))


def test_numbers_of_a_drain_and_of_a_daemon_are_told() -> None:
    state = machine()
    state.hello(0, hello())
    state.heartbeat(0, A, agent(1), (7, state.cluster.epoch), {"memkvd_starts": 1, "drained": 1})
    state.drain(0, A)
    epoch = state.cluster.epoch
    state.take_happened()

    def told(now: float, held: int, **stats: int) -> list[tuple[str, str]]:
        state.heartbeat(now, A, agent(1), (7, held), {"memkvd_starts": 1, **stats})
        return [(one.kind, one.text) for one in state.take_happened()]

    assert told(1, epoch - 1, drained=1) == [], "of a drain before this one"
    assert told(2, epoch) == []
    (refused,) = told(3, epoch, drain_moved_blocks=5, left_no_space=3, left_conflict=1)
    assert refused[0] == "node_drain_refused"
    assert "5 blocks moved" in refused[1]
    assert "1 conflict, 3 no_space" in refused[1]
    assert told(4, epoch, left_no_space=3, left_conflict=1) == [], "once"
    (drained,) = told(5, epoch, drain_moved_blocks=9, drained=1)
    assert drained == ("node_drained", "9 blocks moved: it can be removed")
    assert told(6, epoch, drained=1) == []
    assert [kind for kind, _ in told(7, epoch, memkvd_starts=2)] == ["memkvd_restarted"]
    failing = told(8, epoch, memkvd_starts=2, moves_failing=1)
    assert [kind for kind, _ in failing] == ["node_moves_failing"]
    assert told(9, epoch, memkvd_starts=2, moves_failing=1) == []


def test_a_node_that_refuses_its_map_is_told() -> None:
    state = machine()
    state.hello(0, hello())
    epoch = state.cluster.epoch
    state.take_happened()
    kinds = []
    for now in range(12):
        state.heartbeat(now, A, agent(1), (7, epoch - 1), {})
        kinds += [(now, one.kind) for one in state.take_happened()]
    assert kinds == [(int(state.timing.deadline_s), "node_map_refused")]
    state.heartbeat(12, A, agent(1), (7, epoch), {})
    assert state.take_happened() == []


def test_what_cannot_be_written_is_taken_back() -> None:
    state = machine()
    state.hello(0, hello())
    durable = state.cluster
    state.remove(1, A, force=True)
    state.hello(1, hello(B))
    state.restore(durable, 2)
    assert set(shares(state)) == {A}
    state.heartbeat(2, A, agent(1), (7, durable.epoch), {})
    state.tick(3)
    assert state.node_state(3, A) is NodeState.SERVING


ADDRESSES = [f"10.0.0.{i}:9900" for i in range(1, 5)]
addresses = st.sampled_from(ADDRESSES)


class Pool(RuleBasedStateMachine):
    """Nodes that come, speak, fall silent, drain and go, and a control plane that restarts, loses
    its disk for a moment, or all of its memory; a simple model beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.state = machine()
        self.durable = self.state.cluster
        self.agents: dict[str, bytes] = {}
        self.memberships: dict[str, int] = {}  # what the agents of now were given
        self.held = dict.fromkeys(ADDRESSES, (0, 0))
        self.heard: dict[str, float] = {}
        self.draining: set[str] = set()
        self.lost: set[str] = set()  # this outlives a restart, until the node is heard
        self.seen: dict[tuple[int, int], bytes] = {}
        self.last_epoch: dict[int, int] = {}
        self.given: set[tuple[int, int]] = set()  # (history, membership)
        self.agent_count = 0
        self.histories = 7

    def write(self) -> None:
        """What the keeper does after each change."""
        self.durable = self.state.cluster

    @rule(address=addresses, weight=st.integers(1, 3))
    def agent_starts(self, address: str, weight: int) -> None:
        self.agent_count += 1
        history, epoch = self.held[address]
        said = Hello(address, weight, "", agent(self.agent_count), 0, history, epoch)
        was_known = address in self.state.cluster.members
        member = self.state.hello(self.now, said)
        key = (self.state.cluster.history, member.membership)
        assert was_known or key not in self.given, "a membership is given once"
        self.given.add(key)
        self.agents[address] = said.agent
        self.memberships[address] = member.membership
        self.heard[address] = self.now
        self.lost.discard(address)
        self.write()

    @rule(address=addresses, reads_map=st.booleans())
    def agent_speaks(self, address: str, reads_map: bool) -> None:
        if address not in self.agents or address not in self.state.cluster.members:
            return
        self.state.heartbeat(self.now, address, self.agents[address], self.held[address], {"n": 1})
        self.heard[address] = self.now
        self.lost.discard(address)
        self.write()
        if reads_map:
            before = self.held[address][1]
            self.held[address] = (self.state.cluster.history, self.state.cluster.epoch)
            assert self.held[address][1] >= before, "a node never gets an older map"

    @rule(seconds=st.sampled_from([0.5, 3.0, 10.0, 61.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.state.tick(self.now)
        self.write()

    @rule(address=addresses, undo=st.booleans())
    def operator_drains(self, address: str, undo: bool) -> None:
        if address not in self.state.cluster.members:
            assert refusal(self.state.drain, self.now, address, undo=undo) is Reason.NODE_UNKNOWN
            return
        self.state.drain(self.now, address, undo=undo)
        (self.draining.discard if undo else self.draining.add)(address)
        self.write()

    @rule(address=addresses)
    def operator_removes(self, address: str) -> None:
        known = address in self.state.cluster.members
        assert self.state.remove(self.now, address, force=True) is known
        if not known:
            return
        self.draining.discard(address)
        self.lost.discard(address)
        self.heard.pop(address)
        self.agents.pop(address, None)
        self.write()
        stale = Hello(address, 1, "", agent(0), self.memberships[address])
        assert refusal(self.state.hello, self.now, stale) is Reason.NODE_REMOVED

    @rule(address=addresses)
    def the_disk_takes_nothing(self, address: str) -> None:
        before = shares(self.state)
        if address in self.state.cluster.members:
            self.state.remove(self.now, address, force=True)
        self.state.restore(self.durable, self.now)
        assert shares(self.state) == before

    @rule()
    def control_plane_restarts(self) -> None:
        self.state = Membership(from_document(to_document(self.durable)), TIMING, self.now)
        self.agents.clear()
        self.heard = dict.fromkeys(self.heard, self.now)

    @precondition(lambda self: self.histories < 10)
    @rule()
    def control_plane_loses_its_memory(self) -> None:
        self.histories += 1
        self.state = Membership(Cluster(history=self.histories), TIMING, self.now)
        self.durable = self.state.cluster
        self.agents.clear()
        self.heard.clear()
        self.draining.clear()
        self.lost.clear()
        self.memberships.clear()

    @invariant()
    def one_epoch_is_one_map(self) -> None:
        cluster = self.state.cluster
        content = publish(cluster).message.SerializeToString(deterministic=True)
        assert self.seen.setdefault((cluster.history, cluster.epoch), content) == content

    @invariant()
    def epochs_only_grow(self) -> None:
        cluster = self.state.cluster
        assert cluster.epoch >= self.last_epoch.get(cluster.history, 0)
        self.last_epoch[cluster.history] = cluster.epoch

    @invariant()
    def who_is_heard_has_its_share(self) -> None:
        self.state.tick(self.now)
        self.write()
        for address, member in self.state.cluster.members.items():
            silence = self.now - self.heard[address]
            if silence >= TIMING.lost_after_s:
                self.lost.add(address)
            takes_blocks = address not in self.lost | self.draining
            assert shares(self.state)[address] == (member.weight if takes_blocks else 0)
            state = self.state.node_state(self.now, address)
            if address in self.lost:
                assert state is NodeState.LOST
            elif silence >= TIMING.deadline_s:
                assert state is NodeState.SILENT
            else:
                assert state.name == ("DRAINING" if address in self.draining else "SERVING")

    @invariant()
    def the_snapshot_holds_all_of_it(self) -> None:
        assert from_document(to_document(self.state.cluster)) == self.state.cluster


TestPool = Pool.TestCase
TestPool.settings = settings(max_examples=50, stateful_step_count=30)


def test_the_built_in_tenant_is_there() -> None:
    tenant = _tenancy.find_tenant(Cluster(history=1), BUILT_IN)
    assert (tenant.number, tenant.keys) == (1, ())

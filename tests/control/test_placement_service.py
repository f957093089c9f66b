"""The service Placement over real gRPC: what it answers, and what it refuses."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from memkv_nixl._placement import PlacementNode, group_fingerprint, node_id_of, place_ranked
from memkv_nixl.control import _server, _watch_limit
from memkv_nixl.control._limits import STATS_MAX
from memkv_nixl.control._state import Hello
from memkv_nixl.proto.memkv.v1 import map_pb2
from memkv_nixl.proto.memkv.v1 import placement_pb2 as pb
from tests.control.plane import DEADLINE_S, Agent, Plane, refused, run, serving

A, B, C = "10.0.0.1:9900", "10.0.0.2:9900", "10.0.0.3:9900"
SPACE = bytes(range(16))
Story = Callable[[Plane], Awaitable[None]]


def tell(folder: Path, story: Story, **changes: Any) -> None:
    """Runs a story with a control plane of its own."""

    async def with_plane() -> None:
        async with serving(folder, **changes) as plane:
            await story(plane)

    run(with_plane)


def test_a_node_registers_beats_and_is_listed(tmp_path: Path) -> None:
    async def story(plane: Plane) -> None:
        agent = await plane.join(A, weight=7, failure_domain="rack 1", software="memkvd 0")
        welcome = agent.heard
        assert welcome.map.nodes[0].address == A
        assert welcome.map.epoch == welcome.epoch
        assert (welcome.heartbeat_interval_ms, welcome.deadline_ms) == (1000, 5000)
        assert welcome.state == map_pb2.NODE_STATE_SERVING
        held = (welcome.map.history, welcome.epoch)
        answer = await agent.beat(*held, blocks=3, gets=5)
        assert answer.sequence == 1
        assert not answer.HasField("map"), "it holds the map"
        (node,) = (await plane.placement.ListNodes(pb.ListNodesRequest(with_stats=True))).nodes
        assert (node.address, node.node_id, node.weight) == (A, node_id_of(A), 7)
        assert (node.failure_domain, node.software) == ("rack 1", "memkvd 0")
        assert (node.state, node.epoch) == (map_pb2.NODE_STATE_SERVING, welcome.epoch)
        assert node.membership == welcome.membership
        assert dict(node.stats) == {"blocks": 3, "gets": 5}
        (node,) = (await plane.placement.ListNodes(pb.ListNodesRequest())).nodes
        assert not node.stats

    tell(tmp_path, story)


def test_a_new_map_comes_without_being_asked_for(tmp_path: Path) -> None:
    async def story(plane: Plane) -> None:
        first = await plane.join(A)
        second = await plane.join(B)
        pushed = await first.read()
        assert pushed.sequence == 0
        assert [node.address for node in pushed.map.nodes] == [A, B]
        assert pushed.map == second.heard.map
        # Whoever says that it holds an older one gets it again.
        answer = await first.beat(pushed.map.history, pushed.epoch - 1)
        assert answer.map == pushed.map

    tell(tmp_path, story)


def test_the_map_is_the_same_from_every_side(tmp_path: Path) -> None:
    async def story(plane: Plane) -> None:
        agent = await plane.join(A)
        got = (await plane.placement.GetMap(pb.GetMapRequest())).map
        assert got == agent.heard.map
        same = pb.GetMapRequest(history=got.history, epoch=got.epoch)
        assert not (await plane.placement.GetMap(same)).HasField("map")
        other = pb.GetMapRequest(history=got.history + 1, epoch=got.epoch)
        assert (await plane.placement.GetMap(other)).map == got

        watch = plane.placement.WatchMap(pb.WatchMapRequest())
        assert (await watch.read()).map == got
        quiet = plane.placement.WatchMap(pb.WatchMapRequest(history=got.history, epoch=got.epoch))
        await plane.join(B)
        later = (await watch.read()).map
        assert later.epoch == got.epoch + 1
        assert (await quiet.read()).map == later, "the one it has is not sent"
        watch.cancel()
        quiet.cancel()

    tell(tmp_path, story)


def test_locate_names_the_nodes_that_placement_names(tmp_path: Path) -> None:
    async def story(plane: Plane) -> None:
        for address, weight in ((A, 100), (B, 200), (C, 100)):
            await plane.join(address, weight=weight)
        await plane.placement.DrainNode(pb.DrainNodeRequest(address=C))
        nodes = [PlacementNode(node_id_of(a), w) for a, w in ((A, 100), (B, 200), (C, 0))]
        groups = [b"group %d" % i for i in range(50)]
        answer = await plane.placement.Locate(
            pb.LocateRequest(namespace_id=SPACE, groups=groups, count=3)
        )
        assert answer.epoch == await plane.epoch()
        for group, place in zip(groups, answer.places, strict=True):
            ranked = place_ranked(group_fingerprint(SPACE, group), nodes, 3)
            assert list(place.addresses) == [(A, B, C)[index] for index in ranked]
        one = await plane.placement.Locate(pb.LocateRequest(namespace_id=SPACE, groups=[b"g"]))
        assert len(one.places[0].addresses) == 1

    tell(tmp_path, story)


def test_an_empty_pool_holds_nothing(tmp_path: Path) -> None:
    async def story(plane: Plane) -> None:
        answer = await plane.placement.Locate(pb.LocateRequest(namespace_id=SPACE, groups=[b"g"]))
        assert list(answer.places[0].addresses) == []

    tell(tmp_path, story)


@pytest.mark.parametrize(
    "asked",
    [
        {"namespace_id": b"short", "groups": [b"g"]},
        {"namespace_id": SPACE, "groups": []},
        {"namespace_id": SPACE, "groups": [b"g"] * 1025},
        {"namespace_id": SPACE, "groups": [b""]},
        {"namespace_id": SPACE, "groups": [b"g" * 513]},
        {"namespace_id": SPACE, "groups": [b"g"], "count": 17},
    ],
    ids=["namespace", "none", "many", "empty", "long", "count"],
)
def test_what_locate_refuses(tmp_path: Path, asked: dict[str, Any]) -> None:
    async def story(plane: Plane) -> None:
        call = plane.placement.Locate(pb.LocateRequest(**asked))
        assert await refused(call) == ("INVALID_ARGUMENT", "INVALID")

    tell(tmp_path, story)


def test_a_node_is_told_to_drain_and_not_to(tmp_path: Path) -> None:
    async def story(plane: Plane) -> None:
        agent = await plane.join(A)
        for undo, state in ((False, "DRAINING"), (True, "SERVING")):
            for _ in range(2):  # a call that is sent twice has one effect
                answer = await plane.placement.DrainNode(pb.DrainNodeRequest(address=A, undo=undo))
            told = await agent.read()
            assert map_pb2.NodeState.Name(told.state) == f"NODE_STATE_{state}"
            assert told.epoch == answer.epoch == told.map.epoch

    tell(tmp_path, story)


def test_what_drain_refuses(tmp_path: Path) -> None:
    async def story(plane: Plane) -> None:
        call = plane.placement.DrainNode(pb.DrainNodeRequest(address=A))
        assert await refused(call) == ("NOT_FOUND", "NODE_UNKNOWN")

    tell(tmp_path, story)


def test_a_removed_node_is_told_and_stays_away(tmp_path: Path) -> None:
    async def story(plane: Plane) -> None:
        agent = await plane.join(A)
        call = plane.placement.RemoveNode(pb.RemoveNodeRequest(address=A))
        assert await refused(call) == ("FAILED_PRECONDITION", "NODE_SERVES")
        await agent.beat(drained=1)  # of a drain before this one
        epoch = (await plane.placement.DrainNode(pb.DrainNodeRequest(address=A))).epoch
        for held, stats in ((0, {"drained": 1}), (epoch, {"drained": 0, "left_no_space": 3})):
            await agent.beat(epoch=held, **stats)
            call = plane.placement.RemoveNode(pb.RemoveNodeRequest(address=A))
            assert await refused(call) == ("FAILED_PRECONDITION", "NODE_SERVES")
        await agent.beat(epoch=epoch, drained=1)
        answer = await plane.placement.RemoveNode(pb.RemoveNodeRequest(address=A))
        assert answer.was_known
        again = await plane.placement.RemoveNode(pb.RemoveNodeRequest(address=A))
        assert (again.was_known, again.epoch) == (False, answer.epoch)
        assert await refused(heard_until_the_end(agent)) == (
            "FAILED_PRECONDITION",
            "NODE_REMOVED",
        )
        back = plane.join(A, membership=agent.heard.membership)
        assert await refused(back) == ("FAILED_PRECONDITION", "NODE_REMOVED")
        fresh = await plane.join(A)
        assert fresh.heard.membership != agent.heard.membership

    tell(tmp_path, story)


def test_of_two_agents_of_one_node_the_later_counts(tmp_path: Path) -> None:
    async def story(plane: Plane) -> None:
        first = await plane.join(A)
        second = await plane.join(A)
        assert await refused(first.beat()) == ("ABORTED", "NODE_TAKEN_OVER")
        await second.beat()
        await plane.next_event("node_taken_over", A)

    tell(tmp_path, story)


async def heard_until_the_end(agent: Agent) -> None:
    while True:
        await agent.read()


async def send(plane: Plane, *messages: pb.RegisterNodeRequest) -> None:
    """A stream of these messages, read to its end; raises when that is an error."""
    stream = plane.placement.RegisterNode(timeout=DEADLINE_S)
    for message in messages:
        await stream.write(message)
    await stream.done_writing()
    while await stream.read() is not grpc.aio.EOF:
        pass


HELLO = pb.RegisterNodeRequest(hello=pb.NodeHello(address=A, weight=1, agent=bytes(16)))
BEAT = pb.RegisterNodeRequest(heartbeat=pb.NodeHeartbeat(sequence=1))
MANY = pb.RegisterNodeRequest(
    heartbeat=pb.NodeHeartbeat(sequence=1, stats={f"n{i}": i for i in range(STATS_MAX + 1)})
)
NOWHERE = pb.RegisterNodeRequest(hello=pb.NodeHello(address="x", weight=1, agent=bytes(16)))
FAR = pb.RegisterNodeRequest(
    hello=pb.NodeHello(address=A, weight=1, agent=bytes(16), history=1, epoch=2**31)
)


@pytest.mark.parametrize(
    ("messages", "answer"),
    [
        ([], ("INVALID_ARGUMENT", "STREAM_BROKEN")),
        ([BEAT], ("INVALID_ARGUMENT", "STREAM_BROKEN")),
        ([pb.RegisterNodeRequest()], ("INVALID_ARGUMENT", "STREAM_BROKEN")),
        ([HELLO, HELLO], ("INVALID_ARGUMENT", "STREAM_BROKEN")),
        ([HELLO, pb.RegisterNodeRequest()], ("INVALID_ARGUMENT", "STREAM_BROKEN")),
        ([HELLO, MANY], ("INVALID_ARGUMENT", "INVALID")),
        ([NOWHERE], ("INVALID_ARGUMENT", "INVALID")),
        ([FAR], ("FAILED_PRECONDITION", "EPOCH_IMPLAUSIBLE")),
    ],
    ids=["nothing", "beat", "empty", "twice", "later-empty", "many", "nowhere", "far"],
)
def test_what_a_stream_of_heartbeats_refuses(
    tmp_path: Path, messages: list[pb.RegisterNodeRequest], answer: tuple[str, str]
) -> None:
    async def story(plane: Plane) -> None:
        assert await refused(send(plane, *messages)) == answer

    tell(tmp_path, story)


def test_a_stream_that_ends_in_order_is_no_error(tmp_path: Path) -> None:
    async def story(plane: Plane) -> None:
        await send(plane, HELLO, BEAT)
        await plane.next_event("node_joined", A)

    tell(tmp_path, story)


def test_who_says_no_hello_is_sent_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("memkv_nixl.control._placement_service.HELLO_DEADLINE_S", 0.05)

    async def story(plane: Plane) -> None:
        stream = plane.placement.RegisterNode(timeout=DEADLINE_S)
        assert await refused(stream.read()) == ("DEADLINE_EXCEEDED", "TOO_SLOW")

    tell(tmp_path, story)


def test_silence_is_noticed_and_a_heartbeat_mends_it(tmp_path: Path) -> None:
    async def story(plane: Plane) -> None:
        agent = await plane.join(A)
        epoch = agent.heard.epoch
        await plane.next_event("node_silent", A)
        await plane.next_event("node_lost", A)
        told = await agent.read()
        assert (told.epoch, told.map.nodes[0].weight) == (epoch + 1, 0)
        await agent.beat()
        await plane.next_event("node_share_back", A)
        while agent.heard.epoch < epoch + 2:
            await agent.read()
        assert agent.heard.map.nodes[0].weight == 100

    tell(tmp_path, story, heartbeat_ms=10, deadline_ms=100, lost_after_ms=200)


def test_the_pool_survives_a_restart(tmp_path: Path) -> None:
    async def story() -> None:
        async with serving(tmp_path) as plane:
            agent = await plane.join(A)
            await plane.join(B)
            await plane.placement.DrainNode(pb.DrainNodeRequest(address=B))
            before = (await plane.placement.GetMap(pb.GetMapRequest())).map
        async with serving(tmp_path) as plane:
            assert (await plane.placement.GetMap(pb.GetMapRequest())).map == before
            said = {"membership": agent.heard.membership, "history": before.history}
            back = await plane.join(A, **said, epoch=before.epoch)
            assert not back.heard.HasField("map"), "it holds the map that is current"
            assert back.heard.membership == agent.heard.membership
            assert await plane.epoch() == before.epoch

    run(story)


def test_two_hundred_join_at_once_and_all_hold_one_map(tmp_path: Path) -> None:
    async def story(plane: Plane) -> None:
        agents = await asyncio.gather(*(plane.join(f"n{i}:1") for i in range(200)))
        last = await plane.epoch()

        async def settled(agent: Agent) -> Any:
            newest = agent.heard
            while newest.epoch < last:
                newest = await agent.read()
            return newest.map

        maps = await asyncio.gather(*(settled(agent) for agent in agents))
        assert all(got == maps[0] for got in maps)
        assert len(maps[0].nodes) == 200

    tell(tmp_path, story)


def test_the_largest_locate_on_the_largest_map_is_answered_and_holds_nobody_up(
    tmp_path: Path,
) -> None:
    async def story(plane: Plane) -> None:
        loop = asyncio.get_running_loop()
        agent = await plane.join(A)
        others = [Hello(f"10.1.0.{i}:9900", 100, "", i.to_bytes(16, "big")) for i in range(1023)]
        await plane.server.keeper.change(
            lambda state, now: [state.hello(now, other) for other in others]
        )
        groups = [i.to_bytes(4, "big") for i in range(1024)]
        request = pb.LocateRequest(namespace_id=SPACE, groups=groups, count=2)
        began = loop.time()
        asked = asyncio.ensure_future(plane.placement.Locate(request))
        slowest = 0.0
        while not asked.done():
            sent = loop.time()
            await agent.beat()
            slowest = max(slowest, loop.time() - sent)
        answer, took = await asked, loop.time() - began
        assert [len(place.addresses) for place in answer.places] == [2] * 1024
        assert took < 1.0
        assert slowest < 0.5, "a heartbeat waits"

    tell(tmp_path, story)


def test_idle_watches_leave_room_for_agents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_server, "CALLS_AT_ONCE_MAX", 16)
    monkeypatch.setattr(_watch_limit, "WATCHES_AT_ONCE_MAX", 8)

    async def story(plane: Plane) -> None:
        watches = [plane.placement.WatchMap(pb.WatchMapRequest()) for _ in range(8)]
        for watch in watches:
            await watch.read()
        for more in range(8):
            call = plane.placement.WatchMap(pb.WatchMapRequest())
            assert await refused(call.read()) == ("RESOURCE_EXHAUSTED", "WATCHES_FULL"), more
        agent = await plane.join(A)
        await agent.beat()
        watches[0].cancel()
        await plane.next_event("node_joined")  # a watch that ended makes room for another

    tell(tmp_path, story)

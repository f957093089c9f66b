"""The service Placement: streams of node agents, the map, operators' calls about nodes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from memkv_nixl.control._because import because
from memkv_nixl.control._calls import call, stream
from memkv_nixl.control._keeper import Keeper
from memkv_nixl.control._limits import (
    GROUPS_PER_LOCATE_MAX,
    HELLO_DEADLINE_S,
    RANKED_MAX,
)
from memkv_nixl.control._publish import node_id
from memkv_nixl.control._refused import Reason, RefusalError
from memkv_nixl.control._state import Hello, Membership, NodeState
from memkv_nixl.control._tenancy import check_id
from memkv_nixl.proto.memkv.v1 import map_pb2, placement_pb2_grpc
from memkv_nixl.proto.memkv.v1 import placement_pb2 as pb

_STATES = {
    NodeState.SERVING: map_pb2.NODE_STATE_SERVING,
    NodeState.SILENT: map_pb2.NODE_STATE_SILENT,
    NodeState.LOST: map_pb2.NODE_STATE_LOST,
    NodeState.DRAINING: map_pb2.NODE_STATE_DRAINING,
}
_GROUP_BYTES_MAX = 512  # a block that names no group is its own, under its key
_Requests = AsyncIterator[pb.RegisterNodeRequest]


class PlacementService(placement_pb2_grpc.PlacementServicer):
    """docs/formats/control.md says what each call refuses."""

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper
        self.agents = 0  # streams that are open

    @stream
    async def RegisterNode(
        self, requests: _Requests, context: Any
    ) -> AsyncIterator[pb.RegisterNodeResponse]:
        self.agents += 1
        try:
            async for response in _AgentStream(self._keeper, requests).answers():
                yield response
        finally:
            self.agents -= 1

    @call
    async def GetMap(self, request: pb.GetMapRequest) -> pb.GetMapResponse:
        published = self._keeper.published
        if published.is_held(request.history, request.epoch):
            return pb.GetMapResponse()
        return pb.GetMapResponse(map=published.message)

    @stream
    async def WatchMap(
        self, request: pb.WatchMapRequest, context: Any
    ) -> AsyncIterator[pb.WatchMapResponse]:
        published = self._keeper.published
        if not published.is_held(request.history, request.epoch):
            yield pb.WatchMapResponse(map=published.message)
        while True:
            published = await self._keeper.next_map(published)
            yield pb.WatchMapResponse(map=published.message)

    @call
    async def Locate(self, request: pb.LocateRequest) -> pb.LocateResponse:
        check_id("namespace_id", request.namespace_id)
        _check_groups(request)
        published = self._keeper.published
        found = await asyncio.to_thread(  # heartbeats go on meanwhile
            published.places, request.namespace_id, list(request.groups), request.count or 1
        )
        places = [pb.GroupPlace(addresses=addresses) for addresses in found]
        return pb.LocateResponse(epoch=published.epoch, places=places)

    @call
    async def ListNodes(self, request: pb.ListNodesRequest) -> pb.ListNodesResponse:
        state, now = self._keeper.state, self._keeper.clock()
        nodes = [
            _node_info(state, address, now, with_stats=request.with_stats)
            for address in sorted(state.cluster.members)
        ]
        return pb.ListNodesResponse(
            nodes=nodes, epoch=self._keeper.published.epoch, leader=self._keeper.leader
        )

    @call
    async def DrainNode(self, request: pb.DrainNodeRequest) -> pb.DrainNodeResponse:
        why = because(request.reason)
        await self._keeper.change(
            lambda state, now: state.drain(now, request.address, undo=request.undo, because=why)
        )
        return pb.DrainNodeResponse(epoch=self._keeper.published.epoch)

    @call
    async def RemoveNode(self, request: pb.RemoveNodeRequest) -> pb.RemoveNodeResponse:
        why = because(request.reason)
        was_known = await self._keeper.change(
            lambda state, now: state.remove(now, request.address, force=request.force, because=why)
        )
        return pb.RemoveNodeResponse(epoch=self._keeper.published.epoch, was_known=was_known)


class _AgentStream:
    """One agent's stream: every message is answered, and a new map is sent unasked.

    It ends with the term: what is known of nodes is known to the leader only.
    """

    def __init__(self, keeper: Keeper, requests: _Requests) -> None:
        self._keeper = keeper
        self._term = keeper.term
        self._requests = requests
        self._address = ""
        self._agent = b""
        self._held = (0, 0)  # the map that the node holds, or that is on its way there

    async def answers(self) -> AsyncIterator[pb.RegisterNodeResponse]:
        yield await self._welcome()
        known = self._keeper.published
        beat = asyncio.ensure_future(self._next())
        fresh = asyncio.ensure_future(self._keeper.next_map(known))
        over = asyncio.ensure_future(self._term.wait())
        try:
            while True:
                await asyncio.wait({beat, fresh, over}, return_when=asyncio.FIRST_COMPLETED)
                self._keeper.check_term(self._term)
                if fresh.done():
                    known = fresh.result()
                    fresh = asyncio.ensure_future(self._keeper.next_map(known))
                    yield self._answer(0)  # refuses one that does not speak for the node any more
                if beat.done():
                    request = beat.result()
                    if request is None:
                        return
                    beat = asyncio.ensure_future(self._next())
                    yield self._answer(self._beat(request))
        finally:
            beat.cancel()
            fresh.cancel()
            over.cancel()

    async def _welcome(self) -> pb.RegisterNodeResponse:
        try:
            request = await asyncio.wait_for(self._next(), HELLO_DEADLINE_S)
        except asyncio.TimeoutError:
            raise RefusalError(Reason.TOO_SLOW, f"no hello within {HELLO_DEADLINE_S:g} s") from None
        if request is None or request.WhichOneof("kind") != "hello":
            raise RefusalError(Reason.STREAM_BROKEN, "the first message must be a hello")
        said = request.hello
        hello = Hello(
            address=said.address,
            weight=said.weight,
            failure_domain=said.failure_domain,
            agent=said.agent,
            membership=said.membership,
            history=said.history,
            epoch=said.epoch,
            software=said.software,
        )
        await self._keeper.change(lambda state, now: state.hello(now, hello))
        self._address, self._agent = hello.address, hello.agent
        self._held = (hello.history, hello.epoch)
        return self._answer(0)

    def _beat(self, request: pb.RegisterNodeRequest) -> int:
        if request.WhichOneof("kind") != "heartbeat":
            raise RefusalError(Reason.STREAM_BROKEN, "behind the hello there are heartbeats only")
        self._keeper.check_term(self._term)
        said = request.heartbeat
        self._keeper.counts.heartbeats += 1
        held = (said.history, said.epoch)
        self._keeper.note(
            lambda state, now: state.heartbeat(now, self._address, self._agent, held, said.stats)
        )
        self._held = held
        return said.sequence

    def _answer(self, sequence: int) -> pb.RegisterNodeResponse:
        self._keeper.check_term(self._term)
        published, timing = self._keeper.published, self._keeper.timing
        member = published.cluster.members.get(self._address)
        if member is None:
            raise RefusalError(
                Reason.NODE_REMOVED,
                f"{self._address} was removed from the pool; start its agent anew to have it join",
            )
        self._keeper.state.check_agent(self._address, self._agent)
        response = pb.RegisterNodeResponse(
            sequence=sequence,
            membership=member.membership,
            state=_STATES[NodeState.DRAINING if member.draining else NodeState.SERVING],
            epoch=published.epoch,
            heartbeat_interval_ms=int(timing.heartbeat_s * 1000),
            deadline_ms=int(timing.deadline_s * 1000),
        )
        if not published.is_held(*self._held):
            response.map.CopyFrom(published.message)
            self._held = (published.history, published.epoch)
        return response

    async def _next(self) -> pb.RegisterNodeRequest | None:
        return await anext(self._requests, None)


def _node_info(state: Membership, address: str, now: float, *, with_stats: bool) -> pb.NodeInfo:
    member, heard = state.cluster.members[address], state.heard(address)
    return pb.NodeInfo(
        address=address,
        node_id=node_id(address),
        weight=member.weight,
        failure_domain=member.failure_domain,
        state=_STATES[state.node_state(now, address)],
        silent_ms=max(0, int((now - heard.at) * 1000)) if state.hears else 0,
        epoch=heard.epoch,
        membership=member.membership,
        software=heard.software,
        stats=heard.stats if with_stats else {},
    )


def _check_groups(request: pb.LocateRequest) -> None:
    if not 1 <= len(request.groups) <= GROUPS_PER_LOCATE_MAX:
        raise RefusalError(
            Reason.INVALID,
            f"groups: 1 to {GROUPS_PER_LOCATE_MAX} in one call, not {len(request.groups)}",
        )
    if any(not 1 <= len(group) <= _GROUP_BYTES_MAX for group in request.groups):
        raise RefusalError(Reason.INVALID, f"groups: a name has 1 to {_GROUP_BYTES_MAX} bytes")
    if request.count > RANKED_MAX:
        raise RefusalError(Reason.INVALID, f"count: at most {RANKED_MAX}, not {request.count}")

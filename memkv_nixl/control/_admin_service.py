"""The service Admin: how the control plane is, and what happened."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

from memkv_nixl import __version__
from memkv_nixl.control._calls import call, stream
from memkv_nixl.control._keeper import Event, Keeper
from memkv_nixl.control._placement_service import PlacementService
from memkv_nixl.control._state import NodeState
from memkv_nixl.proto.memkv.v1 import admin_pb2 as pb
from memkv_nixl.proto.memkv.v1 import admin_pb2_grpc

_HEARD = (NodeState.SERVING, NodeState.DRAINING)


class AdminService(admin_pb2_grpc.AdminServicer):
    """docs/formats/control.md lists the kinds of events."""

    def __init__(self, keeper: Keeper, placement: PlacementService) -> None:
        self._keeper = keeper
        self._placement = placement

    @call
    async def Status(self, request: pb.StatusRequest) -> pb.StatusResponse:
        keeper, now = self._keeper, self._keeper.clock()
        cluster, published = keeper.state.cluster, keeper.published
        states = {address: keeper.state.node_state(now, address) for address in cluster.members}
        counts = Counter(states.values())
        heard = [
            keeper.state.heard(address) for address, state in states.items() if state in _HEARD
        ]
        held = [one.epoch if one.history == published.history else 0 for one in heard]
        return pb.StatusResponse(
            software=f"memkv control {__version__}",
            uptime_ms=int((now - keeper.started) * 1000),
            history=published.history,
            epoch=published.epoch,
            nodes=[
                pb.NodeCount(state=state.name.lower(), count=counts[state]) for state in NodeState
            ],
            epoch_everywhere=min(held, default=0),
            namespaces=len(published.cluster.spaces),
            tenants=len(published.cluster.tenants),
            snapshot_ok=keeper.snapshot_ok,
            agents=self._placement.agents,
            leads=keeper.leads,
            leader=keeper.leader,
        )

    @stream
    async def WatchEvents(
        self, request: pb.WatchEventsRequest, context: Any
    ) -> AsyncIterator[pb.WatchEventsResponse]:
        # Numbers begin anew with each start: one from before it means all.
        last = request.after if request.after <= self._keeper.last_event else 0
        while True:
            for event in self._keeper.events_after(last):
                last = event.sequence
                yield _event(event)
            if not request.follow:
                return
            await self._keeper.next_event(last)


def _event(event: Event) -> pb.WatchEventsResponse:
    return pb.WatchEventsResponse(
        sequence=event.sequence,
        time_ms=event.time_ms,
        kind=event.what.kind,
        subject=event.what.subject,
        text=event.what.text,
        epoch=event.epoch,
    )

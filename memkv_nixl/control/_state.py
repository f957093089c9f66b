"""Membership: who is in the map, from heartbeats and the clock. No I/O; time is handed in.

A node is serving as long as it is heard. After `deadline_s` of silence it is silent, which changes
nothing in the map: memkvd may well serve without its parent, and a restart moves no block. After
`lost_after_s` it is lost: its share goes to the others. When it is heard again it has its
share back. Whatever changes the map makes the next `Cluster`; what only a running control plane
knows (who was heard when, and with which numbers) is beside it and does not survive.

When shares change, those before stay in the map for `FORMER_S`, so that blocks are found where they
were; and as long as a node drains that had a share then. Of more than `FORMERS_MAX` such the one
that was in force the shortest is left out.

Seconds of silence count from the start of the control plane at the earliest: its own absence is
nobody's fault.
"""

from __future__ import annotations

import dataclasses
import enum
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from memkv_nixl._config import check_address
from memkv_nixl._errors import ConfigError
from memkv_nixl.control._cluster import Cluster, Former, Member, next_cluster, shares
from memkv_nixl.control._limits import (
    ADDRESS_BYTES_MAX,
    DOMAIN_BYTES_MAX,
    EPOCH_LEAP_MAX,
    FORMER_S,
    FORMERS_MAX,
    NODES_MAX,
    REMOVED_MAX,
    SOFTWARE_BYTES_MAX,
    STAT_NAME_BYTES_MAX,
    STATS_MAX,
    WEIGHT_MAX,
)
from memkv_nixl.control._refused import Reason, RefusalError

AGENT_BYTES = 16
_LEFT = "left_"  # how the numbers of blocks begin that a drain left behind


class NodeState(enum.Enum):
    """How a node is; the values are those of the protocol."""

    SERVING = 1
    SILENT = 2
    LOST = 3
    DRAINING = 4


@dataclass(frozen=True)
class Timing:
    """How long who may be silent."""

    heartbeat_s: float = 1.0
    deadline_s: float = 5.0
    lost_after_s: float = 60.0


@dataclass(frozen=True)
class Hello:
    """What a node's agent says first."""

    address: str
    weight: int
    failure_domain: str
    agent: bytes
    membership: int = 0
    history: int = 0
    epoch: int = 0
    software: str = ""


@dataclass(frozen=True)
class Happened:
    """Something that an operator may want to know."""

    kind: str
    subject: str
    text: str


@dataclass
class Heard:
    """What is known of a node since the control plane started."""

    at: float
    agent: bytes = b""
    software: str = ""
    history: int = 0
    epoch: int = 0
    silent: bool = False  # whether that was told
    behind_since: float | None = None  # since when it holds another map than the present one
    refuses: bool = False  # whether that was told
    drain_epoch: int = (
        0  # of the map by which it drains; what it counted before is of another drain
    )
    stats: Mapping[str, int] = field(default_factory=dict)

    @property
    def drained(self) -> bool:
        """Whether it says that every block of it lies on another node."""
        return self.epoch >= self.drain_epoch and self.stats.get("drained") == 1

    @property
    def left_behind(self) -> dict[str, int]:
        """What a drain that has ended left on it, by why other nodes refused it."""
        if self.epoch < self.drain_epoch:
            return {}
        return {
            name.removeprefix(_LEFT): count
            for name, count in self.stats.items()
            if name.startswith(_LEFT) and count > 0
        }


class _Time(NamedTuple):
    """When shares were in force; of those that an earlier process saw nobody knows how long."""

    lasted_s: float
    ended: float


class Membership:
    """The machine. Every call may raise RefusalError, and then nothing has changed."""

    def __init__(self, cluster: Cluster, timing: Timing, now: float, *, hears: bool = True) -> None:
        self.cluster = cluster
        self.timing = timing
        self.hears = hears  # of a replica that does not lead: nodes speak to another one
        self._heard = {address: Heard(now) for address in cluster.members}
        self._shares_since = -math.inf  # nobody knows, and a restart makes no map a short one
        self._formers: dict[int, _Time] = {}  # by the epoch that took their place
        self._start = now
        self._happened: list[Happened] = []

    # ---- what nodes say

    def hello(self, now: float, hello: Hello) -> Member:
        """An agent registers its node; a second one for the same address takes its place."""
        _check_hello(hello)
        if (hello.address, hello.membership) in self.cluster.removed:
            raise RefusalError(
                Reason.NODE_REMOVED,
                f"{hello.address} was removed from the pool; start its agent anew to have it join",
            )
        known = self.cluster.members.get(hello.address)
        if known is None and len(self.cluster.members) >= NODES_MAX:
            raise RefusalError(
                Reason.NODES_FULL, f"the pool has {NODES_MAX} nodes, the most; remove one first"
            )
        epoch = self._epoch_after(hello)
        if known is None:
            member = self._join(now, hello, epoch)
        else:
            member = self._meet_again(now, known, hello, epoch)
        former = self._heard.get(hello.address)
        if known and former and former.agent not in (b"", hello.agent):
            self._tell("node_taken_over", hello.address, "another agent speaks for this node now")
        self._heard[hello.address] = Heard(
            now,
            hello.agent,
            hello.software,
            hello.history,
            hello.epoch,
            drain_epoch=former.drain_epoch if former else 0,
        )
        return member

    def heartbeat(
        self,
        now: float,
        address: str,
        agent: bytes,
        held: tuple[int, int],
        stats: Mapping[str, int],
    ) -> None:
        """A node is still there, holds the map of `held` (history, epoch) and counts `stats`.

        Of a node that is being removed it means nothing.
        """
        member = self.cluster.members.get(address)
        if member is None:
            return
        self.check_agent(address, agent)
        _check_stats(stats)
        heard = self._heard[address]
        former = dataclasses.replace(heard)
        heard.at = now
        heard.history, heard.epoch = held
        heard.stats = dict(stats)
        self._tell_numbers(member, former, heard)
        self._tell_map(now, address, heard)
        if heard.silent:
            heard.silent = False
            self._tell("node_returned", address, "it is heard again")
        if member.lost:
            self._replace(now, member, lost=False)
            self._tell("node_share_back", address, "its share is its own again")

    def check_agent(self, address: str, agent: bytes) -> None:
        """Refuses an agent whose place another one took."""
        if self._heard[address].agent != agent:
            raise RefusalError(
                Reason.NODE_TAKEN_OVER,
                f"another agent registered {address}; two agents for one address are a mistake of "
                "the configuration, unless this one was replaced",
            )

    # ---- what the clock says

    def tick(self, now: float) -> None:
        """Looks at who was silent for too long."""
        lost = {}
        self._forget_removed(now)
        for address in self.cluster.members:
            heard = self._heard[address]
            silence = now - heard.at
            if silence >= self.timing.deadline_s and not heard.silent:
                heard.silent = True
                self._tell("node_silent", address, f"no heartbeat for {silence:.1f} s")
            member = self.cluster.members[address]
            if silence >= self.timing.lost_after_s and not member.lost:
                lost[address] = dataclasses.replace(member, lost=True)
                self._tell(
                    "node_lost",
                    address,
                    f"no heartbeat for {silence:.1f} s: its share goes to the other nodes",
                )
        if lost:
            self._settle(now, {**self.cluster.members, **lost})
        elif any(self._is_past(now, former) for former in self.cluster.formers):
            formers = [one for one in self.cluster.formers if not self._is_past(now, one)]
            self.cluster = next_cluster(self.cluster, formers=tuple(formers))

    # ---- what operators say

    def drain(self, now: float, address: str, *, undo: bool = False, because: str = "") -> None:
        """No new block is placed on the node, or that is taken back. `because` ends the event."""
        member = self._known(address)
        if member.draining == (not undo):
            return
        self._replace(now, member, draining=not undo)
        self._heard[address].drain_epoch = self.cluster.epoch
        if undo:
            self._tell("node_drain_undone", address, f"it takes its share again{because}")
        else:
            self._tell("node_draining", address, f"no new block is placed there{because}")

    def remove(self, now: float, address: str, *, force: bool = False, because: str = "") -> bool:
        """Forgets a node; False when there was none. `because` ends the event."""
        member = self.cluster.members.get(address)
        if member is None:
            return False
        state = self.node_state(now, address)
        if not force:
            self._check_removable(address, state)
        members = {name: kept for name, kept in self.cluster.members.items() if name != address}
        removed = (*self.cluster.removed, (address, member.membership))[-REMOVED_MAX:]
        self._settle(now, members, removed=removed)
        self._tell("node_removed", address, f"it was {state.name.lower()}{because}")
        return True

    # ---- what is seen

    def node_state(self, now: float, address: str) -> NodeState:
        """How a node is."""
        member = self.cluster.members[address]
        if member.lost:
            return NodeState.LOST
        if self.hears and now - self._heard[address].at >= self.timing.deadline_s:
            return NodeState.SILENT
        return NodeState.DRAINING if member.draining else NodeState.SERVING

    def heard(self, address: str) -> Heard:
        """What is known of a node since the control plane started."""
        return self._heard[address]

    def take_happened(self) -> list[Happened]:
        """What happened since the last call."""
        happened, self._happened = self._happened, []
        return happened

    def change(self, cluster: Cluster, *happened: Happened) -> None:
        """Takes a cluster that differs from the present one in namespaces and tenants only."""
        self.cluster = cluster
        self._happened += happened

    def restore(self, cluster: Cluster, now: float) -> None:
        """Takes changes back that could not be written; who was heard is not forgotten."""
        self.cluster = cluster
        for address in cluster.members:
            self._heard.setdefault(address, Heard(now))
        self._happened = []

    # ---- inside

    def _epoch_after(self, hello: Hello) -> int:
        """The epoch that the map must have so that this node takes it; 0: any.

        A node may hold a later map than ours when the snapshot was lost or an old one restored:
        epochs go on behind the latest that anybody knows.
        """
        ours = self.cluster
        ahead = hello.epoch > ours.epoch or (
            hello.epoch == ours.epoch and hello.history != ours.history
        )
        if not ahead:
            return 0
        if hello.epoch - ours.epoch > EPOCH_LEAP_MAX:
            raise RefusalError(
                Reason.EPOCH_IMPLAUSIBLE,
                f"{hello.address} says that it holds the map of epoch {hello.epoch}, and this "
                f"control plane is at {ours.epoch}: is it the node of another pool?",
            )
        return hello.epoch + 1

    def _join(self, now: float, hello: Hello, epoch: int) -> Member:
        number = self.cluster.last_number + 1
        member = Member(hello.address, hello.weight, hello.failure_domain, number)
        members = {**self.cluster.members, hello.address: member}
        self._settle(now, members, epoch=epoch, last_number=number)
        self._tell("node_joined", hello.address, f"weight {hello.weight}")
        self._tell_leap(hello, epoch)
        return member

    def _meet_again(self, now: float, known: Member, hello: Hello, epoch: int) -> Member:
        heard = self._heard[hello.address]
        member = dataclasses.replace(
            known, weight=hello.weight, failure_domain=hello.failure_domain, lost=False
        )
        if known.lost or heard.silent:
            self._tell("node_returned", hello.address, "it registered again")
        if (known.weight, known.failure_domain) != (member.weight, member.failure_domain):
            domain = f", failure domain {member.failure_domain!r}" if member.failure_domain else ""
            self._tell("node_changed", hello.address, f"weight {member.weight}{domain}")
        if member != known or epoch:
            members = {**self.cluster.members, hello.address: member}
            self._settle(now, members, epoch=epoch)
        self._tell_leap(hello, epoch)
        return member

    def _check_removable(self, address: str, state: NodeState) -> None:
        if state is NodeState.SERVING:
            raise RefusalError(
                Reason.NODE_SERVES,
                f"{address} serves: removing it loses its blocks. Drain it first, or force it",
            )
        if state is not NodeState.DRAINING or self._heard[address].drained:
            return
        left = _words(self._heard[address].left_behind)
        why = (
            f"other nodes refused blocks of it ({left})"
            if left
            else "not every block of it lies on another node yet"
        )
        raise RefusalError(
            Reason.NODE_SERVES,
            f"{address} drains, and {why}: removing it now loses them. Wait for `drained`, or "
            "force it",
        )

    def _tell_numbers(self, member: Member, former: Heard, heard: Heard) -> None:
        """What the numbers of a heartbeat say that those before did not."""
        address = member.address
        starts, before = (of.stats.get("memkvd_starts", 0) for of in (heard, former))
        if former.stats and starts > before:
            self._tell("memkvd_restarted", address, "it had ended; the log of its agent has more")
        if heard.stats.get("moves_failing", 0) > former.stats.get("moves_failing", 0):
            self._tell(
                "node_moves_failing",
                address,
                "its blocks wait to be moved; its agent's log says why",
            )
        if not member.draining:
            return
        moved = heard.stats.get("drain_moved_blocks", 0)
        left = _words(heard.left_behind)
        if heard.drained and not former.drained:
            self._tell("node_drained", address, f"{moved} blocks moved: it can be removed")
        elif left and left != _words(former.left_behind):
            self._tell(
                "node_drain_refused", address, f"{moved} blocks moved; other nodes refused {left}"
            )

    def _tell_map(self, now: float, address: str, heard: Heard) -> None:
        """A node is given each map at once; one that does not come to hold it refuses it."""
        if heard.epoch >= self.cluster.epoch:
            heard.behind_since, heard.refuses = None, False
            return
        if heard.behind_since is None:
            heard.behind_since = now
        if now - heard.behind_since >= self.timing.deadline_s and not heard.refuses:
            heard.refuses = True
            self._tell(
                "node_map_refused",
                address,
                f"it holds epoch {heard.epoch} and was given {self.cluster.epoch}: the log of its "
                "memkvd says why",
            )

    def _forget_removed(self, now: float) -> None:
        # Not at once: a removal that cannot be written is taken back.
        self._heard = {
            address: heard
            for address, heard in self._heard.items()
            if address in self.cluster.members or now - heard.at < self.timing.lost_after_s
        }

    def _tell_leap(self, hello: Hello, epoch: int) -> None:
        if epoch:
            self._tell(
                "epoch_leapt",
                hello.address,
                f"it held the map of epoch {hello.epoch}, which this control plane does not "
                "remember: was its state lost, or an old copy restored? What was settled since "
                "then has to be settled again",
            )

    def _known(self, address: str) -> Member:
        member = self.cluster.members.get(address)
        if member is None:
            raise RefusalError(
                Reason.NODE_UNKNOWN,
                f"no node {address!r} is in the pool; ListNodes names those that are",
            )
        return member

    def _replace(self, now: float, member: Member, **changes: Any) -> None:
        fresh = dataclasses.replace(member, **changes)
        self._settle(now, {**self.cluster.members, member.address: fresh})

    def _settle(self, now: float, members: Mapping[str, Member], **changes: Any) -> None:
        """These are the members from now on."""
        before, after = shares(self.cluster.members), shares(members)
        self.cluster = next_cluster(self.cluster, members=members, **changes)
        if before == after:
            return
        former = Former(before, self.cluster.epoch)
        self._formers = {
            until: time for until, time in self._formers.items() if now - time.ended < FORMER_S
        }
        self._formers[former.until] = _Time(now - self._shares_since, now)
        # What is in force again has been so before.
        again = [one for one in self.cluster.formers if one.shares == after]
        self._shares_since = now - sum(self._time(one).lasted_s for one in again)
        formers = [former, *(one for one in self.cluster.formers if one not in again)]
        formers = [one for one in formers if one.shares]
        if len(formers) > FORMERS_MAX:
            formers.remove(
                min(formers, key=lambda one: (self._drains(one), self._time(one).lasted_s))
            )
        self.cluster = dataclasses.replace(self.cluster, formers=tuple(formers))

    def _time(self, former: Former) -> _Time:
        return self._formers.get(former.until, _Time(math.inf, self._start))

    def _drains(self, former: Former) -> bool:
        """Whether blocks that it placed wait on a node to be moved."""
        members = self.cluster.members.values()
        return any(
            one.draining and not one.lost and one.address in former.shares for one in members
        )

    def _is_past(self, now: float, former: Former) -> bool:
        return now - self._time(former).ended >= FORMER_S and not self._drains(former)

    def _tell(self, kind: str, subject: str, text: str) -> None:
        self._happened.append(Happened(kind, subject, text))


def _words(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))


def _check_hello(hello: Hello) -> None:
    try:
        check_address(hello.address, "address")
    except ConfigError as error:
        raise RefusalError(Reason.INVALID, str(error)) from error
    if len(hello.address.encode()) > ADDRESS_BYTES_MAX or hello.address.endswith(":0"):
        raise RefusalError(
            Reason.INVALID,
            f"address: {hello.address!r} must be what clients reach the node by, "
            f"at most {ADDRESS_BYTES_MAX} bytes, with its real port",
        )
    if not 1 <= hello.weight <= WEIGHT_MAX:
        raise RefusalError(
            Reason.INVALID, f"weight: {hello.weight} is not between 1 and {WEIGHT_MAX}"
        )
    if len(hello.agent) != AGENT_BYTES:
        raise RefusalError(
            Reason.INVALID, f"agent: it has {AGENT_BYTES} bytes, not {len(hello.agent)}"
        )
    for name, most in (("failure_domain", DOMAIN_BYTES_MAX), ("software", SOFTWARE_BYTES_MAX)):
        text = getattr(hello, name)
        if len(text.encode()) > most or not text.isprintable():
            raise RefusalError(
                Reason.INVALID, f"{name}: at most {most} bytes of printable text, not {text!r:.80}"
            )


def _check_stats(stats: Mapping[str, int]) -> None:
    if len(stats) > STATS_MAX or any(len(name) > STAT_NAME_BYTES_MAX for name in stats):
        raise RefusalError(
            Reason.INVALID,
            f"stats: at most {STATS_MAX} numbers with names of {STAT_NAME_BYTES_MAX} bytes, "
            f"not {len(stats)}",
        )

"""One of several replicas: the state is in etcd, and one replica leads.

    PREFIX/leader               the leader's address; goes with its lease
    PREFIX/state                the state, as docs/formats/control-state.md has it
    PREFIX/state/SHA256/NUMBER  its parts, where it is too large for one request

Only the leader writes, in transactions that hold only while its key is the one that it made and the
state the one that it knows: a leader that was deposed and does not know it yet writes nothing. The
others watch both keys and publish what they find.

When a write may or may not have been done, or the lease was not confirmed in time, the leader
leaves its place and looks again; what it finds in etcd counts. So does its own lease, by which it
still leads when nobody took its place.

    _keep_lease   grants and confirms it          put       writes, for the keeper
    _look_on      reads, elects, follows          _lock     … one of these at a time
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from memkv_nixl._config import ControlSettings
from memkv_nixl._errors import ConfigError
from memkv_nixl.control._cluster import Cluster
from memkv_nixl.control._etcd import (
    Etcd,
    EtcdError,
    changed_at,
    etcd_of,
    made_at,
    read,
    remove,
    write,
)
from memkv_nixl.control._keeper import Keeper
from memkv_nixl.control._limits import ETCD_PART_BYTES_MAX
from memkv_nixl.control._memory import Loaded, UnwrittenError
from memkv_nixl.control._refused import Reason, RefusalError
from memkv_nixl.control._snapshot import DamagedError, decode, encode
from memkv_nixl.proto.etcd import rpc_pb2 as pb

_log = logging.getLogger(__name__)
_PARTS_MAGIC = b"memkv.control.parts/"
_VERSION = b"1"
_BEATS_PER_LEASE = 3
_RETRY_S = 0.25
_CALL_S = 5.0  # of one that is not about the lease


@dataclass(frozen=True)
class _View:
    """What etcd held at one revision."""

    revision: int
    leader: pb.KeyValue | None
    state: pb.KeyValue | None
    parts: Sequence[pb.KeyValue]


@dataclass(frozen=True)
class _Place:
    """What a leader's transactions hold by."""

    made: int  # the revision that made its key
    changed: int  # the revision of the state that it knows


class Replica:
    """This replica's side of it. `open`, then a keeper with it, then `start`; one event loop."""

    def __init__(
        self, settings: ControlSettings, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.where = f"etcd {','.join(settings.etcd)}, /memkv/{settings.pool}"
        prefix = f"/memkv/{settings.pool}".encode()
        self._leader_key = prefix + b"/leader"
        self._state_key = prefix + b"/state"
        self._etcd: Etcd = etcd_of(settings)
        self._clock = clock
        self._lease_s = settings.lease_s
        self._lease = 0
        self._confirmed_until = 0.0
        self._first: Cluster | None = None
        self._keeper: Keeper | None = None
        self._address = ""
        self._place: _Place | None = None
        self._leader = ""  # another replica's address
        self._trouble = ""  # why etcd does not answer
        self._lock = asyncio.Lock()
        self._again = asyncio.Event()  # look once more, without a change
        self._tasks: list[asyncio.Task[None]] = []

    # ---- at the start and the end

    async def open(self) -> None:
        """Reads the state, or writes a new pool's; waits for an etcd that does not answer."""
        while self._first is None:
            try:
                view = await self._view()
                if view.state is None:
                    fresh = Cluster(history=secrets.randbits(63) + 1)
                    await self._write(fresh, [made_at(self._state_key, 0)])
                    continue
                self._first = await self._cluster(view)
            except DamagedError as error:
                raise ConfigError(
                    f"{self.where}/state cannot be used: {error}. Put a backup there, of etcd or "
                    "of that key"
                ) from error
            except EtcdError as error:
                if str(error) != self._trouble:
                    _log.warning("%s; waiting for it", error)
                self._trouble = str(error)
                await asyncio.sleep(_RETRY_S)
        self._trouble = ""

    def start(self, keeper: Keeper, address: str) -> None:
        """Begins to follow or lead; `address` is what others reach this replica by."""
        self._keeper, self._address = keeper, address
        self._tasks = [
            asyncio.create_task(self._keep_lease(), name="memkv-control-lease"),
            asyncio.create_task(self._look_on(keeper), name="memkv-control-etcd"),
        ]

    async def failed(self) -> None:
        """Comes back, with the error, when one of its tasks has ended; it should not."""
        ended, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in ended:
            await task

    async def resign(self) -> None:
        """Leaves its place, so that another one leads at once; a write under way ends first."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        async with self._lock:
            self._leave("this replica stops, and another one will lead; try again")
            if self._lease:
                with contextlib.suppress(EtcdError):  # then the others wait until it has ended
                    await self._etcd.revoke(self._lease, 1.0)
                self._lease = 0

    async def release(self) -> None:
        """Hangs up."""
        await self.resign()
        await self._etcd.close()

    # ---- for the keeper

    def load(self) -> Loaded:
        """What `open` read."""
        return Loaded(self._first)

    def leads(self) -> bool:
        """Whether it has the leader's place, and its lease for sure."""
        return self._place is not None and self._clock() < self._confirmed_until

    def leader(self) -> str:
        """Another replica's address, when that leads."""
        return "" if self.leads() else self._leader

    def check_leads(self) -> None:
        """Refuses with who leads, or why nobody can tell."""
        if not self.leads():
            raise self._refusal()

    async def put(self, cluster: Cluster) -> None:
        """Writes it, as the leader; raises UnwrittenError when that is not sure."""
        keeper = self._keeper
        assert keeper is not None, "start() first"
        term = keeper.term
        async with self._lock:
            place = self._place
            if place is None or term.is_set() or keeper.term is not term:
                raise UnwrittenError("this replica does not lead any more")
            holds = [
                made_at(self._leader_key, place.made),
                changed_at(self._state_key, place.changed),
            ]
            try:
                changed = await self._write(cluster, holds)
            except EtcdError as error:
                if error.definite:
                    raise UnwrittenError(f"{error}; nothing was changed") from error
                self._trouble = str(error)
                self._leave(
                    f"{error}; whether this was changed is not known yet, and nobody was told: "
                    "send it again"
                )
                raise UnwrittenError(str(error)) from error
            if changed is None:
                self._leave("another replica leads; nothing was changed")
                raise UnwrittenError("another replica leads")
            if self._place is place:  # else it left meanwhile, and looks again
                self._place = _Place(place.made, changed)

    # ---- the lease

    async def _keep_lease(self) -> None:
        while True:
            try:
                pause_s = await self._beat()
            except EtcdError as error:
                self._trouble = self._trouble or str(error)
                _log.warning("the lease cannot be kept: %s", error)
                pause_s = _RETRY_S
            if self._place is not None and self._clock() >= self._confirmed_until:
                self._leave(f"the lease was not confirmed for {self._lease_s} s; try again")
            await asyncio.sleep(pause_s)

    async def _beat(self) -> float:
        """Has the lease begin anew, or a new one; gives how long that may wait."""
        deadline_s = self._lease_s / _BEATS_PER_LEASE
        sent = self._clock()
        if self._lease:
            seconds = await self._etcd.keep_alive(self._lease, deadline_s)
            if seconds <= 0:
                self._lease = 0
                self._leave("the lease has ended, so another replica may lead; try again")
                return 0
        else:
            self._lease, seconds = await self._etcd.grant(self._lease_s, deadline_s)
        if self._trouble or sent >= self._confirmed_until:  # it could not be sure of its lease
            self._again.set()
        self._confirmed_until = sent + seconds
        return deadline_s

    def _leave(self, why: str) -> None:
        """Does not lead any more, until it looked again."""
        self._again.set()
        if self._place is None:
            return
        self._place = None
        self._leader = ""
        assert self._keeper is not None
        self._keeper.step_down(RefusalError(self._refusal().reason, why))

    def _refusal(self) -> RefusalError:
        if self._trouble:
            return RefusalError(
                Reason.STATE_UNWRITABLE,
                f"{self._trouble}; until that is over nothing can be changed",
            )
        if self._leader:
            return RefusalError(
                Reason.NOT_LEADER,
                f"this replica does not lead, the one at {self._leader} does",
                self._leader,
            )
        return RefusalError(
            Reason.NOT_LEADER, "no replica leads at this moment; try again in a second"
        )

    # ---- what is in etcd

    async def _look_on(self, keeper: Keeper) -> None:
        while True:
            trouble = ""
            try:
                async with self._lock:
                    self._again.clear()
                    view = await self._view()
                    self._trouble = ""
                    view = await self._act(keeper, view)
                keeper.memory_is(True, f"{self.where} answers")
                await self._next_look(view.revision + 1)
            except DamagedError as error:
                trouble = self._trouble = f"{self.where}/state cannot be used: {error}"
                self._leave(trouble)
            except EtcdError as error:
                trouble = str(error)
            if trouble:
                self._trouble = trouble
                keeper.memory_is(False, trouble)
                await asyncio.sleep(_RETRY_S)

    async def _next_look(self, revision: int) -> None:
        """Comes back when the leader or the state changed, or it should look anyway."""
        end = self._state_key + b"\0"
        waits = [
            asyncio.ensure_future(self._etcd.next_change(self._leader_key, end, revision)),
            asyncio.ensure_future(self._again.wait()),
        ]
        try:
            ended, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for one in ended:
                one.result()
        finally:
            for one in waits:
                one.cancel()
            await asyncio.gather(*waits, return_exceptions=True)

    async def _act(self, keeper: Keeper, view: _View) -> _View:
        """Follows or leads by what is there; gives what is there then."""
        if view.state is None:  # somebody emptied etcd
            await self._write(keeper.published.cluster, [made_at(self._state_key, 0)])
            view = await self._view()
        if view.leader is None and self._is_sure():
            await self._stand()
            view = await self._view()
        cluster = await self._cluster(view)
        ours = view.leader is not None and view.leader.lease == self._lease and self._is_sure()
        if view.leader is not None and ours:
            assert view.state is not None
            place = _Place(view.leader.create_revision, view.state.mod_revision)
            if place != self._place:
                self._place, self._leader = place, ""
                keeper.lead(cluster)
        else:
            said = view.leader.value.decode(errors="replace") if view.leader is not None else ""
            self._place = None
            self._leader = said if said != self._address else ""  # ours, from before a restart
            keeper.follow(cluster, self._refusal())
        return view

    def _is_sure(self) -> bool:
        """Whether its lease has not ended, by its own clock."""
        return self._lease != 0 and self._clock() < self._confirmed_until

    async def _stand(self) -> None:
        """Takes the leader's place, if it is free still."""
        await self._etcd.txn(
            [made_at(self._leader_key, 0)],
            [write(self._leader_key, self._address.encode(), self._lease)],
            _CALL_S,
        )

    async def _view(self) -> _View:
        parts = self._state_key + b"/"
        reads = [read(self._leader_key), read(self._state_key), read(parts, _behind(parts))]
        answer = await self._etcd.txn([], reads, _CALL_S)
        leader, state, pieces = (one.response_range.kvs for one in answer.responses)
        return _View(
            answer.header.revision,
            leader[0] if leader else None,
            state[0] if state else None,
            pieces,
        )

    async def _cluster(self, view: _View) -> Cluster:
        """The state. Raises DamagedError."""
        if view.state is None:
            raise DamagedError("it is gone")
        content = view.state.value
        if content.startswith(_PARTS_MAGIC):
            words = content.split()
            if len(words) != 2 or words[0] != _PARTS_MAGIC + _VERSION:
                raise DamagedError("its parts are named in a way that this release does not know")
            ours = self._state_key + b"/" + words[1] + b"/"
            content = b"".join(part.value for part in view.parts if part.key.startswith(ours))
            if hashlib.sha256(content).hexdigest().encode() != words[1]:
                raise DamagedError("the SHA-256 of its parts is not the one that it names")
        return await asyncio.to_thread(decode, content, f"{self.where}/state")

    async def _write(self, cluster: Cluster, holds: Sequence[pb.Compare]) -> int | None:
        """Writes the state; gives the revision, None when the conditions do not hold (any more)."""
        content = await asyncio.to_thread(encode, cluster)
        parts = self._state_key + b"/"
        head, first, behind = content, parts, parts  # whose parts are not removed
        if len(content) > ETCD_PART_BYTES_MAX:
            digest = hashlib.sha256(content).hexdigest().encode()
            head = b"%b%b %b" % (_PARTS_MAGIC, _VERSION, digest)
            first = parts + digest + b"/"
            behind = _behind(first)
            for number, at in enumerate(range(0, len(content), ETCD_PART_BYTES_MAX)):
                key = first + b"%06d" % number
                piece = content[at : at + ETCD_PART_BYTES_MAX]
                answer = await self._etcd.txn(holds, [write(key, piece)], _CALL_S)
                if not answer.succeeded:
                    return None
        # Parts of former states, also of one that was never named, go with it.
        others = [(parts, first), (behind, _behind(parts))]
        removes = [remove(begin, end) for begin, end in others if begin < end]
        answer = await self._etcd.txn(holds, [write(self._state_key, head), *removes], _CALL_S)
        return answer.header.revision if answer.succeeded else None


def _behind(prefix: bytes) -> bytes:
    """The first key behind all that begin with the prefix, which does not end with 0xFF."""
    return prefix[:-1] + bytes([prefix[-1] + 1])

"""Replays a trace over simulated nodes, of which some are lost, under several rules of placement.

A request looks its blocks up, and what leads without a gap is usable; then it puts what was not
there. Blocks are placed in groups by the placement that clients have (docs/formats/placement.md).
At a moment some nodes are lost. Until the control plane notices, their groups are misses and what
is put there is gone; then the map changes, and they belong to others.

Which nodes are lost decides much, so that everything after the loss is simulated once for each
choice, and once more without a loss: what is compared are the same requests.
"""

from __future__ import annotations

import bisect
import dataclasses
import itertools
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from memkv_nixl._errors import UsageError
from memkv_nixl.plan._nodes import REWRITE_PERCENT, Node, SmallNode
from memkv_nixl.plan._trace import Trace

NODES_MAX = 1024  # as many as a map has
CHOICES_MAX = 4096
_NAMESPACE = bytes(16)
_WEIGHT = 100
_Run = tuple[int, tuple[int, ...]]  # the group, which is its first block, and its blocks


@dataclass(frozen=True)
class Rule:
    """How blocks are placed: `lead` blocks of a prompt each for itself, then runs of `group`."""

    group: int | None
    """None: all the rest of a prompt is one run."""
    copies: int = 1
    """2: a group that was asked for often lies on its second node, too."""
    lead: int = 0

    def __post_init__(self) -> None:
        if self.group is not None and self.group < 1:
            raise UsageError(f"--group-sizes: a group has 1 block or more, not {self.group}")
        if self.copies not in (1, 2):
            raise UsageError(f"--copies: a group has 1 copy or 2, not {self.copies}")
        if self.lead < 0:
            raise UsageError(f"--lead: {self.lead} is not a number of blocks")

    def runs(self, chain: Sequence[int]) -> Iterator[_Run]:
        """The groups of a request's blocks."""
        for block in chain[: self.lead]:
            yield block, (block,)
        step = self.group or max(1, len(chain))
        for start in range(self.lead, len(chain), step):
            yield chain[start], tuple(chain[start : start + step])


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The pool, and what happens to it."""

    nodes: int
    kill: int = 1
    kill_at: float = 0.5
    """After this share of the requests."""
    lost_after_s: float = 60.0
    """Seconds of the trace until the map is without them."""
    window: float = 0.05
    """The share of the requests over which a rate is taken."""
    choices: int = 8
    """So many choices of the nodes that are lost."""
    hot_after: int = 4
    """Look-ups that found a group before it gets its second copy."""
    capacity: int | None = None
    """Bytes of each node; None: there is always room."""
    block_bytes: int = 64 << 20
    rewrite_percent: int = REWRITE_PERCENT
    """Of a segment that is used again, so much may move to the tail; where `capacity` is said."""
    seed: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.nodes <= NODES_MAX:
            raise UsageError(f"--nodes: {self.nodes} is not between 1 and {NODES_MAX}")
        if not 0 <= self.kill < self.nodes:
            raise UsageError(f"--kill: {self.kill} of {self.nodes} nodes; one has to be left")
        for name in ("kill_at", "window"):
            if not 0 <= getattr(self, name) <= 1:
                flag = name.replace("_", "-")
                raise UsageError(f"--{flag}: {getattr(self, name)} is a share, between 0 and 1")
        if not self.lost_after_s >= 0:
            raise UsageError(f"--lost-after: {self.lost_after_s} is not a number of seconds")
        if not 0 <= self.rewrite_percent <= 100:
            raise UsageError(f"--frontier: {self.rewrite_percent} is no percentage")
        if self.choices > CHOICES_MAX:
            raise UsageError(f"--choices: {self.choices} is more than {CHOICES_MAX}")
        for name in ("choices", "hot_after", "block_bytes"):
            if getattr(self, name) < 1:
                raise UsageError(f"--{name.replace('_', '-')}: must be at least 1")


@dataclass(frozen=True)
class Row:
    """What one rule gave. Rates are blocks over blocks asked for; None where none was."""

    rule: Rule
    before: float | None
    """Usable in the window before the loss."""
    after: float | None
    """Usable in the window after the loss: the mean over the choices of lost nodes."""
    after_worst: float | None
    """The same for the worst choice."""
    after_without_loss: float | None
    """The same requests, had no node been lost."""
    end: float | None
    """Usable in the last window."""
    end_without_loss: float | None
    holes: float | None
    """In the window after the loss: there, but behind a gap."""
    nodes_asked: float
    """Nodes that hold the groups of one request, on the average."""
    parallel: float
    """Blocks of whole requests over those that come from the node that has most of each."""
    fullest: float
    """Blocks on the fullest node over the mean of all, without loss."""
    busiest: float
    """Blocks served by the busiest node over the mean of all, without loss."""
    copied: float
    """Second copies over first ones, at the end, without loss."""


@dataclass(frozen=True)
class Point:
    """What a budget of rewrites gave and cost, over the whole trace and without a loss."""

    rule: Rule
    rewrite_percent: int
    usable: float
    """Blocks usable over blocks asked for."""
    written: float
    """Blocks written over the trace's distinct blocks."""
    served_per_written: float
    """Blocks usable over blocks written: prefix tokens served per byte written, in blocks."""


@dataclass
class _Tally:
    asked: int = 0
    usable: int = 0
    there: int = 0

    def __iadd__(self, other: _Tally) -> _Tally:
        self.asked += other.asked
        self.usable += other.usable
        self.there += other.there
        return self


def replay(trace: Trace, plan: Plan, rules: Sequence[Rule]) -> Iterator[Row]:
    """A row for each rule, as soon as it is there."""
    lost = _choices(plan)
    for rule in rules:
        yield _Replay(trace, plan, rule).row(lost)


def frontier(
    trace: Trace, plan: Plan, rules: Sequence[Rule], percents: Sequence[int]
) -> Iterator[Point]:
    """A point for each rule and each budget of rewrites."""
    if plan.capacity is None:
        raise UsageError("--frontier: name the nodes' --capacity; nothing is rewritten without one")
    for rule, percent in itertools.product(rules, percents):
        one = dataclasses.replace(plan, rewrite_percent=percent)
        yield _Replay(trace, one, rule).point()


def _choices(plan: Plan) -> list[frozenset[int]]:
    """The nodes that are lost: all choices there are, or some of them."""
    if plan.kill == 0:
        return []
    if math.comb(plan.nodes, plan.kill) <= plan.choices:
        return [frozenset(c) for c in itertools.combinations(range(plan.nodes), plan.kill)]
    chance = random.Random(plan.seed)  # noqa: S311
    found: dict[frozenset[int], None] = {}
    while len(found) < plan.choices:
        found[frozenset(chance.sample(range(plan.nodes), plan.kill))] = None
    return list(found)


class _Replay:
    """One rule's replays. The moments at which something is cut are indices of requests."""

    def __init__(self, trace: Trace, plan: Plan, rule: Rule) -> None:
        count = len(trace.requests)
        self._rule = rule
        self._plan = plan
        self._trace = trace
        self._loss = int(count * plan.kill_at)
        width = max(1, int(count * plan.window))
        self._before = (max(0, self._loss - width), self._loss)
        self._after = (self._loss, min(count, self._loss + width))
        self._end = (max(self._loss, count - width), count)
        at = trace.times[self._loss] if self._loss < count else math.inf
        self._noticed = bisect.bisect_right(trace.times, at + plan.lost_after_s)
        self._runs = [list(rule.runs(chain)) for chain in trace.requests]
        self._groups = _Groups(self._runs, plan, rule)
        ends = (*self._before, *self._after, *self._end, self._noticed, count)
        self._cuts = sorted({0, *ends})

    def row(self, lost: Sequence[frozenset[int]]) -> Row:
        base = _Pool(self._trace, self._plan, self._groups)
        tallies = self._play(base, 0, self._loss)
        before = self._window(tallies, self._before)
        at_loss = base.copy()
        none_lost = self._play(base, self._loss, len(self._runs))
        worlds = []
        for dead in lost:
            pool = at_loss.copy()
            pool.lose(dead)
            worlds.append(self._play(pool, self._loss, len(self._runs), dead))
        worlds = worlds or [none_lost]
        after = [self._window(world, self._after) for world in worlds]
        end = [self._window(world, self._end) for world in worlds]
        nodes_asked, parallel = self._spread()
        return Row(
            rule=self._rule,
            before=_usable(before),
            after=_mean(map(_usable, after)),
            after_worst=min(
                (rate for rate in map(_usable, after) if rate is not None), default=None
            ),
            after_without_loss=_usable(self._window(none_lost, self._after)),
            end=_mean(map(_usable, end)),
            end_without_loss=_usable(self._window(none_lost, self._end)),
            holes=_mean(map(_holes, after)),
            nodes_asked=nodes_asked,
            parallel=parallel,
            fullest=_over_mean([len(node.held) for node in base.nodes]),
            busiest=_over_mean(base.served),
            copied=base.copied(),
        )

    def point(self) -> Point:
        pool = _Pool(self._trace, self._plan, self._groups)
        tally = pool.play(self._runs)
        written = sum(node.written for node in pool.nodes if isinstance(node, SmallNode))
        return Point(
            rule=self._rule,
            rewrite_percent=self._plan.rewrite_percent,
            usable=tally.usable / tally.asked if tally.asked else 0.0,
            written=written / len(self._trace.depths) if self._trace.depths else 0.0,
            served_per_written=tally.usable / written if written else 0.0,
        )

    def _play(
        self, pool: _Pool, start: int, stop: int, dead: frozenset[int] = frozenset()
    ) -> dict[int, _Tally]:
        """Tallies by the cut that each begins with."""
        tallies = {}
        for begin, end in itertools.pairwise(self._cuts):
            if start <= begin < stop:
                if begin == self._noticed and dead:
                    pool.change_map()
                tallies[begin] = pool.play(self._runs[begin:end])
        return tallies

    def _window(self, tallies: dict[int, _Tally], window: tuple[int, int]) -> _Tally:
        total = _Tally()
        for begin, tally in tallies.items():
            if window[0] <= begin < window[1]:
                total += tally
        return total

    def _spread(self) -> tuple[float, float]:
        """(nodes asked, parallel), as the row has them."""
        ranks = self._groups.ranks
        asked = blocks = slowest = 0
        for runs in self._runs:
            on: dict[int, int] = {}
            for group, run in runs:
                node = ranks[group][0]
                on[node] = on.get(node, 0) + len(run)
            asked += len(on)
            blocks += sum(on.values())
            slowest += max(on.values(), default=0)
        return asked / len(self._runs), blocks / slowest if slowest else 1.0


class _Groups:
    """What is known of all groups before anything is replayed."""

    def __init__(self, runs: Sequence[Sequence[_Run]], plan: Plan, rule: Rule) -> None:
        self.copies = rule.copies
        self.ranks = _ranks(runs, plan.nodes, min(plan.nodes, rule.copies + plan.kill))
        self.firsts = {group: ranked[:1] for group, ranked in self.ranks.items()}
        self.near: list[list[int]] = [[] for _ in range(plan.nodes)]
        """Of each node the groups that it may have a copy of."""
        for group, ranked in self.ranks.items():
            for node in ranked[: rule.copies]:
                self.near[node].append(group)
        self.blocks: dict[int, set[int]] = {}
        """Of each group, where there are second copies."""
        if rule.copies > 1:
            for request in runs:
                for group, blocks in request:
                    self.blocks.setdefault(group, set()).update(blocks)


class _Pool:
    """The nodes, and where groups lie on them."""

    def __init__(self, trace: Trace, plan: Plan, groups: _Groups) -> None:
        if plan.capacity is None:
            self.nodes = [Node() for _ in range(plan.nodes)]
        else:
            self.nodes = [
                SmallNode(plan.capacity, plan.block_bytes, trace.depths, plan.rewrite_percent)
                for _ in range(plan.nodes)
            ]
        self.served = [0] * plan.nodes
        self._groups = groups
        self._hot_after = plan.hot_after
        self._found: dict[int, int] = {}  # look-ups that found something of a group
        self._homes = groups.firsts.copy()  # the nodes that have a group, or are to, and answer
        self._dead: frozenset[int] = frozenset()
        self._map_is_old = False

    def copy(self) -> _Pool:
        """Another pool that has the same."""
        other = object.__new__(_Pool)
        other.__dict__.update(self.__dict__)
        other.nodes = [node.copy() for node in self.nodes]
        other.served = self.served.copy()
        other._found = self._found.copy()
        other._homes = self._homes.copy()
        return other

    def lose(self, dead: frozenset[int]) -> None:
        """These nodes are gone; the map still has them."""
        self._dead = dead
        self._map_is_old = True
        self._find_homes()

    def change_map(self) -> None:
        """The map is without them."""
        self._map_is_old = False
        self._find_homes()

    def copied(self) -> float:
        """Blocks that lie on two nodes over those that there are."""
        total = sum(len(node.held) for node in self.nodes)
        distinct = len(set().union(*(node.held for node in self.nodes)))
        return (total - distinct) / distinct if distinct else 0.0

    def play(self, requests: Sequence[Sequence[_Run]]) -> _Tally:
        """Every request looks up, then puts."""
        asked = usable = present = 0
        homes_of, nodes, served = self._homes, self.nodes, self.served
        one_copy = self._groups.copies == 1
        for runs in requests:
            whole = True  # no gap so far
            for group, blocks in runs:
                homes = homes_of[group]
                wanted = len(blocks)
                asked += wanted
                if not homes:
                    whole = False
                    continue
                home = homes[0]
                if one_copy:
                    leading, there = nodes[home].find(blocks)
                    if there < wanted:
                        nodes[home].put(blocks)
                else:
                    home, leading, there = self._find(homes, blocks)
                    self._put(group, blocks, there)
                present += there
                if whole:
                    usable += leading
                    served[home] += leading
                    whole = leading == wanted
        return _Tally(asked, usable, present)

    def _find(self, homes: Sequence[int], blocks: Sequence[int]) -> tuple[int, int, int]:
        """(node, leading, all) of the one that has most; of two that have as much the idler."""
        home = homes[0]
        leading, there = self.nodes[home].find(blocks)
        for other in homes[1:]:
            more, there_too = self.nodes[other].find(blocks)
            if (more, -self.served[other]) > (leading, -self.served[home]):
                home, leading, there = other, more, there_too
        return home, leading, there

    def _put(self, group: int, blocks: Sequence[int], there: int) -> None:
        """To all homes of the group, of which there may be one more from now on."""
        if there > 0:
            self._found[group] = found = self._found.get(group, 0) + 1
            if found == self._hot_after:
                self._copy_group(group)
        for home in self._homes[group]:
            self.nodes[home].put(blocks)

    def _copy_group(self, group: int) -> None:
        """What its first node has of it comes to its second."""
        homes = self._homes[group] = self._homes_of(group)
        has = self.nodes[homes[0]].held
        for home in homes[1:]:
            self.nodes[home].put(sorted(has.intersection(self._groups.blocks[group])))

    def _find_homes(self) -> None:
        """Anew, where a node that was lost is concerned."""
        for node in self._dead:
            for group in self._groups.near[node]:
                self._homes[group] = self._homes_of(group)

    def _homes_of(self, group: int) -> tuple[int, ...]:
        copies = 1
        if self._groups.copies > 1 and self._found.get(group, 0) >= self._hot_after:
            copies = self._groups.copies
        ranked, dead = self._groups.ranks[group], self._dead
        if self._map_is_old:
            ranked = ranked[:copies]
        return tuple(node for node in ranked if node not in dead)[:copies]


def _ranks(runs: Sequence[Sequence[_Run]], nodes: int, count: int) -> dict[int, tuple[int, ...]]:
    """The best nodes of each group; without the dead ones of them it is what a later map says."""
    from memkv_nixl import _native

    groups = sorted({group for request in runs for group, _ in request})
    names = [b"%d" % group for group in groups]
    ids = [_native.node_id_of(f"node-{index}.memkv.test:9900") for index in range(nodes)]
    found = _native.place_ranked(_NAMESPACE, names, [(node, _WEIGHT) for node in ids], count)
    return dict(zip(groups, map(tuple, found), strict=True))


def _usable(tally: _Tally) -> float | None:
    return tally.usable / tally.asked if tally.asked else None


def _holes(tally: _Tally) -> float | None:
    return (tally.there - tally.usable) / tally.asked if tally.asked else None


def _mean(rates: Iterator[float | None]) -> float | None:
    known = [rate for rate in rates if rate is not None]
    return sum(known) / len(known) if known else None


def _over_mean(counts: Sequence[int]) -> float:
    total = sum(counts)
    return max(counts) * len(counts) / total if total else 1.0

"""One run of faults: rounds of kills and broken links under load, and what was promised of them.

    python -m tests.faults.story SEED KILLS FOLDER

as root, in a network and a process namespace of its own (test_faults.py). It prints what it does
as it does it, and at the end one document. The seed chooses what is done, not what others are at
when it is done.
"""

from __future__ import annotations

import contextlib
import json
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from memkv_nixl._errors import CODES
from memkv_nixl._native import Client
from memkv_nixl._placement import PlacementNode, group_fingerprint, node_id_of, place
from tests.faults.load import DEADLINE_MS, HANGS_MS, SPACE, content
from tests.faults.network import Machine
from tests.faults.noise import Noise
from tests.faults.pool import Node, Pool, pool
from tests.faults.supervisor import Kept

LOADS = 2
MISS_WITHIN_S = 1.0
REJOINED_WITHIN_S = 10.0
STARTED_WITHIN_S = 60.0  # the whole pool, from nothing
KILLS_AT_A_TIME = 5
BROKEN_S = (0.3, 3.0)
LONG_BROKEN_S = (5.0, 8.0)  # behind which the pauses of whoever tries again are long
LONG_OF = 7  # of so many breaks one is long
KINDS = ("memkvd", "agent", "node", "replica", "leader", "etcd")
BREAKS = ("cut", "cut", "cut", "slowed", "slowed")
BREAKS_AT_A_TIME = (0, 1, 1, 2)

Card = TypeVar("Card")


class Deck(Generic[Card]):
    """Cards in an order by chance, and every one of them before any comes again: what a run has to
    have is not left to luck."""

    def __init__(self, cards: Sequence[Card], rng: random.Random) -> None:
        self._cards, self._rng = cards, rng
        self._left: list[Card] = []

    def draw(self) -> Card:
        if not self._left:
            self._left = self._rng.sample(self._cards, len(self._cards))
        return self._left.pop()

    def put_back(self, card: Card) -> None:
        """It could not be played, and its turn comes again before any other's second."""
        self._left.insert(self._rng.randint(0, len(self._left)), card)


Waits = dict[str, dict[int, float]]


def held_up_s(before: Waits, now: Waits) -> float:
    """How long processes had to wait for a core meanwhile: the worst of each kind, added up, since
    an agent waits for a leader, and that for etcd."""
    return sum(
        max(waited - before.get(kind, {}).get(pid, 0.0) for pid, waited in of_kind.items())
        for kind, of_kind in now.items()
    )


class Observer:
    """A client that knows where each of its blocks lies."""

    def __init__(self, nodes: list[Node]) -> None:
        self._nodes = nodes
        self._client = Client([node.address for node in nodes], name="obs", timeout_ms=DEADLINE_MS)
        self._made = 0
        self._kept: list[bytes] = []  # of each node, one that is there

    def close(self) -> None:
        self._client.close()

    def key_of(self, node: Node) -> bytes:
        """A key that was never used, whose place is this node when all are in the map."""
        map_ = [PlacementNode(node_id_of(one.address), 100) for one in self._nodes]
        while True:
            self._made += 1
            key = b"observed.%d" % self._made
            if place(group_fingerprint(SPACE, key), map_) == node.index:
                return key

    def serves(self, node: Node) -> str:
        """Why a block cannot be put and got there; empty: it can."""
        key = self.key_of(node)
        block = content(key, 0)
        (code,) = self._wait(self._client.put(SPACE, [key], [block]))
        if code != "ok":
            return f"node {node.index} answers a put with {code}"
        (code,) = self.get([key])
        return "" if code == "ok" else f"node {node.index} answers a get with {code}"

    def get(self, keys: list[bytes]) -> list[str]:
        """Each one's code; `wrong` when other bytes came."""
        blocks = [content(key, 0) for key in keys]
        targets = [np.zeros_like(block) for block in blocks]
        codes = self._wait(self._client.get(SPACE, keys, targets))
        for at, (block, target) in enumerate(zip(blocks, targets, strict=True)):
            if codes[at] == "ok" and not np.array_equal(block, target):
                codes[at] = "wrong"
        return codes

    def keep(self, node: Node) -> bytes:
        """A key that lies there now."""
        while True:
            key = self.key_of(node)
            if self._wait(self._client.put(SPACE, [key], [content(key, 0)])) == ["ok"]:
                return key

    @staticmethod
    def _wait(request: Any) -> list[str]:
        assert request.wait(HANGS_MS), "a request has no end"
        return [CODES[code] for code in request.codes()]


class Loads:
    """The processes that work meanwhile."""

    def __init__(self, seed: int, addresses: list[str]) -> None:
        base = [sys.executable, "-m", "tests.faults.load", str(seed)]
        self._processes = [
            subprocess.Popen(
                [*base, str(number), ",".join(addresses)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for number in range(LOADS)
        ]

    def ended(self) -> list[dict[str, Any]]:
        """Ends them; their documents."""
        documents = []
        for process in self._processes:
            out, _ = process.communicate()
            assert process.returncode == 0, f"a load ended with {process.returncode}"
            documents.append(json.loads(out))
        return documents


class Story:
    """The rounds."""

    def __init__(self, seed: int, kills: int, pool_: Pool, noise: Noise) -> None:
        self._rng = random.Random(seed)
        self._kills_left = kills
        self._pool, self._noise = pool_, noise
        self._kinds = Deck(KINDS, self._rng)
        self._machines = Deck(pool_.machines, self._rng)
        self._breaks = Deck(BREAKS, self._rng)
        self._breaks_at_a_time = Deck(BREAKS_AT_A_TIME, self._rng)
        self._long = Deck([number == 0 for number in range(LONG_OF)], self._rng)
        self._began = time.monotonic()
        self._observer = Observer(pool_.nodes)
        self._troubles: list[str] = []
        self._killed: Counter[str] = Counter()
        self._links: Counter[str] = Counter()
        self._answered: list[tuple[str, float]] = []  # after a kill or a cut: code, seconds
        self._healed: list[float] = []
        self._held_up = 0.0
        self._back: list[
            Callable[[], float]
        ] = []  # wait for what was killed; give when it was back

    def tell(self, sentence: str) -> None:
        """One line of the journal."""
        print(f"{time.monotonic() - self._began:8.3f}  {sentence}", file=sys.stderr, flush=True)

    def trouble(self, sentence: str) -> None:
        self.tell(f"TROUBLE: {sentence}")
        self._troubles.append(sentence)

    def run(self, seed: int) -> dict[str, Any]:
        """Everything; gives the document."""
        self._expect_well(time.monotonic(), STARTED_WITHIN_S, self._pool.waits())
        loads = Loads(seed, self._pool.addresses)
        while self._goes_on() and not self._troubles:
            self._round()
        documents = loads.ended()
        self._observer.close()
        counts = sum((Counter(one["counts"]) for one in documents), Counter[str]())
        return {
            "troubles": self._troubles + [line for one in documents for line in one["troubles"]],
            "killed": dict(self._killed),
            "links": {**self._links, "slow": self._pool.network.slow_words},
            "counts": dict(sorted(counts.items())),
            "answered": Counter(code for code, _ in self._answered),
            "answered_s": round(max((took for _, took in self._answered), default=0.0), 3),
            "healed_s": [round(seconds, 1) for seconds in sorted(self._healed)],
            "held_up_s": round(self._held_up, 1),
            "past_deadline_ms": max(one["past_deadline_ms"] for one in documents),
            "noise_ms": max(one["noise_ms"] for one in documents),
            "took_s": round(time.monotonic() - self._began, 1),
        }

    def _goes_on(self) -> bool:
        """Also a run of few kills has links that are cut, and slowed."""
        return self._kills_left > 0 or not all(self._links[how] for how in BREAKS)

    def _round(self) -> None:
        """Faults that overlap, then all is mended, and then all has to be well again in time."""
        rng, before = self._rng, self._pool.waits()
        faults = [self._kill_one] * min(rng.randint(1, KILLS_AT_A_TIME), self._kills_left)
        faults += [self._break_link] * self._breaks_at_a_time.draw()
        rng.shuffle(faults)
        links = [fault() for fault in faults]
        ended = [self._mend(*link) for link in links if link is not None]
        ended += [wait() for wait in self._back]
        self._back = []
        self._expect_well(max(ended, default=time.monotonic()), REJOINED_WITHIN_S, before)

    # ---- what is done

    def _kill_one(self) -> None:
        """One of the next kind. It does not count while who is meant does not run: the turn of this
        kind comes again."""
        kind = self._kinds.draw()
        node = self._rng.choice(self._pool.nodes)
        began, memkvd_died = time.monotonic(), False
        if kind in ("memkvd", "agent", "node"):
            who = f"{kind} {node.index}"
            killed = [self._kill(node.agent)] if kind != "memkvd" else []
            if kind != "agent":
                memkvd_died = node.kill_memkvd()
                killed.append(memkvd_died)
        elif kind == "etcd":
            who, killed = kind, [self._kill(self._pool.etcd)]
        else:
            who, killed = self._kill_replica(leads=kind == "leader")
        if any(killed):
            self.tell(f"kill -9: {who}")
        if all(killed):
            self._kills_left -= 1
            self._killed[kind] += 1
        else:
            self._kinds.put_back(kind)
        if memkvd_died:
            self._back.append(lambda: began)
            self._look([node], began)

    def _kill_replica(self, *, leads: bool) -> tuple[str, list[bool]]:
        """The one that leads, or one that does not."""
        leader = self._pool.leader()
        if not leads:
            index = self._rng.choice([i for i in range(len(self._pool.replicas)) if i != leader])
            return f"replica {index}", [self._kill(self._pool.replicas[index].process)]
        if leader is None:
            return "", [False]
        return f"replica {leader}, which leads", [self._kill(self._pool.replicas[leader].process)]

    def _kill(self, process: Kept) -> bool:
        """Whether it ran."""
        starts = process.kill()
        if starts is None:
            return False

        def back() -> float:
            process.wait_started(starts)
            return process.started_at

        self._back.append(back)
        return True

    def _break_link(self) -> tuple[Machine, float] | None:
        machine = self._machines.draw()
        if machine.is_cut or machine.slowed:
            self._machines.put_back(machine)
            return None
        how = self._breaks.draw()
        cut, length = how == "cut", self._rng.uniform(*self._lengths())
        self._links[how] += 1
        self.tell(
            f"{'cut' if cut else 'slow'} for {length:.1f} s or more: the link of {machine.name}"
        )
        began = time.monotonic()
        if not cut:
            machine.slow()
        else:
            machine.cut()
            everywhere = machine is self._pool.here
            gone = [one for one in self._pool.nodes if everywhere or one.machine is machine]
            if gone:
                self._look(gone, began)
        return machine, began + length

    def _lengths(self) -> tuple[float, float]:
        return LONG_BROKEN_S if self._long.draw() else BROKEN_S

    def _mend(self, machine: Machine, not_before: float) -> float:
        """Requests fill the time until then."""
        while time.monotonic() < not_before:
            keys = [self._observer.key_of(node) for node in self._pool.nodes]
            self._judge_observed(self._observer.get(keys))
        self.tell(f"heal: the link of {machine.name}")
        machine.heal()
        self._links["healed"] += 1
        return time.monotonic()

    # ---- what is promised

    def _look(self, nodes: list[Node], since: float) -> None:
        """A block of a node that is gone is a miss in time; or it is there again already."""
        codes = self._observer.get([self._kept[node.index] for node in nodes])
        now = time.monotonic()
        took = now - since
        self._answered += [(code, took) for code in codes]
        where = ", ".join(str(node.index) for node in nodes)
        self.tell(f"a block of node {where}: {', '.join(codes)} after {took:.3f} s")
        self._judge_observed(codes)
        if took > MISS_WITHIN_S + self._noise.worst(since, now):
            self.trouble(f"that is more than {MISS_WITHIN_S} s")

    def _judge_observed(self, codes: list[str]) -> None:
        wrong = set(codes) - {"ok", "not_found", "unreachable", "timeout", "busy", "shutdown"}
        if wrong:
            self.trouble(f"the observer's get was answered {', '.join(wrong)}")

    def _expect_well(self, since: float, within_s: float, before: Waits) -> None:
        """The map has every node, and every node serves, without anybody having done a thing; but
        for as long as the machine let processes wait that needed one another."""
        while True:
            wrong, took = self._what_is_wrong(), time.monotonic() - since
            if not wrong or took > within_s + held_up_s(before, self._pool.waits()):
                break
        if wrong:
            self.trouble(f"{took:.1f} s after the last restart or heal: {wrong}")
            for process in self._pool.processes:
                self.tell(f"the log of {process.what} ends with\n{process.last_words()}")
            return
        held_up = held_up_s(before, self._pool.waits())
        self.tell(
            f"all is well, {took:.1f} s after the last restart or heal; the machine let processes "
            f"wait for {held_up:.1f} s"
        )
        self._kept = [self._observer.keep(node) for node in self._pool.nodes]
        if within_s == REJOINED_WITHIN_S:
            self._healed.append(took)
            self._held_up = max(self._held_up, held_up)

    def _what_is_wrong(self) -> str:
        wrong = self._pool.what_is_wrong()
        return wrong or next(filter(None, map(self._observer.serves, self._pool.nodes)), "")


@contextlib.contextmanager
def story(seed: int, kills: int, folder: Path) -> Iterator[Story]:
    """One whose pool runs."""
    with Noise() as noise, pool(folder) as pool_:
        yield Story(seed, kills, pool_, noise)


if __name__ == "__main__":
    with story(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])) as told:
        print(json.dumps(told.run(int(sys.argv[1]))))

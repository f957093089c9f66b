"""An engine's process under faults: it puts, gets and drops blocks and judges every answer.

    python -m tests.faults.load SEED NUMBER NODE,NODE,…

runs until its standard input ends and then prints one document: what it counted, and what was
wrong.

A block's bytes follow from its key and version. A key has one version at a time: the next one is
put only behind a drop that was answered `ok`, so there is never a doubt about which bytes may come.
Keys that are shared by all such processes have one version for good.
"""

from __future__ import annotations

import hashlib
import json
import random
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memkv_nixl._errors import CODES
from memkv_nixl._namespace import namespace_id
from memkv_nixl._native import Client, Request
from tests.faults.noise import Noise

SPACE = namespace_id("faults")
DEADLINE_MS = 800
HANGS_MS = 60_000  # for the sake of an end, when a request has none
SLACK_S = 0.05  # for what follows the client's own timer, on a quiet machine
THREADS = 2
SLOTS = 48  # keys of its own that a thread works with
SHARED = 96
PAUSE_S = 0.004  # between two requests of a thread: an engine computes, too
EPOCHS_MAX = 3  # a drop reaches where the last four maps had a block: docs/guarantees.md
SIZES = (1, 4096, 65_537, 131_072, 262_144)
MISSES = {"not_found", "corrupt", "busy", "timeout", "unreachable", "shutdown"}
UNPUT = {"busy", "timeout", "unreachable", "shutdown", "no_space"}
UNDROPPED = {"not_found", "busy", "timeout", "unreachable", "shutdown"}
_POOL = np.random.default_rng(7).integers(0, 1 << 63, max(SIZES) // 8 + 1, np.uint64)
_UNTOUCHED = 0xEE

Bytes = NDArray[np.uint8]


def content(key: bytes, version: int) -> Bytes:
    """A block's bytes: no two blocks have a word in common at one place."""
    digest = hashlib.blake2b(key + b"/%d" % version, digest_size=8).digest()
    mixed = (_POOL ^ np.frombuffer(digest, np.uint64)[0]).view(np.uint8)
    return mixed[: SIZES[key[-1] % len(SIZES)]].copy()


@dataclass
class Slot:
    """A key and what is known of it."""

    key: bytes
    version: int = 0
    put: bool = False  # this version, or a try of it
    epoch: int = 0  # of the client's map, before the first put of this version


@dataclass
class Judge:
    """What was counted, and what was wrong. Safe from any thread."""

    counts: Counter[str] = field(default_factory=Counter)
    troubles: list[str] = field(default_factory=list)
    late: list[tuple[float, float, str]] = field(default_factory=list)  # began, ended, what
    lock: threading.Lock = field(default_factory=threading.Lock)

    def counted(self, what: str, codes: list[str], allowed: set[str]) -> None:
        with self.lock:
            self.counts.update(f"{what} {code}" for code in codes)
        for code in codes:
            if code not in allowed:
                self.trouble(f"a {what} was answered {code}")

    def trouble(self, sentence: str) -> None:
        with self.lock:
            self.troubles.append(f"{time.monotonic():.3f} {sentence}")

    def took(self, what: str, began: float, ended: float) -> None:
        with self.lock:
            self.counts["requests"] += 1
            if ended - began > DEADLINE_MS / 1000:
                self.late.append((began, ended, what))


def too_late(judge: Judge, noise: Noise) -> tuple[list[str], float]:
    """Requests that were over later than the machine's own lateness explains; the worst excess."""
    found, worst = [], 0.0
    for began, ended, what in judge.late:
        excess = ended - began - DEADLINE_MS / 1000
        allowed = SLACK_S + noise.worst(began, ended)
        worst = max(worst, excess)
        if excess > allowed:
            found.append(
                f"{ended:.3f} a {what} was over {excess * 1000:.0f} ms past its deadline, and this "
                f"machine explains {allowed * 1000:.0f} ms of that"
            )
    return found, worst


class Worker:
    """One thread's blocks and requests."""

    def __init__(self, name: str, client: Client, judge: Judge, rng: random.Random) -> None:
        self._name, self._client, self._judge, self._rng = name, client, judge, rng
        self._made = 0
        self._slots = [self._fresh() for _ in range(SLOTS)]
        self._quiet: deque[Bytes] = deque()  # targets of gets that are over

    def run(self, stopping: threading.Event) -> None:
        """Works until then. Whatever it runs into is a trouble, not silence."""
        try:
            while not stopping.wait(PAUSE_S):
                self._step()
            self._judge_quiet(0)
        except Exception as error:  # noqa: BLE001 - told, and the test fails of it
            self._judge.trouble(f"a thread ended: {error!r}")

    def _step(self) -> None:
        if self._rng.random() < 0.3:
            self._work_shared()
            return
        slots = self._rng.sample(self._slots, self._rng.randint(1, 6))
        do = self._rng.random()
        if do < 0.3:
            self._put(slots)
        elif do < 0.92:
            self._get(slots)
        else:
            self._drop(slots)

    def _fresh(self) -> Slot:
        self._made += 1
        return Slot(f"{self._name}.{self._made}.".encode() + self._rng.randbytes(1))

    def _ask(self, what: str, begin: Callable[[], Request]) -> list[str]:
        began = time.monotonic()
        request = begin()
        over = request.wait(HANGS_MS)
        self._judge.took(what, began, time.monotonic())
        if not over:
            raise RuntimeError(f"a {what} has no end")
        return [CODES[code] for code in request.codes()]

    def _epoch(self) -> int:
        return self._client.stats()["epoch"]

    def _put(self, slots: list[Slot]) -> list[str]:
        epoch = self._epoch()
        for slot in slots:
            if not slot.put:
                slot.put, slot.epoch = True, epoch
        keys = [slot.key for slot in slots]
        blocks = [content(slot.key, slot.version) for slot in slots]
        codes = self._ask("put", lambda: self._client.put(SPACE, keys, blocks))
        self._judge.counted("put", codes, {"ok", "exists"} | UNPUT)
        return codes

    def _get(self, slots: list[Slot]) -> None:
        keys = [slot.key for slot in slots]
        wanted = [content(slot.key, slot.version) for slot in slots]
        targets = [np.full_like(block, _UNTOUCHED) for block in wanted]
        codes = self._ask("get", lambda: self._client.get(SPACE, keys, targets))
        self._judge.counted("get", codes, {"ok"} | MISSES)
        for slot, block, target, code in zip(slots, wanted, targets, codes, strict=True):
            if code == "ok":
                self._check(slot, block, target)
            target.fill(_UNTOUCHED)
            self._quiet.append(target)
        self._judge_quiet(64)

    def _check(self, slot: Slot, block: Bytes, target: Bytes) -> None:
        if slot.put and np.array_equal(block, target):
            return
        was = f"block {slot.key!r} version {slot.version}"
        for version in range(slot.version + 1):
            if np.array_equal(content(slot.key, version), target):
                self._judge.trouble(f"{was}, put: {slot.put}: a get gave the version {version}")
                return
        self._judge.trouble(
            f"{was}: {int((block != target).sum())} of {block.size} bytes are wrong"
        )

    def _judge_quiet(self, keep: int) -> None:
        """No byte is written once a request is over."""
        while len(self._quiet) > keep:
            if not (self._quiet.popleft() == _UNTOUCHED).all():
                self._judge.trouble("a byte was written after its get was over")

    def _drop(self, slots: list[Slot]) -> None:
        keys = [slot.key for slot in slots]
        codes = self._ask("drop", lambda: self._client.drop(SPACE, keys))
        self._judge.counted("drop", codes, {"ok"} | UNDROPPED)
        epoch = self._epoch()
        dropped = []
        for slot, code in zip(slots, codes, strict=True):
            if code != "ok":
                continue
            if slot.put and epoch - slot.epoch > EPOCHS_MAX:
                self._judge.counts["forgotten"] += 1
                self._slots[self._slots.index(slot)] = self._fresh()
                continue
            slot.version, slot.put = slot.version + 1, False
            dropped.append(slot)
        if dropped and self._rng.random() < 0.5:
            self._get(dropped)  # none of them may come

    def _work_shared(self) -> None:
        numbers = self._rng.sample(range(SHARED), 4)
        slots = [Slot(b"shared.%d." % n + bytes([n % 251]), put=True) for n in numbers]
        if self._rng.random() < 0.25:
            self._put(slots)
        else:
            self._get(slots)


def work(seed: int, number: int, nodes: list[str]) -> dict[str, Any]:
    """All of it; gives the document."""
    judge, stopping = Judge(), threading.Event()
    client = Client(nodes, name=f"load{number}", timeout_ms=DEADLINE_MS)
    with Noise() as noise:
        workers = [
            Worker(f"{number}.{i}", client, judge, random.Random(f"{seed} {number} {i}"))
            for i in range(THREADS)
        ]
        threads = [threading.Thread(target=one.run, args=(stopping,)) for one in workers]
        for thread in threads:
            thread.start()
        sys.stdin.read()
        stopping.set()
        for thread in threads:
            thread.join()
    client.close()
    late, worst = too_late(judge, noise)
    return {
        "counts": dict(sorted(judge.counts.items())),
        "troubles": judge.troubles + late,
        "past_deadline_ms": round(worst * 1000, 1),
        "noise_ms": round(noise.worst() * 1000, 1),
    }


if __name__ == "__main__":
    print(json.dumps(work(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3].split(","))))
